package rollout_test

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/fleetd/store/storetest"
	"groundswell/topics"
)

// list makes a cohort of these devices, known or not.
func (f *fixture) list(name string, ids ...string) {
	f.T.Helper()
	storetest.Must(f.CreateCohort(f.T.Context(), storetest.Alice, fleet.CohortSpec{Name: name, Devices: ids}))
}

// back is a committed report on a revert from 1.1.0 to 1.0.0.
func (f *fixture) back(id, revert string, sequence int64) store.UplinkRecord {
	s := storetest.Must(topics.DecodeStatus(f.Status(id, revert, topics.StateCommitted, 1, sequence).Payload))
	s.From, s.Running, s.Target = "1.1.0", "1.0.0", "1.0.0"
	return f.Uplink(topics.DeviceStatus(id), "m1", storetest.Must(topics.Encode(s)))
}

func TestDevicesThatWereNeverSeenHoldNothingUp(t *testing.T) {
	f := newFixture(t, 10)
	f.AddRelease("1.0.0")
	var imported []store.ImportDevice
	all := f.ids
	for _, id := range []string{"new-1", "new-2", "new-3", "new-4", "new-5"} {
		imported = append(imported, store.ImportDevice{ID: id})
		all = append(all, id)
	}
	if _, _, err := f.ImportDevices(t.Context(), storetest.Alice, imported); err != nil {
		t.Fatal(err)
	}
	f.list("all", all...)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(10, 100)})
	if f.tick(); len(f.reached(r)) != 1 || f.now(r.ID).Waves[0].Members != 1 {
		t.Fatalf("the first of %d devices that were seen: %+v", len(f.ids), f.now(r.ID).Waves)
	}
	f.report(r, topics.StateCommitted, f.reached(r)...)
	f.tick()
	f.tick() // waits for nobody but the nine
	if got := f.now(r.ID); got.State != fleet.Running || got.Waves[1].Members != 9 || got.Waves[1].Counts["unreached"] != 0 {
		t.Fatalf("got %s, %+v", got.State, got.Waves)
	}
	// One of them appears, and counts from then on.
	f.Apply(f.Beat("new-1", "m1", "1.0.0", 1, 1))
	f.report(r, topics.StateCommitted, f.ids...)
	if f.tick(); f.now(r.ID).State != fleet.Running {
		t.Fatalf("completed without new-1: %s", f.now(r.ID).Reason)
	}
	f.report(r, topics.StateCommitted, "new-1")
	f.tick()
	got := f.now(r.ID)
	if got.State != fleet.Completed || got.Reason != "11 of 11 devices committed" {
		t.Fatalf("got %s: %s", got.State, got.Reason)
	}
	// The same when it is taken back.
	waves := fleet.PolicySpec{Waves: storetest.Waves(100)}
	back := storetest.Must(f.RevertRollout(t.Context(), storetest.Alice, r.ID, got.Revision, store.RevertSpec{To: "1.0.0", Policy: &waves}))
	for _, id := range append([]string{"new-1"}, f.ids...) {
		f.tick()
		if f.now(r.ID).State != fleet.Reverting {
			t.Fatalf("reverted before %s", id)
		}
		f.Apply(f.back(id, back.ID, 20))
	}
	f.tick()
	if got = f.now(r.ID); got.State != fleet.Reverted {
		t.Errorf("got %s: %s", got.State, f.now(back.ID).Waves[0].Gate)
	}
}

// byPosition sorts the devices as the rollout reaches them.
func (f *fixture) byPosition(r fleet.Rollout) []string {
	return slices.SortedFunc(slices.Values(f.ids), func(a, b string) int {
		return cmp.Compare(topics.Position(topics.Bucket(a), r.Offset), topics.Position(topics.Bucket(b), r.Offset))
	})
}

// lost makes devices unheard of for a time.
func (f *fixture) lost(interval string, ids ...string) {
	f.T.Helper()
	for _, id := range ids {
		f.Exec(`UPDATE contact SET first_contact = now() - interval '1 year', last_contact = now() - interval '` + interval + `' WHERE device = '` + id + `'`)
	}
}

