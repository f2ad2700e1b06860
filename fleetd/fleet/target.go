package fleet

import (
	"slices"
	"time"

	"groundswell/topics"
)

// Target is what a device is told to run of one component: the rollout that
// wins for it, as the device decides.
type Target struct {
	Rollout string
	Kind    topics.EntryKind
	State   State // running, paused (it blocks, nothing else comes instead) or completed
	Release string
	Version string
	// Reached: a wave that has opened covers the device. Otherwise it waits for
	// its turn.
	Reached bool
}

// Install is the newest step that a device reported of one component.
type Install struct {
	Rollout string
	Version string // that the rollout brings
	State   topics.State
	Reason  string
	Attempt int
	At      time.Time // when the report was stored
}

// Targets says what the manifests of a device's cohorts tell it to run, by
// component; planned holds the rollouts of each cohort's manifest. As on the
// device, only rollouts take part that are for its model and hardware revision,
// and whose constraint admits what it runs (or that bring just that); of those
// topics.Winner says which counts. A component is absent when the device runs
// nothing of it, and when nothing wins or the winner, an update, is older than
// what runs.
func Targets(d Device, planned map[string][]Planned) map[string]Target {
	candidates := map[string][]Planned{}
	for _, cohort := range d.Cohorts {
		for _, p := range planned[cohort] {
			running, known := d.Versions[p.Rollout.Component]
			if !known || !p.Rollout.State.InManifest() || !p.Release.RunsOn(d.Model, d.Hardware) {
				continue
			}
			if ok, err := topics.Satisfies(running, p.Release.From(p.Rollout.From)); running != p.Rollout.Version && (err != nil || !ok) {
				continue
			}
			candidates[p.Rollout.Component] = append(candidates[p.Rollout.Component], p)
		}
	}
	targets := map[string]Target{}
	for component, all := range candidates {
		p := winner(all, d.Versions[component])
		r := p.Rollout
		order, err := topics.CompareVersions(r.Version, d.Versions[component])
		if err != nil || order < 0 && r.Kind != topics.EntryRevert {
			continue
		}
		targets[component] = Target{
			Rollout: r.ID, Kind: r.Kind, State: r.State, Release: r.Release, Version: r.Version,
			Reached: slices.ContainsFunc(d.Cohorts, func(cohort string) bool {
				if !slices.Contains(r.AllCohorts(), cohort) {
					return false
				}
				_, _, covered := topics.WaveOf(entry(p, cohort).Waves, topics.Position(d.Bucket, r.Offset))
				return covered
			}),
		}
	}
	return targets
}

// winner is which of the rollouts that take part counts for a device that runs
// version; there is at least one. What the device has begun is not known here.
func winner(all []Planned, version string) Planned {
	contenders := make([]topics.Contender, len(all))
	for i, p := range all {
		r := p.Rollout
		contenders[i] = topics.Contender{
			Rollout: r.ID, Kind: r.Kind, Version: r.Version, Priority: r.Priority, Sequence: r.Sequence, Completed: r.State == Completed,
		}
	}
	best := topics.Winner(contenders, version, "")
	return all[slices.IndexFunc(all, func(p Planned) bool { return p.Rollout.ID == best })]
}
