package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"groundswell/topics"
)

// Requirement is a condition of a release on what a device runs of a component.
type Requirement struct {
	Component string `json:"component"`
	Versions  string `json:"versions"` // constraint
}

// Takes reports whether a device that runs version of the release's own component meets
// what the release requires of it. If not, it has to pass through another release first:
// a stepping stone.
func (r Release) Takes(version string) (bool, error) {
	for _, q := range r.Requires {
		if q.Component != r.Component {
			continue // what else a device runs, only the device knows for certain
		}
		if ok, err := topics.Satisfies(version, q.Versions); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// From is the constraint of a rollout together with what its release requires of its own
// component: what devices are told. If that cannot be said in one constraint, it is the
// rollout's alone, and devices find out when they have the release.
func (r Release) From(from string) string {
	all := from
	for _, q := range r.Requires {
		if q.Component == r.Component {
			all = and(all, q.Versions)
		}
	}
	if topics.CheckConstraint("from", all) != nil {
		return from
	}
	return all
}

// and is the constraint that admits what both admit.
func and(a, b string) string {
	if strings.TrimSpace(a) == "" {
		return b
	}
	if strings.TrimSpace(b) == "" {
		return a
	}
	var either []string
	for _, x := range strings.Split(a, "||") {
		for _, y := range strings.Split(b, "||") {
			either = append(either, strings.TrimSpace(x)+", "+strings.TrimSpace(y))
		}
	}
	return strings.Join(either, " || ")
}

// Stone is devices of a rollout that cannot take its release yet, because of what they
// run, and the way that leads there.
type Stone struct {
	From    string // version that they run
	Devices int64
	// Path is what to pass through, in order, without the rollout's own release. Empty:
	// no release leads there.
	Path []Release
	// Rollout brings them the first of Path. Empty: none does.
	Rollout string
	// Stays: that rollout wins over this one, so who has followed it stays where it is.
	Stays bool
}

// String says it to people.
func (s Stone) String(r Rollout) string {
	who := fmt.Sprintf("%d devices run %s, and", s.Devices, s.From)
	if s.Devices == 1 {
		who = fmt.Sprintf("1 device runs %s, and", s.From)
	}
	if len(s.Path) == 0 {
		return fmt.Sprintf("%s cannot take %s %s: no release leads there", who, r.Release, r.Version)
	}
	var way []string
	for _, p := range s.Path {
		way = append(way, p.Name+" "+p.Version)
	}
	text := fmt.Sprintf("%s can take %s %s only after %s", who, r.Release, r.Version, strings.Join(way, ", then "))
	switch {
	case s.Rollout == "":
		return fmt.Sprintf("%s, which no rollout brings them: one that is made now needs a priority below %d, or it wins over this one", text, r.Priority)
	case s.Stays:
		return fmt.Sprintf("%s, which rollout %s brings them, and there they stay: it wins over this one, and needs a priority below %d", text, s.Rollout, r.Priority)
	}
	return text + ", which rollout " + s.Rollout + " brings them"
}

// StonesOf says what is to know about the way of a rollout's devices, and of those that
// it is to bring to where others wait for them.
func (r Rollout) StonesOf(waiting []Planned) (warnings []string) {
	for _, s := range r.Stones {
		warnings = append(warnings, s.String(r))
	}
	for _, p := range waiting {
		further := p.Rollout
		takes, err := p.Release.Takes(r.Version)
		if r.Kind != topics.EntryUpdate || further.Kind != topics.EntryUpdate || err != nil || !takes ||
			!older(r.Version, further.Version) || !p.Release.Stepped() || !r.Beats(further) {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("rollout %s would bring devices from %s on to %s, but this one wins over it, and they stay: give this one a priority below %d",
			further.ID, r.Version, further.Version, further.Priority))
	}
	return warnings
}

// Beats reports whether r wins over another rollout of its component.
func (r Rollout) Beats(other Rollout) bool {
	return cmp.Or(cmp.Compare(r.Priority, other.Priority), cmp.Compare(r.Sequence, other.Sequence)) > 0
}

// Stepped reports whether the release requires something of its own component.
func (r Release) Stepped() bool {
	return slices.ContainsFunc(r.Requires, func(q Requirement) bool { return q.Component == r.Component })
}

// Path is the shortest way from what a device runs to a release that it cannot take yet,
// through other releases for its model and hardware revision, none of them below their
// security floor; the release itself is not in it. Of two ways of one length the one with
// the newer first step counts. Empty: there is none.
func Path(all []Release, target Release, running, model, hardware string) []Release {
	var usable []Release
	for _, r := range all {
		if r.Component == target.Component && r.RunsOn(model, hardware) && older(r.Version, target.Version) && !belowFloor(all, r, model, hardware) {
			usable = append(usable, r)
		}
	}
	// The newest first, so that it is found first.
	slices.SortStableFunc(usable, func(a, b Release) int {
		order, _ := topics.CompareVersions(b.Version, a.Version) // as below: they were checked
		return order
	})
	type step struct {
		release Release
		before  *step
	}
	reached := map[string]bool{running: true}
	var edge []*step
	from := func(s *step, version string) *step {
		if ok, err := target.Takes(version); err == nil && ok {
			return s
		}
		for _, r := range usable {
			if ok, err := r.Takes(version); reached[r.Version] || err != nil || !ok || !older(version, r.Version) {
				continue
			}
			reached[r.Version] = true
			edge = append(edge, &step{r, s})
		}
		return nil
	}
	end := from(nil, running)
	for ; end == nil && len(edge) > 0; edge = edge[1:] {
		end = from(edge[0], edge[0].release.Version)
	}
	var path []Release
	for ; end != nil; end = end.before {
		path = append(path, end.release)
	}
	slices.Reverse(path)
	return path
}

// older reports whether version a is below b. Those of releases were checked.
func older(a, b string) bool {
	order, err := topics.CompareVersions(a, b)
	return err == nil && order < 0
}

func belowFloor(all []Release, r Release, model, hardware string) bool {
	return slices.ContainsFunc(all, func(other Release) bool {
		return other.Component == r.Component && other.SecurityFloor != "" && other.RunsOn(model, hardware) && older(r.Version, other.SecurityFloor)
	})
}
