package store_test

import (
	"fmt"
	"strings"
	"testing"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/fleetd/store/storetest"
	"groundswell/topics"
)

// stones says what waits for a stepping stone.
func (w *world) stones(r fleet.Rollout) (all []string) {
	for _, s := range r.Stones {
		text := fmt.Sprintf("%d of %s by", s.Devices, s.From)
		for _, p := range s.Path {
			text += " " + p.Version
		}
		all = append(all, text+" "+s.Rollout)
	}
	return all
}

func TestWhoWaitsForASteppingStoneIsInNoWave(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(4)
	ctx := t.Context()
	must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "all", Selector: "model=m1"}))
	w.AddRelease("2.0.0")
	w.AddReleaseFor("3.0.0", ">=2.0")
	spec := fleet.RolloutSpec{Release: "camera", Version: "3.0.0", Cohorts: []string{"all"}, PolicySpec: fleet.PolicySpec{Waves: storetest.Waves(100)}}

	third := must(w.CreateRollout(ctx, alice, spec))
	if got := fmt.Sprint(w.stones(third)); got != "[4 of 1.0.0 by 2.0.0 ]" || len(third.Warnings) != 1 || third.Warnings[0] !=
		"4 devices run 1.0.0, and can take camera 3.0.0 only after camera 2.0.0, which no rollout brings them: one that is made now needs a priority below 0, or it wins over this one" {
		t.Errorf("warned at its creation of %s, %q", got, third.Warnings)
	}
	third = must(w.StartRollout(ctx, alice, third.ID, third.Revision, ""))
	spec.Version = "2.0.0"
	second := must(w.CreateRollout(ctx, alice, spec))
	if len(second.Stones) != 0 || len(second.Warnings) != 1 || !strings.Contains(second.Warnings[0], "they stay: give this one a priority below 0") {
		t.Errorf("the stone itself waits for %v, warned of %q", w.stones(second), second.Warnings)
	}
	spec.Priority = -1
	if second = must(w.UpdateRollout(ctx, alice, second.ID, second.Revision, spec)); len(second.Warnings) != 0 {
		t.Errorf("warned of %q", second.Warnings)
	}
	second = must(w.StartRollout(ctx, alice, second.ID, second.Revision, ""))
	for _, e := range w.manifest("all").Entries {
		if want := map[string]string{"3.0.0": ">=2.0", "2.0.0": ""}[e.Version]; e.From != want {
			t.Errorf("devices are told that %s is from %q", e.Version, e.From)
		}
	}
	if got := must(w.Device(ctx, ids[0])).Targets["system"]; got.Version != "2.0.0" {
		t.Errorf("a device is told to run %+v", got)
	}

	view := func(r fleet.Rollout) fleet.Rollout { t.Helper(); return must(w.Rollout(ctx, r.ID)) }
	if got := fmt.Sprint(w.stones(view(third))); got != "[4 of 1.0.0 by 2.0.0 "+second.ID+"]" {
		t.Errorf("waits: %s", got)
	}
	w.exec(`UPDATE rollout SET priority = 0 WHERE id = $1`, second.ID)
	if got := view(third).Warnings; len(got) != 1 || !strings.Contains(got[0], "there they stay") {
		t.Errorf("warned of %q", got)
	}
	w.exec(`UPDATE rollout SET priority = -1 WHERE id = $1`, second.ID)
	if wave := view(third).Waves[0]; wave.Members != 0 || len(wave.Counts) != 0 {
		t.Errorf("in its wave: %+v", wave)
	}
	if wave := view(second).Waves[0]; wave.Members != 4 {
		t.Errorf("in the wave of the stone: %+v", wave)
	}
	// One passes.
	w.Apply(w.Beat(ids[0], "m1", "2.0.0", 1, 5))
	third = view(third)
	if got := fmt.Sprint(w.stones(third)); got != "[3 of 1.0.0 by 2.0.0 "+second.ID+"]" || third.Waves[0].Members != 1 {
		t.Errorf("waits: %s, in its wave: %+v", got, third.Waves[0])
	}
	if got := must(w.Device(ctx, ids[0])).Targets["system"]; got.Version != "3.0.0" {
		t.Errorf("who has passed is told to run %+v", got)
	}
}

func TestWhatAReleaseRequiresIsFilledIn(t *testing.T) {
	w := newWorld(t)
	w.Seed(1)
	ctx := t.Context()
	w.AddRelease("1.0.5")
	r := w.Running(fleet.PolicySpec{})
	w.exec(`UPDATE release SET requires = NULL`) // by a fleetd of before
	if got := must(w.Release(ctx, "camera", "1.1.0")).Requires; len(got) != 0 {
		t.Fatalf("requires %+v", got)
	}
	before := w.manifest("all")
	read := 0
	fill := func() (map[string][]fleet.Requirement, error) {
		read++
		return map[string][]fleet.Requirement{"system/camera/1.1.0": {{Component: "system", Versions: ">=1.0.5"}}}, nil
	}
	if n, err := w.FillRequires(ctx, fill); n != 1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	m := w.manifest("all")
	if m.Version <= before.Version || m.Entries[0].From != ">=1.0.5" || m.Entries[0].Rollout != r.ID {
		t.Errorf("devices are told %+v", m)
	}
	// What is not in the list yet is asked for again.
	if n, err := w.FillRequires(ctx, fill); n != 0 || err != nil || read != 2 {
		t.Fatalf("%d, %v, read %d times", n, err, read)
	}
	if w.manifest("all").Version != m.Version {
		t.Error("signed for nothing")
	}
	w.exec(`UPDATE release SET requires = '[]' WHERE requires IS NULL`)
	if n, err := w.FillRequires(ctx, fill); n != 0 || err != nil || read != 2 {
		t.Fatalf("%d, %v, read %d times", n, err, read)
	}
}

func TestARequirementIsRefusedByField(t *testing.T) {
	w := newWorld(t)
	for pointer, q := range map[string]fleet.Requirement{
		"/releases/0/requires/0/component": {Component: "a b", Versions: ">1"},
		"/releases/0/requires/0/versions":  {Component: "system", Versions: "new ones"},
	} {
		r := fleet.Release{Component: "system", Name: "camera", Version: "1.0.0", Path: "system/camera/1.0.0", Length: 1,
			SHA256: fmt.Sprintf("%064d", 1), Models: []string{"m1"}, Requires: []fleet.Requirement{q}}
		_, err := w.PublishReleases(t.Context(), alice, store.Publication{Releases: []fleet.Release{r}, Pin: &topics.SnapshotPin{Version: 1}})
		wantField(t, err, pointer)
	}
}
