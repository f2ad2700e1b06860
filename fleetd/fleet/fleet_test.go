package fleet_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

func wantField(t *testing.T, name string, err error, pointer string) {
	t.Helper()
	var field *fleet.FieldError
	if !errors.As(err, &field) || field.Pointer != pointer || !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("%s: got %v, want a refusal of %s", name, err, pointer)
	}
}

func TestTransitionsThatAreNotListedAreRefused(t *testing.T) {
	allowed := map[string]bool{
		"draft scheduled": true, "draft running": true, "draft cancelled": true, "scheduled running": true, "scheduled cancelled": true,
		"running paused": true, "running completed": true, "running cancelled": true, "running reverting": true,
		"paused running": true, "paused cancelled": true, "paused reverting": true,
		"completed paused": true, "completed reverting": true, "completed cancelled": true, "cancelled reverting": true,
		"reverting reverted": true, "reverting cancelled": true,
	}
	for _, from := range fleet.States() {
		for _, to := range fleet.States() {
			err := fleet.CheckTransition(from, to)
			if allowed[fmt.Sprint(from, " ", to)] != (err == nil) {
				t.Errorf("%s -> %s: %v", from, to, err)
			}
			if err != nil && !errors.Is(err, fleet.ErrTransition) {
				t.Errorf("%s -> %s: %v is not ErrTransition", from, to, err)
			}
			if (err == nil) != slices.Contains(fleet.Before(to), from) {
				t.Errorf("Before(%s) disagrees about %s", to, from)
			}
		}
	}
}

func genVersion(t *rapid.T, label string) string {
	n := rapid.SampledFrom([]string{"0", "1", "2", "9", "10", "11", "100", "4294967296"})
	v := n.Draw(t, label+"a") + "." + n.Draw(t, label+"b") + "." + n.Draw(t, label+"c")
	ids := rapid.SliceOfN(rapid.SampledFrom([]string{"0", "1", "2", "10", "99", "a", "rc", "rc1", "rc-1", "rc-", "-", "A", "z"}), 0, 3).Draw(t, label+"pre")
	if len(ids) > 0 {
		v += "-" + strings.Join(ids, ".")
	}
	if rapid.Bool().Draw(t, label+"meta") {
		v += "+build.7"
	}
	return v
}

func TestVersionKeySortsAsVersionsDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genVersion(t, "x"), genVersion(t, "y")
		want, err := topics.CompareVersions(a, b)
		if err != nil {
			t.Fatal(err)
		}
		ka, errA := fleet.VersionKey(a)
		kb, errB := fleet.VersionKey(b)
		if errA != nil || errB != nil || strings.Compare(ka, kb) != want {
			t.Fatalf("%s (%q) and %s (%q): got %d, want %d", a, ka, b, kb, strings.Compare(ka, kb), want)
		}
	})
	if _, err := fleet.VersionKey("v1"); err == nil {
		t.Error("v1 has a key")
	}
}

func TestWaveHoldsItsShareAndNeverShrinks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		positions := rapid.SliceOfNDistinct(rapid.Int64Range(0, topics.Buckets-1), 0, 300, rapid.ID).Draw(t, "positions")
		slices.Sort(positions)
		shares := rapid.SliceOfNDistinct(rapid.Int64Range(1, topics.Buckets), 1, 6, rapid.ID).Draw(t, "shares")
		slices.Sort(shares)
		previous := int64(0)
		for _, share := range shares {
			threshold, err := fleet.OpenWave(share, int64(len(positions)), previous, func(k int64) (int64, error) { return positions[k-1], nil })
			if err != nil || threshold < previous || threshold > topics.Buckets {
				t.Fatalf("share %d: %d after %d, %v", share, threshold, previous, err)
			}
			in := int64(0)
			for _, p := range positions {
				if p < threshold {
					in++
				}
			}
			if want := topics.ShareCount(share, int64(len(positions))); in != want && previous != threshold {
				t.Fatalf("share %d of %d: %d devices, want %d", share, len(positions), in, want)
			}
			if share == topics.Buckets && threshold != topics.Buckets {
				t.Fatalf("the whole ends at %d", threshold)
			}
			previous = threshold
		}
	})
}

