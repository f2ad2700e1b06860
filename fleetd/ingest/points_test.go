package ingest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"groundswell/fleetd/store"
	"groundswell/topics"
)

func status(change func(*topics.Status)) []byte {
	s := topics.Status{
		Schema: 1, Rollout: "r-1", Revision: 2, Cohort: "eu", Component: topics.DefaultComponent, Release: "camera", Attempt: 1,
		State: topics.StateDownloading, From: "1.0.0", Running: "1.0.0", Target: "1.1.0", BootID: "b1",
		Epoch: 1, Sequence: 1, Clock: topics.ClockTrusted, At: stored,
	}
	if change != nil {
		change(&s)
	}
	raw, err := topics.Encode(s)
	if err != nil {
		panic(err) // the test's own mistake
	}
	return raw
}

func record(payload []byte, sequence int64) store.UplinkRecord {
	return store.UplinkRecord{Topic: topics.DeviceStatus("cam-1"), Payload: payload, Shard: 3, Sequence: sequence, Stored: stored, Model: "cam-a", Hardware: "rev-b"}
}

func TestAStatusIsTaggedForAnalystsAndNeverByItsDevice(t *testing.T) {
	p, ok := newPointMaker().make(record(status(nil), 7), map[string]string{"cam-1": "eu-west"})
	if !ok || p.Measurement != "status" {
		t.Fatalf("%+v", p)
	}
	want := map[string]string{"model": "cam-a", "region": "eu-west", "version": "1.1.0", "state": "downloading", "shard": "3", "cohort": "eu"}
	if fmt.Sprint(p.Tags) != fmt.Sprint(want) {
		t.Errorf("tags %v, want %v", p.Tags, want)
	}
	if p.Fields["device"] != "cam-1" || p.Fields["rollout"] != "r-1" || p.Fields["running"] != "1.0.0" {
		t.Errorf("fields %v", p.Fields)
	}
}

// series counts the different combinations of tags.
func series(points []map[string]string) int {
	seen := map[string]bool{}
	for _, tags := range points {
		seen[fmt.Sprint(tags)] = true
	}
	return len(seen)
}

func TestAHostileDeviceCannotMakeSeriesWithoutEnd(t *testing.T) {
	maker := newPointMaker()
	var tags []map[string]string
	for n := range 3 * maxVersions {
		p, ok := maker.make(record(status(func(s *topics.Status) {
			s.Target, s.Cohort = fmt.Sprintf("9.9.%d", n), fmt.Sprintf("c%d", n)
		}), int64(n)), nil)
		if !ok {
			t.Fatal("no point")
		}
		tags = append(tags, p.Tags)
	}
	if n := series(tags); n > maxVersions+1 {
		t.Errorf("%d series", n)
	}
	if last := tags[len(tags)-1]; last["version"] != "other" || last["cohort"] != "other" {
		t.Errorf("last tags %v", last)
	}
	// What was known before goes on.
	if p, _ := maker.make(record(status(func(s *topics.Status) { s.Target, s.Cohort = "9.9.0", "c0" }), 1), nil); p.Tags["version"] != "9.9.0" || p.Tags["cohort"] != "c0" {
		t.Errorf("tags %v", p.Tags)
	}
	fields := map[string]bool{}
	for n := range maxMetrics {
		metrics := map[string]float64{}
		for i := range topics.MaxMetrics {
			metrics[fmt.Sprintf("m%d-%d", n, i)] = 1
		}
		m := heartbeat("cam-1", int64(n+1), metrics)
		p, ok := maker.make(recordOf(&m), nil)
		if !ok {
			t.Fatal("no point")
		}
		for field := range p.Fields {
			fields[field] = true
		}
	}
	if len(fields) > maxMetrics+20 {
		t.Errorf("%d fields", len(fields))
	}
}

func TestAPointSaysWhereTheBytesCameFrom(t *testing.T) {
	maker := newPointMaker()
	p, _ := maker.make(record(status(func(s *topics.Status) {
		s.Transfer = &topics.Transfer{Local: 1, Delta: 2, Packed: 3, Full: 4, Peer: 5, Index: 6}
	}), 1), nil)
	for i, name := range []string{"local", "delta", "packed", "full", "peer", "index"} {
		if got := p.Fields[name+"_bytes"]; got != int64(i+1) {
			t.Errorf("%s: %v", name, got)
		}
	}
	if p, _ := maker.make(record(status(nil), 2), nil); p.Fields["delta_bytes"] != nil {
		t.Errorf("of an older agent: %v", p.Fields)
	}
}

func TestAPointSaysWhatPeersDidWrong(t *testing.T) {
	maker := newPointMaker()
	p, _ := maker.make(record(status(func(s *topics.Status) {
		s.PeerFaults = &topics.PeerFaults{Wrong: 1, Failed: 2}
	}), 1), nil)
	for name, want := range map[string]int64{"peer_wrong": 1, "peer_failed": 2, "peer_away": 0} {
		if got := p.Fields[name]; got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if p, _ := maker.make(record(status(nil), 2), nil); p.Fields["peer_wrong"] != nil {
		t.Errorf("of one whose peers were right: %v", p.Fields)
	}
}

func TestPointTimesAreUniquePerShardAndStableUnderRedelivery(t *testing.T) {
	var times []time.Time
	for n := range int64(5000) {
		times = append(times, pointTime(record(nil, 41_000_000+n)))
	}
	slices.SortFunc(times, time.Time.Compare)
	if len(slices.CompactFunc(times, time.Time.Equal)) != 5000 {
		t.Error("two messages of one millisecond have the same time")
	}
	r := record(nil, 5)
	r.Stored = r.Stored.Add(123 * time.Microsecond) // below what the broker's stamp holds
	if !pointTime(r).Equal(pointTime(record(nil, 5))) || pointTime(r).UnixMilli() != stored.UnixMilli() {
		t.Errorf("time %v", pointTime(r))
	}
}

func FuzzMakePoint(f *testing.F) {
	f.Add(topics.DeviceStatus("cam-1"), status(nil), int64(1))
	f.Add("fleet/v1/devices/x/heartbeat", []byte(`{}`), int64(-1))
	maker := newPointMaker()
	f.Fuzz(func(t *testing.T, topic string, payload []byte, sequence int64) {
		p, ok := maker.make(store.UplinkRecord{Topic: topic, Payload: payload, Sequence: sequence, Stored: stored}, nil)
		if ok && (p.Measurement == "" || p.Fields["device"] == "" || p.Tags["device"] != "") {
			t.Errorf("%+v", p)
		}
	})
}
