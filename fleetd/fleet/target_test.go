package fleet_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// As agent/decide does, which no package of fleetd may import.
func TestTargetIsWhatTheWinningRolloutBrings(t *testing.T) {
	d := fleet.Device{ID: "cam-1", Model: "m1", Hardware: "r1", Bucket: 500_000, Cohorts: []string{"all", "ours"}, Versions: map[string]string{"system": "1.0.0"}}
	make := func(id, version string, sequence int64, change func(*fleet.Planned)) fleet.Planned {
		p := planned(id, sequence, fleet.Running)
		p.Rollout.Version, p.Rollout.CanaryCohort = version, ""
		p.Rollout.Waves = fleet.NewWaves(p.Rollout.Policy, "")
		p.Rollout.Waves[0].State, p.Rollout.Waves[0].Threshold = fleet.WaveOpen, 400_000
		if change != nil {
			change(&p)
		}
		return p
	}
	got := func(all, ours []fleet.Planned) string {
		target, ok := fleet.Targets(d, map[string][]fleet.Planned{"all": all, "ours": ours, "others": {make("r-9", "9.0.0", 9, nil)}})["system"]
		if !ok {
			return ""
		}
		if target.Reached {
			return target.Rollout + " " + string(target.State) + " reached"
		}
		return target.Rollout + " " + string(target.State)
	}
	first := make("r-1", "1.1.0", 1, nil)
	done := make("r-1", "1.0.0", 1, func(p *fleet.Planned) { p.Rollout.Priority, p.Rollout.State = 9, fleet.Completed })
	for name, c := range map[string]struct {
		all, ours []fleet.Planned
		want      string
	}{
		"nothing":                   {nil, nil, ""},
		"one":                       {[]fleet.Planned{first}, nil, "r-1 running"},
		"its turn has come":         {[]fleet.Planned{make("r-1", "1.1.0", 1, func(p *fleet.Planned) { p.Rollout.Offset = 300_000 })}, nil, "r-1 running reached"},
		"the newest wins":           {[]fleet.Planned{make("r-2", "1.0.5", 2, nil), first}, nil, "r-2 running"},
		"also from another cohort":  {[]fleet.Planned{first}, []fleet.Planned{make("r-2", "1.2.0", 2, nil)}, "r-2 running"},
		"the highest priority wins": {[]fleet.Planned{make("r-2", "1.2.0", 2, nil), make("r-1", "1.1.0", 1, func(p *fleet.Planned) { p.Rollout.Priority = 1 })}, nil, "r-1 running"},
		"a paused winner blocks":    {[]fleet.Planned{first, make("r-2", "1.2.0", 2, func(p *fleet.Planned) { p.Rollout.State = fleet.Paused })}, nil, "r-2 paused"},
		"a draft is in no manifest": {[]fleet.Planned{first, make("r-2", "1.2.0", 2, func(p *fleet.Planned) { p.Rollout.State = fleet.Draft })}, nil, "r-1 running"},
		"for another model":         {[]fleet.Planned{first, make("r-2", "1.2.0", 2, func(p *fleet.Planned) { p.Release.Models = []string{"m2"} })}, nil, "r-1 running"},
		"the constraint forbids it": {[]fleet.Planned{first, make("r-2", "1.2.0", 2, func(p *fleet.Planned) { p.Rollout.From = ">=1.1.0" })}, nil, "r-1 running"},
		"it runs just that":         {[]fleet.Planned{make("r-1", "1.0.0", 1, func(p *fleet.Planned) { p.Rollout.From = "<1.0.0" })}, nil, "r-1 running"},
		"an update never goes back": {[]fleet.Planned{first, make("r-2", "0.9.0", 2, nil)}, nil, ""},
		"a revert does":             {[]fleet.Planned{first, make("r-2", "0.9.0", 2, func(p *fleet.Planned) { p.Rollout.Kind, p.Rollout.From = topics.EntryRevert, "=1.0.0" })}, nil, "r-2 running"},
		"a completed one that it follows gives way to a newer update": {[]fleet.Planned{done, make("r-2", "1.2.0", 2, nil)}, nil, "r-2 running"},
		"nor does one below what it runs hold up a newer update": {[]fleet.Planned{
			make("r-1", "0.9.0", 1, func(p *fleet.Planned) { p.Rollout.Priority, p.Rollout.State = 9, fleet.Completed }), make("r-2", "1.2.0", 2, nil)}, nil, "r-2 running"},
		"not to an older one":         {[]fleet.Planned{done, make("r-0", "1.2.0", 0, nil)}, nil, "r-1 completed"},
		"not to a revert":             {[]fleet.Planned{done, make("r-2", "0.9.0", 2, func(p *fleet.Planned) { p.Rollout.Kind = topics.EntryRevert })}, nil, "r-1 completed"},
		"not to a lower one":          {[]fleet.Planned{done, make("r-2", "0.9.0", 2, nil)}, nil, "r-1 completed"},
		"not while it runs":           {[]fleet.Planned{make("r-1", "1.0.0", 1, func(p *fleet.Planned) { p.Rollout.Priority = 9 }), make("r-2", "1.2.0", 2, nil)}, nil, "r-1 running"},
		"not before it follows":       {[]fleet.Planned{make("r-1", "1.1.0", 1, func(p *fleet.Planned) { p.Rollout.Priority, p.Rollout.State = 9, fleet.Completed }), make("r-2", "1.2.0", 2, nil)}, nil, "r-1 completed"},
		"a component it does not run": {[]fleet.Planned{make("r-1", "1.1.0", 1, func(p *fleet.Planned) { p.Rollout.Component = "radio" })}, nil, ""},
	} {
		if diff := cmp.Diff(c.want, got(c.all, c.ours)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
	// All of the canary cohort at once, whatever the position.
	canary := make("r-1", "1.1.0", 1, func(p *fleet.Planned) {
		p.Rollout.CanaryCohort = "ours"
		p.Rollout.Waves = fleet.NewWaves(p.Rollout.Policy, "ours")
		p.Rollout.Waves[0].State, p.Rollout.Waves[0].Threshold = fleet.WaveOpen, topics.Buckets
	})
	if w := got([]fleet.Planned{canary}, []fleet.Planned{canary}); w != "r-1 running reached" {
		t.Errorf("a canary: %s", w)
	}
}