func TestResumedWaveIsSpreadOverTheTimeThatWasLeft(t *testing.T) {
	w := fleet.Wave{OpensAt: t0, Spread: 60 * minute}
	for _, c := range []struct{ paused, want time.Duration }{
		{0, time.Hour}, {20 * time.Minute, 40 * time.Minute}, {time.Hour, 0}, {5 * time.Hour, 0}, {-time.Minute, time.Hour},
	} {
		opens, spread := w.Respread(t0.Add(c.paused), t0.Add(10*time.Hour))
		if !opens.Equal(t0.Add(10*time.Hour)) || time.Duration(spread) != c.want {
			t.Errorf("paused after %v: opens %v, spread %v, want %v", c.paused, opens, spread, c.want)
		}
	}
}

func spec(t *testing.T, text string) fleet.PolicySpec {
	t.Helper()
	var s fleet.PolicySpec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAbsentPolicyIsTheDefault(t *testing.T) {
	p, err := fleet.PolicySpec{}.Resolve(topics.EntryUpdate)
	if err != nil {
		t.Fatal(err)
	}
	var shares []int64
	for _, w := range p.Waves {
		shares = append(shares, w.Share())
	}
	if !slices.Equal(shares, []int64{1000, 10_000, 100_000, 500_000, 1_000_000}) || p.Breaker.Percent != 2 || time.Duration(p.Breaker.Window) != 10*time.Minute {
		t.Errorf("got %+v", p)
	}
	// What stands is kept; what is absent is the default.
	p, err = spec(t, `{"waves":[{"percent":5,"spread":"0s"},{"percent":100,"soak":"1s"}],"breaker":{"percent":0.5,"slices":["none"]},"settle":"5s"}`).Resolve(topics.EntryUpdate)
	if err != nil || p.Waves[0].Spread != 0 || p.Waves[0].Soak != 15*minute || time.Duration(p.Waves[1].Soak) != time.Second ||
		p.Breaker.Percent != 0.5 || p.Breaker.MinSample != 50 || len(p.Breaker.Slices) != 0 || time.Duration(p.Settle) != 5*time.Second {
		t.Errorf("got %+v, %v", p, err)
	}
	text, err := json.Marshal(p)
	var back fleet.Policy
	if err != nil || json.Unmarshal(text, &back) != nil || back.Waves[1] != p.Waves[1] || back.Settle != p.Settle {
		t.Errorf("round trip: %s, %v", text, err)
	}
	if err := fleet.DefaultPolicy(topics.EntryRevert).Validate(); err != nil {
		t.Error(err)
	}
}

func TestPolicyRefusalsPointAtTheField(t *testing.T) {
	for text, pointer := range map[string]string{
		`{"waves":[]}`:                                                    "/policy/waves",
		`{"waves":[{"percent":0}]}`:                                       "/policy/waves/0/percent",
		`{"waves":[{"percent":100.1}]}`:                                   "/policy/waves/0/percent",
		`{"waves":[{"percent":0.00001}]}`:                                 "/policy/waves/0/percent",
		`{"waves":[{"percent":10},{"percent":10}]}`:                       "/policy/waves/1/percent",
		`{"waves":[{"percent":10},{"percent":5}]}`:                        "/policy/waves/1/percent",
		`{"waves":[{"percent":10,"spread":"-1s"}]}`:                       "/policy/waves/0/spread",
		`{"waves":[{"percent":10,"soak":"9000h"}]}`:                       "/policy/waves/0/soak",
		`{"gate":{"success_percent":101}}`:                                "/policy/gate/success_percent",
		`{"gate":{"success_percent":0}}`:                                  "/policy/gate/success_percent",
		`{"gate":{"max_silent_percent":0}}`:                               "/policy/gate/max_silent_percent",
		`{"gate":{"max_silent_percent":100.5}}`:                           "/policy/gate/max_silent_percent",
		`{"breaker":{"percent":0}}`:                                       "/policy/breaker/percent",
		`{"breaker":{"percent":101}}`:                                     "/policy/breaker/percent",
		`{"gate":{"min_sample":0}}`:                                       "/policy/gate/min_sample",
		`{"breaker":{"percent":-1}}`:                                      "/policy/breaker/percent",
		`{"breaker":{"slices":["colour"]}}`:                               "/policy/breaker/slices/0",
		`{"breaker":{"absolute":-1}}`:                                     "/policy/breaker/absolute",
		`{"silent":{"factor":-1}}`:                                        "/policy/silent/factor",
		`{"deadline":"0s"}`:                                               "/policy/deadline",
		`{"attempts":0}`:                                                  "/policy/attempts",
		`{"windows":[{"start":"25:00","end":"05:00"}]}`:                   "/policy/windows/0/start",
		`{"windows":[{"days":["monday"],"start":"22:00","end":"05:00"}]}`: "/policy/windows/0/days/0",
		`{"delta_coder":"lzma"}`:                                          "/policy/delta_coder",
		`{"delta_coder":"plain-"}`:                                        "/policy/delta_coder",
		`{"delta_coder":"plain-plain-zstd"}`:                              "/policy/delta_coder",
		`{"download_windows":[{"start":"01:00","end":"5"}]}`:              "/policy/download_windows/0/end",
	} {
		_, err := spec(t, text).Resolve(topics.EntryUpdate)
		wantField(t, text, err, pointer)
	}
	var s fleet.PolicySpec
	if json.Unmarshal([]byte(`{"deadline":"soon"}`), &s) == nil {
		t.Error("a duration of \"soon\" was read")
	}
}

func TestSelectors(t *testing.T) {
	d := fleet.Device{Model: "m1", Hardware: "r2", DeviceAttributes: fleet.DeviceAttributes{
		Region: "eu", TimeZone: "Europe/Berlin", Labels: map[string]string{"site": "hall", "region": "moon"}}}
	for text, want := range map[string]bool{
		"model=m1": true, "model=m2": false, "model in (m1,m2),region=eu": true, "time_zone=Europe__Berlin": true,
		"site=hall": true, "label.site=hall": true, "site notin (hall)": false, "customer": false, "!customer": true,
		"region=moon": false, "label.region=moon": true, // a label never passes for an attribute
	} {
		s, err := fleet.ParseSelector(text)
		if err != nil || s.Matches(d) != want {
			t.Errorf("%s: got %v, %v, want %v", text, s.Matches(d), err, want)
		}
	}
	for _, text := range []string{"", " ", "model=m1,,", "a b", "model=" + strings.Repeat("x", 64), "example.org/x=1"} {
		_, err := fleet.ParseSelector(text)
		wantField(t, text, err, "/selector")
	}
}

func TestSpecsAreRefusedByField(t *testing.T) {
	cohorts := map[string]fleet.CohortSpec{
		"/name":      {Name: "a/b", Selector: "model"},
		"/selector":  {Name: "a"},
		"/devices":   {Name: "a", Selector: "model", Devices: []string{"x"}},
		"/devices/1": {Name: "a", Devices: []string{"x", "x"}},
	}
	for pointer, c := range cohorts {
		wantField(t, pointer, c.Validate(), pointer)
	}
	good := fleet.RolloutSpec{Release: "camera", Version: "1.0.0", Cohorts: []string{"a"}}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for pointer, change := range map[string]func(*fleet.RolloutSpec){
		"/release/version": func(s *fleet.RolloutSpec) { s.Version = "v1" },
		"/cohorts":         func(s *fleet.RolloutSpec) { s.Cohorts = nil },
		"/cohorts/1":       func(s *fleet.RolloutSpec) { s.Cohorts = []string{"a", "a"} },
		"/canary_cohort":   func(s *fleet.RolloutSpec) { s.CanaryCohort = "a" },
		"/from":            func(s *fleet.RolloutSpec) { s.From = "<<2" },
		"/priority":        func(s *fleet.RolloutSpec) { s.Priority = 1 << 40 },
	} {
		s := good
		change(&s)
		wantField(t, pointer, s.Validate(), pointer)
	}
	for pointer, a := range map[string]fleet.DeviceAttributes{
		"/region":      {Region: "e u"},
		"/time_zone":   {TimeZone: "Mars/Olympus"},
		"/labels/a~1b": {Labels: map[string]string{"a/b": "x"}},
		"/labels/a":    {Labels: map[string]string{"a": "x y"}},
		"/polling_s":   {PollingSeconds: -1},
	} {
		wantField(t, pointer, a.Validate(""), pointer)
	}
}

func planned(id string, sequence int64, state fleet.State) fleet.Planned {
	policy := fleet.DefaultPolicy(topics.EntryUpdate)
	r := fleet.Rollout{ID: id, Revision: 3, Kind: topics.EntryUpdate, State: state, Component: "system", Sequence: sequence, Policy: policy,
		RolloutSpec: fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}, CanaryCohort: "ours"},
		Waves:       fleet.NewWaves(policy, "ours")}
	r.Waves[0].State, r.Waves[0].Threshold, r.Waves[0].OpensAt = fleet.WavePassed, topics.Buckets, t0
	r.Waves[1].State, r.Waves[1].Threshold, r.Waves[1].OpensAt = fleet.WaveOpen, 1234, t0
	return fleet.Planned{Rollout: r, Release: fleet.Release{Path: "system/camera/1.1.0", Length: 1, SHA256: strings.Repeat("a", 64), Models: []string{"m1"}}}
}

