package topics

import (
	"cmp"
	"slices"
)

// Contender is what counts of an entry that a device qualifies for, when several
// want its component.
type Contender struct {
	Rollout   string
	Kind      EntryKind
	Version   string
	Priority  int64
	Sequence  int64
	Completed bool
}

// Contender returns what counts of the entry.
func (e Entry) Contender() Contender {
	return Contender{
		Rollout: e.Rollout, Kind: e.Kind, Version: e.Version, Priority: e.Priority, Sequence: e.Sequence,
		Completed: e.State == EntryCompleted,
	}
}

// Winner returns which rollout counts for a device that runs that version of the
// component; "" if there is no contender. The highest priority wins, then the
// newest. A completed one that the device has followed, or gone on from, gives
// way to newer updates to what it runs or higher. inProgress is the rollout that
// the device is following right now, "" for none: that one does not give way.
func Winner(contenders []Contender, running, inProgress string) (rollout string) {
	if len(contenders) == 0 {
		return ""
	}
	best := slices.MaxFunc(contenders, func(x, y Contender) int {
		return cmp.Or(
			cmp.Compare(x.Priority, y.Priority),
			cmp.Compare(x.Sequence, y.Sequence),
			cmp.Compare(y.Rollout, x.Rollout), // sequences are unique; this only makes a fault harmless
		)
	})
	// Who has gone on from it to something newer has followed it too.
	followed := running == best.Version || best.Kind != EntryRevert && lower(best.Version, running)
	if !best.Completed || !followed || best.Rollout == inProgress {
		return best.Rollout
	}
	var newer []Contender
	for _, c := range contenders {
		if c.Sequence > best.Sequence && c.Kind != EntryRevert && !lower(c.Version, running) {
			newer = append(newer, c)
		}
	}
	return cmp.Or(Winner(newer, running, inProgress), best.Rollout)
}

// lower reports whether a is older than b. What is no version is.
func lower(a, b string) bool {
	n, err := CompareVersions(a, b)
	return err != nil || n < 0
}
