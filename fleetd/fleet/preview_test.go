package fleet

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"groundswell/topics"
)

func previewInput() PreviewInput {
	policy := Policy{Settle: Duration(time.Minute), Waves: []WavePolicy{
		{10, Duration(30 * time.Minute), Duration(29 * time.Minute)}, // over after an hour
		{100, Duration(2 * time.Hour), 0},
	}}
	return PreviewInput{
		Rollout: Rollout{Policy: policy, Waves: NewWaves(policy, "")},
		Release: Release{Length: 10_000, Index: &topics.Document{Length: 100}},
		Sources: []DeltaSource{
			{From: "1.0.0", Devices: 100, State: DeltaReady, Delta: topics.Document{Length: 850}},
			{From: "0.9.0", Devices: 10, State: DeltaFailed},
			{From: "0.8.0", Devices: 5, State: DeltaReady, Delta: topics.Document{Length: 7000}, Canary: 5},
		},
		Unknown: 2, UnknownCanary: 1,
		Deltas: &topics.Document{Length: 50},
	}
}

func sources(p Preview) string {
	var all []string
	for _, s := range p.Sources {
		all = append(all, fmt.Sprintf("%d of %q %s %d %d", s.Devices, s.From, s.Way, s.Each, s.Bytes))
	}
	return strings.Join(all, "; ")
}

func steps(p Preview) string { return fmt.Sprint(p.Step, " ", p.Steps, " ", p.Peak, " ", p.Ends) }

func TestAPreviewCountsWhatEachDeviceNeeds(t *testing.T) {
	in := previewInput()
	p := NewPreview(in)
	const want = `100 of "1.0.0" delta 1000 100000; 10 of "0.9.0" full 10100 101000; 5 of "0.8.0" delta 7150 35750; 2 of "" full 10100 20200`
	if got := sources(p); got != want || p.Devices != 117 || p.Unknown != 2 || p.Bytes != 256_950 {
		t.Errorf("%d devices, %d unknown, %d bytes\ngot  %s\nwant %s", p.Devices, p.Unknown, p.Bytes, got, want)
	}
	in.Sources[0].Index, in.Sources[1].Index, in.IndexDeltas = "a", "b", map[string]int64{"": 1, "a": 10}
	const known = `100 of "1.0.0" delta 910 91000; 10 of "0.9.0" full 10100 101000; 5 of "0.8.0" delta 7150 35750; 2 of "" full 10100 20200`
	if got := sources(NewPreview(in)); got != known {
		t.Errorf("with a delta of the block index\ngot  %s\nwant %s", got, known)
	}
	in.Packed = 4000
	if got := sources(NewPreview(in)); !strings.Contains(got, `10 of "0.9.0" packed 4100 41000`) {
		t.Errorf("packed: %s", got)
	}
	in.Release.Index = nil // no deltas, no packed blocks
	in.Sources[0].State = DeltaNone
	if got := sources(NewPreview(in)); !strings.Contains(got, `100 of "1.0.0" full 10000 1000000`) {
		t.Errorf("without an index: %s", got)
	}
}

func TestAPreviewLaysTheBytesOutOverTheWaves(t *testing.T) {
	in := previewInput()
	// A tenth in the first half hour; the rest from hour 1 to 3.
	if got := steps(NewPreview(in)); got != "1h0m0s [{0s 25695} {1h0m0s 115628} {2h0m0s 115628}] 115628 3h0m0s" {
		t.Errorf("got %s", got)
	}
	// The canary cohort comes first, all at once; it has soaked as long as the first wave.
	in.Rollout.CanaryCohort, in.Rollout.Waves = "ours", NewWaves(in.Rollout.Policy, "ours")
	canary := 5*7150 + 10100
	if got := NewPreview(in); got.Steps[0].Bytes != int64(math.Round(float64(canary)+0.1*float64(256_950-canary))) || got.Ends != 3*time.Hour+30*time.Minute {
		t.Errorf("got %s, canary %d", steps(got), canary)
	}
	// Who is not reached costs nothing.
	in = previewInput()
	in.Rollout.Waves = in.Rollout.Waves[:1]
	if got := NewPreview(in); got.Bytes != 25_695 || steps(got) != "1h0m0s [{0s 25695}] 25695 30m0s" {
		t.Errorf("%d bytes, %s", got.Bytes, steps(got))
	}
	// Long ones in few steps, and all bytes are there.
	in = previewInput()
	for i := range in.Rollout.Waves {
		in.Rollout.Waves[i].Spread = Duration(300 * 24 * time.Hour)
	}
	got, sum := NewPreview(in), int64(0)
	for _, s := range got.Steps {
		sum += s.Bytes
	}
	if len(got.Steps) > maxSteps+1 || sum < got.Bytes-maxSteps || sum > got.Bytes+maxSteps || got.Step != 20*time.Hour {
		t.Errorf("%d steps of %v with %d of %d bytes", len(got.Steps), got.Step, sum, got.Bytes)
	}
	// The largest fleet with the largest artifact.
	in = previewInput()
	in.Release.Length, in.Sources[1].Devices = topics.MaxArtifact, math.MaxInt64/4
	if got := NewPreview(in); got.Bytes < math.MaxInt64/2 {
		t.Errorf("%d bytes", got.Bytes)
	}
}

// TestWavesTakeTheirShareOfAllDevices, also of those that are done.
func TestWavesTakeTheirShareOfAllDevices(t *testing.T) {
	policy := Policy{Settle: Duration(time.Hour), Waves: []WavePolicy{{Percent: 20}, {Percent: 50}}}
	in := PreviewInput{
		Rollout: Rollout{Policy: policy, Waves: NewWaves(policy, "")},
		Release: Release{Length: 1000},
		Sources: []DeltaSource{{From: "1.0.0", Devices: 100}},
	}
	for _, c := range []struct {
		left, done, canary int64
		want               string
	}{
		{100, 0, 0, "50000 [{0s 20000} {1h0m0s 30000}]"},
		{90, 10, 0, "40000 [{0s 10000} {1h0m0s 30000}]"},
		{70, 30, 0, "20000 [{1h0m0s 20000}]"},
		{50, 50, 0, "0 []"},
		{30, 70, 0, "0 []"}, // some had it by other means
		{90, 20, 10, "40000 [{0s 10000} {1h0m0s 30000}]"},
		{0, 50, 0, "0 []"},
	} {
		in.Sources[0].Devices, in.Done, in.DoneCanary = c.left, c.done, c.canary
		if p := NewPreview(in); fmt.Sprintf("%d %v", p.Bytes, p.Steps) != c.want {
			t.Errorf("%+v: got %d %v", c, p.Bytes, p.Steps)
		}
	}
}