func TestManifest(t *testing.T) {
	in := fleet.ManifestInput{TrustDomain: "fleet.test", Cohort: "all", Version: 7, Now: t0, Pin: &topics.SnapshotPin{Version: 1, Length: 1, SHA256: strings.Repeat("b", 64)}}
	m, err := fleet.BuildManifest(in)
	if err != nil || len(m.Entries) != 0 {
		t.Fatalf("empty: %+v, %v", m, err)
	}
	for i, state := range fleet.States() {
		in.Rollouts = append(in.Rollouts, planned(fmt.Sprint("r-", i), int64(i+1), state))
	}
	for i := range 12 {
		in.Rollouts = append(in.Rollouts, planned(fmt.Sprint("r-old-", i), int64(100+i), fleet.Completed))
	}
	if m, err = fleet.BuildManifest(in); err != nil {
		t.Fatal(err)
	}
	states := map[topics.EntryState]int{}
	for _, e := range m.Entries {
		states[e.State]++
		if len(e.Waves) != 1 || e.Waves[0].Index != 1 || e.Waves[0].Threshold != 1234 {
			t.Errorf("%s: the percent waves stand in the cohort's manifest, pending ones do not: %+v", e.Rollout, e.Waves)
		}
	}
	if states[topics.EntryRunning] != 1 || states[topics.EntryPaused] != 1 || states[topics.EntryCompleted] != fleet.MaxCompleted {
		t.Errorf("got %v", states)
	}
	in.Cohort = "ours"
	if m, err = fleet.BuildManifest(in); err != nil || len(m.Entries[0].Waves) != 1 || m.Entries[0].Waves[0].Index != 0 || m.Entries[0].Waves[0].Threshold != topics.Buckets {
		t.Errorf("the canary cohort's manifest holds its wave only: %+v, %v", m.Entries[0].Waves, err)
	}
}

