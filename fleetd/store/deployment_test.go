package store_test

import (
	"testing"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

func TestDeviceSaysWhatItIsToldToRunAndHowFarItIs(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(2)
	ctx := t.Context()
	first := w.Running(fleet.PolicySpec{Waves: waves(100)})
	w.Apply(w.Status(ids[0], first.ID, topics.StateCommitted, 1, 5))
	w.AddRelease("1.2.0")
	second := must(w.CreateRollout(ctx, alice, fleet.RolloutSpec{Release: "camera", Version: "1.2.0", Cohorts: []string{"all"}, PolicySpec: fleet.PolicySpec{Waves: waves(50, 100)}}))
	check := func(what, id string, target fleet.Target, state topics.State, of string) {
		t.Helper()
		for name, d := range map[string]fleet.Device{"alone": must(w.Device(ctx, id)), "in the list": w.listed(id)} {
			got := d.Targets["system"]
			got.Reached = target.Reached // said by fleet's test
			if got != target || d.Installs["system"].State != state || d.Installs["system"].Rollout != of {
				t.Errorf("%s, %s: got %+v, %+v", what, name, d.Targets, d.Installs)
			}
		}
	}
	target := fleet.Target{Rollout: first.ID, Kind: topics.EntryUpdate, State: fleet.Running, Release: "camera", Version: "1.1.0"}
	check("with a draft", ids[0], target, topics.StateCommitted, first.ID)
	check("who reported nothing", ids[1], target, "", "")

	second = must(w.StartRollout(ctx, alice, second.ID, second.Revision, ""))
	target = fleet.Target{Rollout: second.ID, Kind: topics.EntryUpdate, State: fleet.Running, Release: "camera", Version: "1.2.0"}
	check("started", ids[0], target, topics.StateCommitted, first.ID)
	w.Apply(w.Status(ids[0], second.ID, topics.StateDownloading, 1, 7), w.Status(ids[0], first.ID, topics.StateTrying, 1, 4))
	check("begun", ids[0], target, topics.StateDownloading, second.ID)

	second = must(w.PauseRollout(ctx, alice, second.ID, second.Revision, ""))
	target.State = fleet.Paused
	check("paused", ids[0], target, topics.StateDownloading, second.ID)
	must(w.CancelRollout(ctx, alice, second.ID, second.Revision, ""))
	target = fleet.Target{Rollout: first.ID, Kind: topics.EntryUpdate, State: fleet.Running, Release: "camera", Version: "1.1.0"}
	check("cancelled", ids[0], target, topics.StateDownloading, second.ID)
}

// listed is a device as the list shows it.
func (w *world) listed(id string) fleet.Device {
	w.t.Helper()
	devices, _, err := w.Devices(w.t.Context(), fleet.DeviceFilter{}, store.Page{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range devices {
		if d.ID == id {
			return d
		}
	}
	w.t.Fatalf("no device %s in %+v", id, devices)
	return fleet.Device{}
}