func TestDevicesThatAreLongGoneHoldNoGate(t *testing.T) {
	f := newFixture(t, 50)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(2, 10, 100)})
	ids := f.byPosition(r)
	f.lost("25 hours", ids[0], ids[1], ids[4])
	f.tick()
	// The canary is the first one that is there.
	got := f.now(r.ID)
	if w := got.Waves[0]; w.Members != 3 || w.Counts["absent"] != 2 || w.Counts["waiting"] != 1 || !slices.Contains(f.reached(got), ids[2]) {
		t.Fatalf("got %+v", got.Waves)
	}
	f.report(r, topics.StateCommitted, ids[2])
	f.tick()
	// A tenth of the 50 are five, though two of those are not there.
	got = f.now(r.ID)
	if w, _ := got.Current(); w.Index != 1 || len(f.reached(got)) != 5 || w.Counts["absent"] != 1 {
		t.Fatalf("%d reached: %+v", len(f.reached(got)), got.Waves)
	}
	f.report(r, topics.StateCommitted, f.reached(got)[1:]...)
	f.report(r, topics.StateCommitted, f.reached(got)[0])
	for range 3 {
		f.tick()
	}
	if w, _ := f.now(r.ID).Current(); w.Index != 2 {
		t.Fatalf("got %+v", f.now(r.ID).Waves)
	}
}

// Nobody was heard of for two days: fleetd was down, or its database is that
// old. What comes next is the wave that would have come, and not before
// somebody is back.
func TestAFleetThatWasAwayOpensNoWaveOnNothing(t *testing.T) {
	f := newFixture(t, 200)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(0.1, 1, 10, 50, 100)})
	ids := f.byPosition(r)
	f.report(r, topics.StateCommitted, ids[0])
	f.lost("2 days", ids...)
	for range 6 {
		f.tick()
	}
	got := f.now(r.ID)
	if w, _ := got.Current(); w.Index != 0 || w.Gate != "one of the 199 devices behind it, none of which was heard of for long" {
		t.Fatalf("got %+v", got.Waves)
	}
	f.Apply(f.Beat(ids[150], "m1", "1.0.0", 1, 30), f.Beat(ids[180], "m1", "1.0.0", 1, 30))
	f.tick()
	got = f.now(r.ID)
	if w, _ := got.Current(); w.Index != 1 || len(f.reached(got)) != 2 {
		t.Fatalf("two are back, and %d are reached: %+v", len(f.reached(got)), got.Waves)
	}
	// At the deadline all who were there have it, and the others may come.
	f.report(r, topics.StateCommitted, ids[:2]...)
	f.lost("2 days", ids[150], ids[180])
	f.Exec(`UPDATE rollout SET started_at = started_at - interval '1 year'`)
	for range 6 {
		f.tick()
	}
	if got := f.now(r.ID); got.State != fleet.Completed || len(f.reached(got)) != 200 {
		t.Errorf("%d reached, %s: %+v", len(f.reached(got)), got.State, got.Waves)
	}
}

// One of them runs the release, put there by hand; the others are away. That
// proves nothing about them.
func TestThatOthersAreAwayIsNoProof(t *testing.T) {
	f := newFixture(t, 50)
	f.Apply(f.Beat(f.ids[7], "m1", "1.1.0", 1, 30))
	f.lost("2 days", append(slices.Clone(f.ids[:7]), f.ids[8:]...)...)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(1, 10, 100)})
	for range 4 {
		f.tick()
	}
	if got := f.now(r.ID); len(f.reached(got)) != 0 {
		t.Errorf("%d reached: %+v", len(f.reached(got)), got.Waves)
	}
}

