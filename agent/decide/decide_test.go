package decide

import (
	"slices"
	"strings"
	"testing"
	"time"

	"groundswell/topics"

	"pgregory.net/rapid"
)

var now = time.Date(2027, 3, 3, 12, 0, 0, 0, time.UTC) // a Wednesday

// entry is a running rollout of 1.1.0 whose one wave covers everybody since an
// hour, all at once.
func entry(id string, change ...func(*topics.Entry)) topics.Entry {
	e := topics.Entry{
		Rollout: id, Revision: 1, Kind: topics.EntryUpdate, State: topics.EntryRunning, Sequence: 1,
		Component: "system", Release: "camera", Version: "1.1.0",
		Target: topics.Target{Path: "system/camera/1.1.0", Length: 1, SHA256: strings.Repeat("a", 64)},
		Models: []string{"cam-a"},
		Waves:  []topics.Wave{{Threshold: topics.Buckets, OpensAt: now.Add(-time.Hour)}},
	}
	for _, f := range change {
		f(&e)
	}
	return e
}

func facts(running string) Facts {
	return Facts{Model: "cam-a", Hardware: "rev-b", Bucket: 500_000, Versions: map[string]string{"system": running}}
}

func world(manifests ...[]topics.Entry) (topics.Assignment, map[string]topics.Manifest) {
	var a topics.Assignment
	held := map[string]topics.Manifest{}
	for i, entries := range manifests {
		name := string(rune('a' + i))
		a.Cohorts = append(a.Cohorts, name)
		held[name] = topics.Manifest{Cohort: name, Entries: entries}
	}
	return a, held
}

// valid is a world in which nothing expires soon.
func valid(a topics.Assignment, held map[string]topics.Manifest) World {
	w := World{Assigned: true, Assignment: a, Manifests: held, AssignmentUntil: now.AddDate(10, 0, 0), Until: map[string]time.Time{}}
	for cohort := range held {
		w.Until[cohort] = now.AddDate(10, 0, 0)
	}
	return w
}

func decideAt(t *testing.T, f Facts, now time.Time, manifests ...[]topics.Entry) Decision {
	t.Helper()
	a, held := world(manifests...)
	got, missing := Decide(valid(a, held), f, now)
	if missing != nil {
		t.Fatalf("missing %v", missing)
	}
	return got["system"]
}

func TestDecidesOnlyWithAManifestOfEachCohort(t *testing.T) {
	a, held := world([]topics.Entry{entry("r-1")}, nil, nil)
	delete(held, "c")
	delete(held, "b")
	got, missing := Decide(valid(a, held), facts("1.0.0"), now)
	if got != nil || !slices.Equal(missing, []string{"b", "c"}) {
		t.Fatalf("got %v, missing %v", got, missing)
	}
}

func TestWhatHasExpiredStartsNothing(t *testing.T) {
	busy := facts("1.0.0")
	busy.InProgress = map[string]Attempt{"system": {"r-1", entry("r-1").Target.SHA256}}
	for name, c := range map[string]struct {
		change func(*World)
		cohort string
		wait   bool
	}{
		"nothing has":                   {func(*World) {}, "", false},
		"the assignment":                {func(w *World) { w.AssignmentUntil = now }, "", true},
		"the manifest":                  {func(w *World) { w.Until["a"] = now }, "a", true},
		"the manifest of another":       {func(w *World) { w.Until["b"] = now.Add(-time.Hour) }, "b", true},
		"nobody knows until when":       {func(w *World) { delete(w.Until, "a") }, "a", true},
		"that of a cohort it has left":  {func(w *World) { w.Until["left"] = now }, "", false},
		"the manifest, in a nanosecond": {func(w *World) { w.Until["a"] = now.Add(1) }, "", false},
	} {
		w := valid(world([]topics.Entry{entry("r-1")}, nil))
		c.change(&w)
		for _, f := range []Facts{facts("1.0.0"), busy} {
			decisions, _ := Decide(w, f, now)
			d := decisions["system"]
			if (d.Reason == ReasonExpired) != c.wait || (d.Action == Start) == c.wait || c.wait && (d.Action != Wait || d.Cohort != c.cohort) {
				t.Errorf("%s: got %+v", name, d)
			}
			if d := MayActivate(Staged{Entry: entry("r-1")}, d, View{Live: true}, f, w.Assignment, now); (d.Action == Start) == c.wait {
				t.Errorf("%s: it activates: %+v", name, d)
			}
		}
	}
}

