package fleet_test

import (
	"strings"
	"testing"

	"groundswell/fleetd/fleet"
	"groundswell/topics"

	"pgregory.net/rapid"
)

func stone(version, requires, floor string, models ...string) fleet.Release {
	r := fleet.Release{Component: "system", Name: "camera", Version: version, Models: models, SecurityFloor: floor}
	if models == nil {
		r.Models = []string{"cam-a"}
	}
	if requires != "" {
		r.Requires = []fleet.Requirement{{Component: "modem", Versions: ">=99"}, {Component: "system", Versions: requires}}
	}
	return r
}

func TestPathLeadsThroughSteppingStones(t *testing.T) {
	for _, c := range []struct {
		name    string
		all     []fleet.Release
		running string
		want    string
	}{
		{"one stone", []fleet.Release{stone("2.0.0", "", "")}, "1.0.0", "2.0.0"},
		{"the newest of those that do", []fleet.Release{stone("2.0.0", "", ""), stone("2.2.0", "", ""), stone("1.9.0", "", "")}, "1.0.0", "2.2.0"},
		{"two stones", []fleet.Release{stone("1.5.0", "", ""), stone("2.0.0", ">=1.5", "")}, "1.0.0", "1.5.0 2.0.0"},
		{"the shorter way", []fleet.Release{stone("1.5.0", "", ""), stone("2.2.0", ">=1.5", ""), stone("2.0.0", "", "")}, "1.0.0", "2.0.0"},
		{"none", []fleet.Release{stone("1.5.0", "", "")}, "1.0.0", ""},
		{"for other models", []fleet.Release{stone("2.0.0", "", "", "cam-b")}, "1.0.0", ""},
		{"below the floor", []fleet.Release{stone("2.0.0", "", ""), stone("2.1.0", ">=2.0", "2.0.5")}, "1.0.0", ""},
		{"not back", []fleet.Release{stone("2.0.0", "", "")}, "2.5.0", ""},
		{"in a ring", []fleet.Release{stone("1.5.0", ">=1.6", ""), stone("1.6.0", ">=1.5", "")}, "1.0.0", ""},
	} {
		target := stone("3.0.0", ">=2.0 <2.5", "")
		var got []string
		for _, r := range fleet.Path(append(c.all, target), target, c.running, "cam-a", "rev-b") {
			got = append(got, r.Version)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}

func TestARolloutsConstraintAndItsReleasesAreOne(t *testing.T) {
	for _, c := range []struct{ from, requires, want string }{
		{"", "", ""},
		{"<3", "", "<3"},
		{"", ">=2", ">=2"},
		{"<3", ">=2", "<3, >=2"},
		{"<1 || >2", ">=0.5 || =5.0.0", "<1, >=0.5 || <1, =5.0.0 || >2, >=0.5 || >2, =5.0.0"},
		{"<1", strings.Repeat("=1.2.3 || ", 20) + "=1.2.3", "<1"}, // too long: the device finds out
	} {
		if got := stone("3.0.0", c.requires, "").From(c.from); got != c.want {
			t.Errorf("%q and %q: %q, want %q", c.from, c.requires, got, c.want)
		}
	}
	constraint := rapid.SampledFrom([]string{"", "<2", ">=1.1.0 <1.3.0", "~1.2 || =2.0.1", "^1 || ^3, <3.5", "1.1 - 2.0", "!=1.2.0", "*", "1.x"})
	version := rapid.SampledFrom([]string{"0.9.0", "1.1.0", "1.2.0", "1.2.9", "1.3.0", "2.0.0-rc.1", "2.0.0", "2.0.1", "3.0.0", "3.6.0"})
	rapid.Check(t, func(t *rapid.T) {
		from, requires, v := constraint.Draw(t, "from"), constraint.Draw(t, "requires"), version.Draw(t, "version")
		r := stone("9.0.0", requires, "")
		a, errA := topics.Satisfies(v, from)
		b, errB := r.Takes(v)
		both, err := topics.Satisfies(v, r.From(from))
		if errA != nil || errB != nil || err != nil || both != (a && b) {
			t.Fatalf("%s: %q is %v, %q is %v, %q is %v (%v, %v, %v)", v, from, a, requires, b, r.From(from), both, errA, errB, err)
		}
	})
}

func TestDevicesAreToldWhatTheReleaseRequires(t *testing.T) {
	r := fleet.Rollout{ID: "r-1", Revision: 1, Kind: topics.EntryUpdate, State: fleet.Running, Sequence: 1, Component: "system",
		RolloutSpec: fleet.RolloutSpec{Release: "camera", Version: "3.0.0", Cohorts: []string{"lobby"}, From: "<9"}}
	release := stone("3.0.0", ">=2.0", "")
	release.Path, release.Length, release.SHA256 = "system/camera/3.0.0", 1, strings.Repeat("0", 64)
	p := fleet.Planned{Rollout: r, Release: release}
	m, err := fleet.BuildManifest(fleet.ManifestInput{TrustDomain: "fleet.test", Cohort: "lobby", Rollouts: []fleet.Planned{p},
		Pin: &topics.SnapshotPin{Version: 1, Length: 1, SHA256: strings.Repeat("0", 64)}, Version: 1, Now: t0})
	if err != nil || m.Entries[0].From != "<9, >=2.0" {
		t.Fatalf("%+v, %v", m.Entries, err)
	}
	for version, want := range map[string]int{"1.0.0": 0, "2.0.0": 1} {
		d := fleet.Device{Model: "cam-a", Cohorts: []string{"lobby"}, Versions: map[string]string{"system": version}}
		if got := fleet.Targets(d, map[string][]fleet.Planned{"lobby": {p}}); len(got) != want {
			t.Errorf("%s is told %+v", version, got)
		}
	}
}