// Who comes back with what is reverted goes back at once.
func TestARevertWaitsForNobodyWhoIsAway(t *testing.T) {
	f := newFixture(t, 50)
	f.AddRelease("1.0.0")
	waves := fleet.PolicySpec{Waves: storetest.Waves(1, 100)}
	r := f.Running(waves)
	f.tick()
	f.report(r, topics.StateCommitted, f.ids...)
	back := storetest.Must(f.RevertRollout(t.Context(), storetest.Alice, r.ID, f.now(r.ID).Revision, store.RevertSpec{To: "1.0.0", Policy: &waves}))
	f.Apply(f.back(f.reached(back)[0], back.ID, 20))
	f.lost("2 days", f.ids...)
	f.tick()
	f.tick()
	if got := f.now(back.ID); len(f.reached(got)) != 50 {
		t.Errorf("%d reached: %+v", len(f.reached(got)), got.Waves)
	}
}

func TestALostDeviceIsNotForgotten(t *testing.T) {
	f := newFixture(t, 4)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(100)})
	ids := f.byPosition(r)
	f.lost("2 days", ids[0])
	f.tick()
	f.report(r, topics.StateCommitted, ids[1:]...)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Running || got.Waves[0].Counts["absent"] != 1 {
		t.Fatalf("ended without it: %s: %+v", got.Reason, got.Waves)
	}
	f.Apply(f.Beat(ids[0], "m1", "1.0.0", 1, 2)) // it is back
	if got := f.now(r.ID); got.Waves[0].Counts["absent"] != 0 || got.Waves[0].Counts["waiting"] != 1 {
		t.Fatalf("got %+v", got.Waves)
	}
	f.report(r, topics.StateCommitted, ids[0])
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Completed || got.Reason != "4 of 4 devices committed" {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
}

func TestAWaveOfLostDevicesOpensNothing(t *testing.T) {
	f := newFixture(t, 20)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(10, 100)})
	ids := f.byPosition(r)
	f.lost("2 days", ids...)
	f.tick()
	before := f.now(r.ID).Revision
	for range 3 {
		f.tick()
	}
	got := f.now(r.ID)
	if w, _ := got.Current(); w.Index != 0 || !strings.Contains(w.Gate, "not heard of for long") || got.Revision != before {
		t.Fatalf("nobody is there, and it went on, revision %d after %d: %+v", got.Revision, before, got.Waves)
	}
	f.Apply(f.Beat(ids[9], "m1", "1.0.0", 1, 2))
	for range 3 {
		f.tick()
	}
	got = f.now(r.ID)
	if w, _ := got.Current(); w.Index != 0 || !slices.Contains(f.reached(got), ids[9]) {
		t.Errorf("got %+v", got.Waves)
	}
}

// Five of the five that are there fail; fifteen others would make a large
// sample.
func TestAbsentDevicesHideNoFailures(t *testing.T) {
	f := newFixture(t, 20)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(100)})
	ids := f.byPosition(r)
	f.lost("2 days", ids[5:]...)
	f.tick()
	f.report(r, topics.StateRolledBack, ids[:5]...)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Paused || !strings.Contains(got.Reason, "5 of 5 devices failed") {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
}

// It polls once a week, so that three days of silence mean nothing.
func TestADeviceThatPollsSeldomIsNotAbsent(t *testing.T) {
	f := newFixture(t, 10)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(10, 100)})
	ids := f.byPosition(r)
	f.Exec(`UPDATE contact SET polling_seconds = 7 * 86400 WHERE device = '` + ids[0] + `'`)
	f.lost("3 days", ids[0])
	f.tick()
	if w := f.now(r.ID).Waves[0]; w.Members != 1 || w.Counts["waiting"] != 1 {
		t.Errorf("got %+v", w)
	}
}

// A device that never had a radio cannot be held against a release of radios.
func TestDevicesWithoutTheComponentHoldNothingUp(t *testing.T) {
	f := newFixture(t, 10)
	f.Exec(`DELETE FROM device_version WHERE device < 'cam-00005'`)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(100)})
	f.report(r, topics.StateCommitted, f.ids[5:]...)
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Completed || got.Reason != "5 of 5 devices committed" {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
}