func TestManifestOfAnotherCohortTakesNoPart(t *testing.T) {
	a, held := world(nil)
	held["left"] = topics.Manifest{Cohort: "left", Entries: []topics.Entry{entry("r-1")}}
	got, _ := Decide(valid(a, held), facts("1.0.0"), now)
	if d := got["system"]; d.Action != None || d.Reason != ReasonNothing {
		t.Fatalf("got %+v", d)
	}
}

func TestWinnerAndWhatItMeans(t *testing.T) {
	on := func(change ...func(*topics.Entry)) topics.Entry { return entry("r-1", change...) }
	with := func(f Facts, change func(*Facts)) Facts { change(&f); return f }
	busyWith := func(rollout string) func(*Facts) {
		return func(f *Facts) {
			f.InProgress = map[string]Attempt{"system": {rollout, strings.Repeat("a", 64)}}
		}
	}
	paused := func(e *topics.Entry) { e.State = topics.EntryPaused }
	from := func(c string) func(*topics.Entry) { return func(e *topics.Entry) { e.From = c } }
	version := func(v string) func(*topics.Entry) { return func(e *topics.Entry) { e.Version = v } }
	newer := entry("r-2", func(e *topics.Entry) { e.Sequence, e.Version = 2, "1.2.0" })
	revert := entry("r-3", func(e *topics.Entry) {
		e.Sequence, e.Priority, e.Kind, e.Version, e.From = 3, 1, topics.EntryRevert, "1.0.0", "=1.1.0"
	})
	done := func(e topics.Entry) topics.Entry { e.State = topics.EntryCompleted; return e }
	later := entry("r-4", func(e *topics.Entry) { e.Sequence, e.Version = 4, "1.2.0" }) // of no priority
	urgent := on(func(e *topics.Entry) { e.Priority = 9 })
	newest := entry("r-5", func(e *topics.Entry) { e.Sequence, e.Version = 5, "1.3.0" })
	edited := func(e topics.Entry, change func(*topics.Entry)) topics.Entry { change(&e); return e }

	cases := []struct {
		name    string
		facts   Facts
		entries [][]topics.Entry
		action  Action
		reason  string
		rollout string
	}{
		{"its turn has come", facts("1.0.0"), [][]topics.Entry{{on()}}, Start, ReasonTurn, "r-1"},
		{"no entries", facts("1.0.0"), [][]topics.Entry{{}}, None, ReasonNothing, ""},
		{"completed, for those who were offline", facts("1.0.0"),
			[][]topics.Entry{{on(func(e *topics.Entry) { e.State = topics.EntryCompleted })}}, Start, ReasonTurn, "r-1"},
		{"other model", with(facts("1.0.0"), func(f *Facts) { f.Model = "cam-b" }), [][]topics.Entry{{on()}}, None, ReasonNothing, ""},
		{"other hardware", facts("1.0.0"), [][]topics.Entry{{on(func(e *topics.Entry) { e.Hardware = []string{"rev-a"} })}}, None, ReasonNothing, ""},
		{"named hardware", facts("1.0.0"), [][]topics.Entry{{on(func(e *topics.Entry) { e.Hardware = []string{"rev-a", "rev-b"} })}}, Start, ReasonTurn, "r-1"},
		{"other component", facts("1.0.0"), [][]topics.Entry{{on(func(e *topics.Entry) { e.Component = "modem" })}}, None, ReasonNothing, ""},
		{"from admits", facts("1.0.0"), [][]topics.Entry{{on(from("<1.1"))}}, Start, ReasonTurn, "r-1"},
		{"from admits a pre-release", facts("1.0.0-rc.1"), [][]topics.Entry{{on(from("<1.1"))}}, Start, ReasonTurn, "r-1"},
		{"from does not admit", facts("0.9.0"), [][]topics.Entry{{on(from(">=1.0"))}}, None, ReasonNothing, ""},
		{"satisfied, though from no longer admits it", facts("1.1.0"), [][]topics.Entry{{on(from("<1.1"))}}, None, ReasonSatisfied, "r-1"},
		{"satisfied by the newest, no way back to an older one", facts("1.2.0"), [][]topics.Entry{{on(), newer}}, None, ReasonSatisfied, "r-2"},
		{"newest sequence wins", facts("1.0.0"), [][]topics.Entry{{on(), newer}}, Start, ReasonTurn, "r-2"},
		{"priority beats sequence", facts("1.0.0"), [][]topics.Entry{{on(func(e *topics.Entry) { e.Priority = 5 }), newer}}, Start, ReasonTurn, "r-1"},
		{"newest does not qualify, so the older one wins", facts("1.0.0"),
			[][]topics.Entry{{on(), edited(newer, from(">=1.1"))}}, Start, ReasonTurn, "r-1"},
		{"paused winner blocks", facts("1.0.0"), [][]topics.Entry{{on(), edited(newer, paused)}}, None, ReasonPaused, "r-2"},
		{"given-up winner blocks", with(facts("1.0.0"), func(f *Facts) { f.Failures = map[string]int{"r-2": 2} }),
			[][]topics.Entry{{on(), newer}}, None, ReasonGivenUp, "r-2"},
		{"one failure is not the end", with(facts("1.0.0"), func(f *Facts) { f.Failures = map[string]int{"r-1": 1} }),
			[][]topics.Entry{{on()}}, Start, ReasonTurn, "r-1"},
		{"own number of attempts", with(facts("1.0.0"), func(f *Facts) { f.Failures = map[string]int{"r-1": 2} }),
			[][]topics.Entry{{on(func(e *topics.Entry) { e.Attempts = 3 })}}, Start, ReasonTurn, "r-1"},
		{"wave not open yet blocks", facts("1.0.0"),
			[][]topics.Entry{{on(), edited(newer, func(e *topics.Entry) { e.Waves = nil })}}, Wait, ReasonWave, "r-2"},
		{"update never downgrades", facts("1.2.0"), [][]topics.Entry{{on()}}, None, ReasonDowngrade, "r-1"},
		{"update to a pre-release of what runs is a downgrade", facts("1.1.0"), [][]topics.Entry{{on(version("1.1.0-rc.1"))}}, None, ReasonDowngrade, "r-1"},
		{"revert goes back", facts("1.1.0"), [][]topics.Entry{{revert}}, Start, ReasonTurn, "r-3"},
		{"revert is only for those who run it", facts("0.9.0"), [][]topics.Entry{{revert, on()}}, Start, ReasonTurn, "r-1"},
		{"reverted stays reverted", facts("1.0.0"), [][]topics.Entry{{revert, on()}}, None, ReasonSatisfied, "r-3"},
		{"a completed revert holds nobody who has followed it", facts("1.0.0"), [][]topics.Entry{{done(revert), later}}, Start, ReasonTurn, "r-4"},
		{"but whoever has not, follows it first", facts("1.1.0"), [][]topics.Entry{{done(revert), later}}, Start, ReasonTurn, "r-3"},
		{"a revert that still runs holds", facts("1.0.0"), [][]topics.Entry{{revert, later}}, None, ReasonSatisfied, "r-3"},
		{"what a completed revert has beaten stays beaten", facts("1.0.0"), [][]topics.Entry{{done(revert), on()}}, None, ReasonSatisfied, "r-3"},
		{"a completed winner gives way to no revert", facts("1.1.0"),
			[][]topics.Entry{{on(func(e *topics.Entry) { e.State, e.Priority = topics.EntryCompleted, 9 }), revert}}, None, ReasonSatisfied, "r-1"},
		{"nor to a lower version", facts("1.0.0"), [][]topics.Entry{{done(revert), edited(later, version("0.9.0"))}}, None, ReasonSatisfied, "r-3"},
		{"it gives way to a paused one, which blocks", facts("1.0.0"), [][]topics.Entry{{done(revert), edited(later, paused)}}, None, ReasonPaused, "r-4"},
		{"the trial of a completed one goes on", with(facts("1.0.0"), busyWith("r-3")), [][]topics.Entry{{done(revert), later}}, Start, ReasonInProgress, "r-3"},
		{"a later update goes on beside it", with(facts("1.0.0"), busyWith("r-4")), [][]topics.Entry{{done(revert), later}}, Start, ReasonInProgress, "r-4"},
		{"its trial too, when what was urgent is below it", with(facts("1.2.0"), busyWith("r-4")), [][]topics.Entry{{done(urgent), later}}, Start, ReasonInProgress, "r-4"},
		{"and whoever has gone on goes on again", facts("1.2.0"), [][]topics.Entry{{done(urgent), later, newest}}, Start, ReasonTurn, "r-5"},
		{"but not below what it runs", facts("1.4.0"), [][]topics.Entry{{done(urgent), later, newest}}, None, ReasonDowngrade, "r-1"},
		{"same rollout in two manifests: the higher revision", facts("1.0.0"),
			[][]topics.Entry{{on()}, {on(paused, func(e *topics.Entry) { e.Revision = 2 })}}, None, ReasonPaused, "r-1"},
		{"and the other way round", facts("1.0.0"),
			[][]topics.Entry{{on(func(e *topics.Entry) { e.Revision = 3 })}, {on(paused, func(e *topics.Entry) { e.Revision = 2 })}}, Start, ReasonTurn, "r-1"},
		{"three cohorts, two rollouts for one component", facts("1.0.0"),
			[][]topics.Entry{{on()}, {newer}, {on(func(e *topics.Entry) { e.Revision = 7 })}}, Start, ReasonTurn, "r-2"},
		{"three cohorts, the newer one paused in one of them", facts("1.0.0"),
			[][]topics.Entry{{on(), newer}, {edited(newer, func(e *topics.Entry) { e.Revision, e.State = 2, topics.EntryPaused })}, {on()}}, None, ReasonPaused, "r-2"},
		{"canary cohort's wave counts though the others' is shut", facts("1.0.0"),
			[][]topics.Entry{{on(func(e *topics.Entry) { e.Waves = nil })}, {on()}}, Start, ReasonTurn, "r-1"},
		{"in progress goes on, whatever from says", with(facts("1.0.5"), busyWith("r-1")),
			[][]topics.Entry{{on(from("<1.0.5"))}}, Start, ReasonInProgress, "r-1"},
		{"in progress goes on outside its wave", with(facts("1.0.0"), busyWith("r-1")),
			[][]topics.Entry{{on(func(e *topics.Entry) { e.Waves = nil })}}, Start, ReasonInProgress, "r-1"},
		{"in progress stops when paused", with(facts("1.0.0"), busyWith("r-1")), [][]topics.Entry{{on(paused)}}, Stop, ReasonPaused, "r-1"},
		{"in progress stops when cancelled", with(facts("1.0.0"), busyWith("r-1")), [][]topics.Entry{{}}, Stop, ReasonCancelled, ""},
		{"in progress stops when superseded", with(facts("1.0.0"), busyWith("r-1")), [][]topics.Entry{{on(), newer}}, Stop, ReasonSuperseded, "r-2"},
		{"in progress stops when the artifact is another", with(facts("1.0.0"), busyWith("r-1")),
			[][]topics.Entry{{on(func(e *topics.Entry) { e.Target.SHA256 = strings.Repeat("b", 64) })}}, Stop, ReasonSuperseded, "r-1"},
		{"after a failure it waits", with(facts("1.0.0"), func(f *Facts) {
			f.Failures, f.NotBefore = map[string]int{"r-1": 1}, map[string]time.Time{"r-1": now.Add(time.Minute)}
		}), [][]topics.Entry{{on()}}, Wait, ReasonBackoff, "r-1"},
		{"what was put back waits under another rollout", with(facts("1.0.0"), penalty("r-0", time.Minute)), [][]topics.Entry{{on()}}, Wait, ReasonPenalty, "r-1"},
		{"its own rollout counts its own attempts", with(facts("1.0.0"), penalty("r-1", time.Minute)), [][]topics.Entry{{on()}}, Start, ReasonTurn, "r-1"},
		{"a penalty ends", with(facts("1.0.0"), penalty("r-0", 0)), [][]topics.Entry{{on()}}, Start, ReasonTurn, "r-1"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := decideAt(t, c.facts, now, c.entries...)
			if got.Action != c.action || got.Reason != c.reason || got.Entry.Rollout != c.rollout {
				t.Errorf("got %s, %s, %q; want %s, %s, %q", got.Action, got.Reason, got.Entry.Rollout, c.action, c.reason, c.rollout)
			}
			if got.Entry.Rollout != "" && got.Cohort == "" {
				t.Error("nobody knows whose manifest it was")
			}
		})
	}
}