func TestVersionsOfSignedThingsOnlyGrow(t *testing.T) {
	for _, c := range []struct{ previous, want int64 }{{0, t0.Unix()}, {t0.Unix() - 1, t0.Unix()}, {t0.Unix(), t0.Unix() + 1}, {t0.Unix() + 900, t0.Unix() + 901}} {
		if got := fleet.NextVersion(c.previous, t0); got != c.want {
			t.Errorf("after %d: got %d, want %d", c.previous, got, c.want)
		}
	}
}

func TestEligible(t *testing.T) {
	for _, c := range []struct {
		kind                  topics.EntryKind
		from, target, version string
		want                  bool
	}{
		{topics.EntryUpdate, "", "1.1.0", "1.0.0", true},
		{topics.EntryUpdate, "", "1.1.0", "1.1.0", false},
		{topics.EntryUpdate, "", "1.1.0", "2.0.0", false},
		{topics.EntryUpdate, "<1.0", "1.1.0", "1.0.0", false},
		{topics.EntryRevert, "=1.2.0", "1.1.0", "1.2.0", true},
		{topics.EntryRevert, "=1.2.0", "1.1.0", "1.1.0", false},
	} {
		if got, err := fleet.Eligible(c.kind, c.from, c.target, c.version); err != nil || got != c.want {
			t.Errorf("%+v: got %v, %v", c, got, err)
		}
	}
}