func TestAnEmptyCohortHasACanaryToo(t *testing.T) {
	f := newFixture(t, 0)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(0.1, 1, 10, 50, 100)})
	// open says which wave is, and how many devices it and those before reach.
	open := func(index, devices int) {
		t.Helper()
		for range 3 { // and it stays like that
			f.tick()
		}
		got := f.now(r.ID)
		if w, ok := got.Current(); !ok || w.Index != index || len(f.reached(got)) != devices {
			t.Fatalf("%d devices reached, want wave %d with %d: %+v", len(f.reached(got)), index, devices, got.Waves)
		}
	}
	open(0, 0)
	if w := f.now(r.ID).Waves[0]; w.Threshold != 0 || w.Gate != "the first device that the release concerns" {
		t.Errorf("got %+v", w)
	}
	f.ids = f.Seed(200) // all of them join at once
	open(0, 1)
	f.report(r, topics.StateDownloading, f.reached(f.now(r.ID))...)
	open(0, 1)
	f.report(r, topics.StateCommitted, f.reached(f.now(r.ID))...)
	open(1, 2)
	f.report(r, topics.StateCommitted, f.reached(f.now(r.ID))...)
	open(2, 20)
}

// Its fleet grows from one device to three hundred while that one tries.
func TestACohortThatGrowsOpensNothingWithoutASuccess(t *testing.T) {
	f := newFixture(t, 1)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(0.1, 10, 100)})
	f.tick()
	first := f.reached(r)
	threshold := f.now(r.ID).Waves[0].Threshold
	f.ids = f.Seed(300)
	for range 3 {
		f.tick()
	}
	if got := f.now(r.ID); got.Waves[0].Threshold != threshold || got.Waves[1].State != fleet.WavePending {
		t.Fatalf("got %+v", got.Waves)
	}
	// Its success counts among all whom the wave has by now.
	f.report(r, topics.StateCommitted, first...)
	f.tick()
	got := f.now(r.ID)
	if members := got.Waves[0].Members; members > 1 && got.Waves[1].State != fleet.WavePending {
		t.Fatalf("1 of %d outcomes opened the next wave: %+v", members, got.Waves)
	}
}

func TestACanaryThatNoLongerCountsIsReplaced(t *testing.T) {
	f := newFixture(t, 50)
	r := f.Running(fleet.PolicySpec{Waves: storetest.Waves(1, 100)})
	f.tick()
	canary := f.reached(r)[0]
	f.Apply(f.Beat(canary, "m1", "1.1.0", 1, 2)) // flashed by hand
	for range 3 {
		f.tick()
	}
	got := f.now(r.ID)
	if w, _ := got.Current(); w.Index != 0 || w.Members != 1 || len(f.reached(got)) != 2 || got.Revision != r.Revision+1 {
		t.Errorf("got %+v", got.Waves)
	}
}

func TestARolloutThatEverybodyHasAlreadyIsCompleted(t *testing.T) {
	f := newFixture(t, 3)
	// cam-00000 runs it in a trial that it has not reported the end of, the
	// others run something newer.
	bad := f.Running(fleet.PolicySpec{})
	f.report(bad, topics.StateTrying, f.ids[0])
	storetest.Must(f.CancelRollout(t.Context(), storetest.Alice, bad.ID, bad.Revision, ""))
	f.Apply(f.Beat(f.ids[0], "m1", "1.1.0", 1, 20), f.Beat(f.ids[1], "m1", "2.0.0", 1, 20), f.Beat(f.ids[2], "m1", "2.0.0", 1, 20))
	r := f.Running(fleet.PolicySpec{})
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Running || got.Waves[0].State != fleet.WaveOpen {
		t.Fatalf("a trial is no proof: %s: %+v", got.State, got.Waves)
	}
	f.Apply(f.Beat(f.ids[1], "m1", "1.1.0", 1, 30))
	f.tick() // soak times are over at once: there is nobody to watch
	f.Exec(`UPDATE rollout_wave SET sample_at = sample_at - interval '1 day'`)
	f.tick()
	f.tick()
	if got := f.now(r.ID); got.State != fleet.Completed {
		t.Errorf("got %s: %+v", got.State, got.Waves)
	}
}