// penalty is of the artifact of entry r-1.
func penalty(rollout string, left time.Duration) func(*Facts) {
	return func(f *Facts) {
		f.Penalties = map[string]Penalty{entry("r-1").Target.SHA256: {Rollout: rollout, NotBefore: now.Add(left)}}
	}
}

func TestOrderOfManifestsDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var entries []topics.Entry
		for i := range rapid.IntRange(1, 6).Draw(r, "entries") {
			entries = append(entries, entry("r-"+string(rune('a'+i)), func(e *topics.Entry) {
				e.Sequence = int64(i + 1)
				e.Priority = rapid.Int64Range(-1, 1).Draw(r, "priority")
				e.Version = rapid.SampledFrom([]string{"0.9.0", "1.0.0", "1.1.0", "1.2.0"}).Draw(r, "version")
				e.State = rapid.SampledFrom([]topics.EntryState{topics.EntryRunning, topics.EntryPaused, topics.EntryCompleted}).Draw(r, "state")
				e.From = rapid.SampledFrom([]string{"", "<1.1", "=1.1.0"}).Draw(r, "from")
			}))
		}
		a, held := world(entries)
		one, _ := Decide(valid(a, held), facts("1.0.0"), now)
		split := make([][]topics.Entry, 3)
		for i, e := range rapid.Permutation(entries).Draw(r, "order") {
			split[i%3] = append(split[i%3], e)
		}
		a, held = world(split...)
		three, _ := Decide(valid(a, held), facts("1.0.0"), now)
		x, y := one["system"], three["system"]
		if x.Action != y.Action || x.Reason != y.Reason || x.Entry.Rollout != y.Entry.Rollout {
			r.Fatalf("one manifest: %+v; three: %+v", x, y)
		}
	})
}

