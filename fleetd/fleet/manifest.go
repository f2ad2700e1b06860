package fleet

import (
	"fmt"
	"sort"
	"time"

	"groundswell/topics"
)

// MaxCompleted is how many completed rollouts of a component a manifest keeps at
// most, the newest, for devices that were offline.
const MaxCompleted = 8

// MetadataLifetime is how long a signed manifest or assignment is valid. It is
// signed anew at half of that.
const MetadataLifetime = 14 * 24 * time.Hour

// Planned is a rollout together with its release.
type Planned struct {
	Rollout Rollout
	Release Release
	// Deltas pins the delta index of the release's artifact. Nil: there is none.
	Deltas *topics.Document
}

// ManifestInput is everything that a cohort's manifest says.
type ManifestInput struct {
	TrustDomain string
	Cohort      string
	Rollouts    []Planned // any order, any state
	Pin         *topics.SnapshotPin
	Version     int64
	Now         time.Time
	// Completed is how many completed rollouts of a component it keeps. 0:
	// MaxCompleted.
	Completed int
}

// NextVersion is the version of what is signed after previous: max(previous+1,
// unix seconds), so that a database restored from an older backup does not
// number below what it published before.
func NextVersion(previous int64, now time.Time) int64 { return max(previous+1, now.Unix()) }

// BuildManifest says what a cohort is to run.
func BuildManifest(in ManifestInput) (topics.Manifest, error) {
	m := topics.Manifest{
		Schema: topics.Schema, Kind: string(topics.KindManifest), TrustDomain: in.TrustDomain, Cohort: in.Cohort,
		Version: in.Version, Issued: in.Now.UTC().Truncate(time.Second), Images: in.Pin, Entries: []topics.Entry{},
	}
	rollouts := append([]Planned(nil), in.Rollouts...)
	sort.Slice(rollouts, func(i, j int) bool { return rollouts[i].Rollout.Sequence > rollouts[j].Rollout.Sequence })
	if in.Completed == 0 {
		in.Completed = MaxCompleted
	}
	completed := map[string]int{}
	for _, p := range rollouts {
		if !p.Rollout.State.InManifest() {
			continue
		}
		if p.Rollout.State == Completed {
			if completed[p.Rollout.Component]++; completed[p.Rollout.Component] > in.Completed {
				continue
			}
		}
		m.Entries = append(m.Entries, entry(p, in.Cohort))
	}
	if err := m.Validate(); err != nil {
		return topics.Manifest{}, fmt.Errorf("manifest of cohort %s: %w", in.Cohort, err)
	}
	return m, nil
}

func entry(p Planned, cohort string) topics.Entry {
	r := p.Rollout
	e := topics.Entry{
		Rollout: r.ID, Revision: r.Revision, Kind: r.Kind, State: topics.EntryState(r.State),
		Priority: r.Priority, Sequence: r.Sequence, Component: r.Component, Release: r.Release, Version: r.Version, From: p.Release.From(r.From),
		Target: topics.Target{Path: p.Release.Path, Length: p.Release.Length, SHA256: p.Release.SHA256},
		Deltas: p.Deltas, Models: p.Release.Models, Hardware: p.Release.Hardware, Offset: r.Offset, Windows: r.Policy.Windows, DownloadWindows: r.Policy.DownloadWindows,
		Attempts: r.Policy.Attempts, SettleSeconds: r.Policy.Settle.Seconds(),
		HealthTimeoutSeconds: r.Policy.HealthTimeout.Seconds(), FreshSeconds: r.Policy.Fresh.Seconds(),
	}
	if e.Windows == nil {
		e.Windows = []topics.Window{}
	}
	e.Waves = []topics.Wave{}
	for _, w := range r.Waves {
		// The canary cohort's wave stands in its own manifest only, the
		// others in those of the other cohorts.
		if w.State == WavePending || (w.Cohort != "") != (cohort == r.CanaryCohort) {
			continue
		}
		e.Waves = append(e.Waves, topics.Wave{
			Index: w.Index, Start: w.Start, Threshold: w.Threshold,
			OpensAt: w.OpensAt.UTC().Truncate(time.Second), SpreadSeconds: w.Spread.Seconds(),
		})
	}
	return e
}

// BuildAssignment tells a device about itself.
func BuildAssignment(trustDomain string, d Device, sources []string, version int64, now time.Time) (topics.Assignment, error) {
	a := topics.Assignment{
		Schema: topics.Schema, Kind: string(topics.KindAssignment), TrustDomain: trustDomain, Device: d.ID,
		Version: version, Issued: now.UTC().Truncate(time.Second), Cohorts: d.Cohorts, TimeZone: d.TimeZone,
		Polling: topics.Polling{IntervalSeconds: d.PollingSeconds}, Sources: sources,
	}
	if a.Cohorts == nil {
		a.Cohorts = []string{}
	}
	if err := a.Validate(); err != nil {
		return topics.Assignment{}, fmt.Errorf("assignment of device %s: %w", d.ID, err)
	}
	return a, nil
}