func TestAnEmptyCanaryCohortIsWaitedFor(t *testing.T) {
	f := newFixture(t, 5)
	f.list("ours", "lab-1")
	storetest.Must(f.CreateCohort(t.Context(), storetest.Alice, fleet.CohortSpec{Name: "all", Selector: "model=m1,hardware=r1"}))
	f.AddRelease("1.1.0")
	r := storetest.Must(f.CreateRollout(t.Context(), storetest.Alice, fleet.RolloutSpec{Release: "camera", Version: "1.1.0",
		Cohorts: []string{"all"}, CanaryCohort: "ours", PolicySpec: fleet.PolicySpec{Waves: storetest.Waves(50, 100)}}))
	r = storetest.Must(f.StartRollout(t.Context(), storetest.Alice, r.ID, r.Revision, ""))
	for range 3 {
		f.tick()
	}
	if w, _ := f.now(r.ID).Current(); w.Index != 0 || !strings.Contains(w.Gate, "canary cohort ours") {
		t.Fatalf("got %+v", f.now(r.ID).Waves)
	}
	f.Apply(f.Beat("lab-1", "m1", "1.0.0", 1, 1))
	f.report(r, topics.StateCommitted, "lab-1")
	f.Exec(`UPDATE rollout_wave SET soak_seconds = 0`)
	f.tick()
	f.tick()
	if w, _ := f.now(r.ID).Current(); w.Index != 1 {
		t.Errorf("got %+v", f.now(r.ID).Waves)
	}
}

func TestAReleaseThatFitsNobodyAnyMoreDoesNotStart(t *testing.T) {
	f := newFixture(t, 0)
	f.list("all", "cam-1")
	f.AddRelease("1.1.0")
	spec := fleet.RolloutSpec{Release: "camera", Version: "1.1.0", Cohorts: []string{"all"}}
	draft := storetest.Must(f.CreateRollout(t.Context(), storetest.Alice, spec))
	spec.StartAt = time.Now().Add(time.Hour)
	late := storetest.Must(f.CreateRollout(t.Context(), storetest.Alice, spec))
	late = storetest.Must(f.StartRollout(t.Context(), storetest.Alice, late.ID, late.Revision, "at night"))
	f.Apply(f.Beat("cam-1", "m2", "1.0.0", 1, 1)) // it turns out to be of another model

	_, err := f.StartRollout(t.Context(), storetest.Alice, draft.ID, draft.Revision, "")
	if !errors.Is(err, fleet.ErrConflict) || !strings.Contains(err.Error(), "no device of model m1") {
		t.Errorf("got %v", err)
	}
	if got := f.now(draft.ID); got.State != fleet.Draft || got.Revision != draft.Revision {
		t.Errorf("a refused start left traces: %+v", got)
	}
	f.Exec(`UPDATE rollout SET start_at = now() WHERE state = 'scheduled'`)
	f.tick()
	if got := f.now(late.ID); got.State != fleet.Cancelled || !strings.Contains(got.Reason, "no device of model m1") {
		t.Errorf("got %s: %s", got.State, got.Reason)
	}
	alerts, _, err := f.Alerts(t.Context(), "", store.Page{})
	if err != nil || len(alerts) != 1 || alerts[0].Kind != "not-started" || alerts[0].Object != "rollout/"+late.ID {
		t.Errorf("got %+v, %v", alerts, err)
	}
}

// It stopped matching while the rollout that held it ended.
func TestAMemberThatNothingHoldsIsLetGo(t *testing.T) {
	f := newFixture(t, 2)
	r := f.Running(fleet.PolicySpec{})
	storetest.Must(f.CancelRollout(t.Context(), storetest.Alice, r.ID, r.Revision, ""))
	f.Exec(`UPDATE cohort_member SET leaving = true WHERE device = 'cam-00000'`)
	f.tick()
	if c := storetest.Must(f.Cohort(t.Context(), "all")); c.Members != 1 {
		t.Errorf("%d members", c.Members)
	}
	if d := storetest.Must(f.Device(t.Context(), "cam-00000")); len(d.Cohorts) != 0 || d.AssignmentVersion == 0 {
		t.Errorf("got %+v", d)
	}
}