func TestSpreadPutsEachDeviceAtItsMoment(t *testing.T) {
	opens := now.Add(-10 * time.Minute)
	e := entry("r-1", func(e *topics.Entry) {
		e.Waves = []topics.Wave{
			{Index: 0, Threshold: 100_000, OpensAt: opens.Add(-time.Hour)},
			{Index: 1, Start: 100_000, Threshold: 300_000, OpensAt: opens, SpreadSeconds: 1200},
		}
		e.Offset = 900_000
	})
	for _, c := range []struct {
		bucket int64
		until  time.Duration // after opens; -1: at once
		wave   int
		reason string
	}{
		{950_000, -1, 0, ReasonTurn},                 // position 50,000: the canary
		{0, -1, 1, ReasonTurn},                       // 100,000: the first of wave 1
		{99_999, -1, 1, ReasonTurn},                  // just before the half
		{150_000, 15 * time.Minute, 1, ReasonSpread}, // three quarters
		{200_000, 0, -1, ReasonWave},                 // 300,000: not covered
	} {
		f := facts("1.0.0")
		f.Bucket = c.bucket
		d := decideAt(t, f, now, []topics.Entry{e})
		if d.Reason != c.reason || d.Wave != c.wave {
			t.Errorf("bucket %d: got %s in wave %d, want %s in %d", c.bucket, d.Reason, d.Wave, c.reason, c.wave)
		}
		if c.until > 0 && !d.Until.Equal(opens.Add(c.until)) {
			t.Errorf("bucket %d: until %v, want %v", c.bucket, d.Until, opens.Add(c.until))
		}
		if d.Action == Wait && !d.Until.IsZero() {
			if again := decideAt(t, f, d.Until, []topics.Entry{e}); again.Action != Start {
				t.Errorf("bucket %d: at its moment it does not start: %+v", c.bucket, again)
			}
		}
	}
}
