package store_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

// standing is what the registry holds about devices and their deployments.
func (w *world) standing() (out []string) {
	w.t.Helper()
	for _, query := range []string{
		`SELECT concat_ws(' ', device, state, attempt, sequence, outcome, outcome_attempt) FROM rollout_device ORDER BY device`,
		`SELECT concat_ws(' ', device, component, version, sequence) FROM device_version ORDER BY device`,
		`SELECT concat_ws(' ', device, connected, connection, epoch, sequence) FROM contact ORDER BY device`,
		`SELECT concat_ws(' ', device, epoch, sequence, state) FROM report ORDER BY device, epoch, sequence`,
	} {
		rows, err := w.db.Query(w.t.Context(), query)
		if err != nil {
			w.t.Fatal(err)
		}
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				w.t.Fatal(err)
			}
			out = append(out, line)
		}
		if rows.Err() != nil {
			w.t.Fatal(rows.Err())
		}
	}
	return out
}

func (w *world) presence(device string, connected bool, connection int64) store.UplinkRecord {
	p := topics.Presence{Schema: 1, Connected: connected, Model: "m1", Hardware: "r1", Connection: connection, Node: "n1", At: time.Now()}
	return w.Uplink(topics.DevicePresence(device), "m1", must(topics.Encode(p)))
}

func TestFirstContactRegistersAndAssigns(t *testing.T) {
	w := newWorld(t)
	must(w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "all", Selector: "model=m1,hardware=r1"}))
	must(w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "others", Selector: "model=m2"}))
	must(w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "list", Devices: []string{"cam-1", "cam-9"}}))
	got := w.Apply(w.presence("cam-1", true, 1))
	if got[0].Outcome != store.Applied || got[0].Kind != topics.KindPresence {
		t.Fatalf("got %+v", got)
	}
	d := must(w.Device(t.Context(), "cam-1"))
	if d.Model != "m1" || d.Hardware != "r1" || d.Bucket != topics.Bucket("cam-1") || !d.Connected || !slices.Equal(d.Cohorts, []string{"all", "list"}) || d.FirstContact.IsZero() {
		t.Errorf("got %+v", d)
	}
	a := w.assignment("cam-1")
	if !slices.Equal(a.Cohorts, d.Cohorts) || a.Device != "cam-1" || a.Version != d.AssignmentVersion {
		t.Errorf("got %+v", a)
	}
	rows := must(w.ClaimOutbox(t.Context(), store.DefaultRegion, []topics.Kind{topics.KindAssignment}, 10, time.Minute))
	if len(rows) != 1 || rows[0].Topic != "fleet/v1/devices/cam-1/assignment" || rows[0].Version != a.Version {
		t.Errorf("got %+v", rows)
	}
	// The next report changes nothing about that.
	w.Apply(w.Beat("cam-1", "m1", "1.0.0", 1, 1))
	if again := w.assignment("cam-1"); again.Version != a.Version {
		t.Errorf("assigned again: %+v", again)
	}
}

func TestDeviceWithANewCertificateChangesCohorts(t *testing.T) {
	w := newWorld(t)
	must(w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "one", Selector: "model=m1"}))
	must(w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "two", Selector: "model=m2"}))
	w.Apply(w.Beat("cam-1", "m1", "1.0.0", 1, 1))
	before := w.assignment("cam-1")
	w.Apply(w.Beat("cam-1", "m2", "1.0.0", 1, 2))
	after := w.assignment("cam-1")
	if !slices.Equal(before.Cohorts, []string{"one"}) || !slices.Equal(after.Cohorts, []string{"two"}) || after.Version <= before.Version {
		t.Errorf("got %+v then %+v", before, after)
	}
	if n := w.number(`SELECT count(*) FROM audit WHERE action = 'device.certify' AND object = 'device/cam-1' AND before_revision = 1 AND after_revision = 2
		AND detail ->> 'model_before' = 'm1' AND detail ->> 'model' = 'm2'`); n != 1 {
		t.Errorf("%d audit rows of the change", n)
	}
}

// A device that gave up is told to retry: its attempts begin with 1 again, in
// the same epoch, and its sequence goes on.
func TestRetryAfterTheLastAttemptIsCounted(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(2)
	r := w.Running(fleet.PolicySpec{Waves: waves(100)})
	failed := []store.UplinkRecord{w.Status(ids[0], r.ID, topics.StateRolledBack, 1, 100), w.Status(ids[0], r.ID, topics.StateRolledBack, 2, 110)}
	w.Apply(failed...)
	retried := w.Status(ids[0], r.ID, topics.StateCommitted, 1, 120)
	w.Apply(retried)
	w.Apply(failed...) // late copies change nothing
	// In one batch it is the same.
	w.Apply(w.Status(ids[1], r.ID, topics.StateCommitted, 1, 120), w.Status(ids[1], r.ID, topics.StateRolledBack, 2, 110))
	devices, _, err := w.RolloutDevices(t.Context(), r.ID, nil, "", store.Page{})
	if err != nil || len(devices) != 2 {
		t.Fatalf("got %+v, %v", devices, err)
	}
	for _, d := range devices {
		if d.State != topics.StateCommitted || d.Outcome != topics.StateCommitted || d.Attempt != 1 {
			t.Errorf("got %+v", d)
		}
	}
	if got := must(w.Rollout(t.Context(), r.ID)); got.Waves[0].Counts["committed"] != 2 {
		t.Errorf("got %+v", got.Waves[0].Counts)
	}
}

func TestRedeliveryAndReorderingChangeNothing(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(6)
	r := w.Running(fleet.PolicySpec{Waves: waves(100)})
	var records []store.UplinkRecord
	for i, id := range ids {
		records = append(records,
			w.Status(id, r.ID, topics.StateDownloading, 1, 2), w.Status(id, r.ID, topics.StateTrying, 1, 3),
			w.Status(id, r.ID, topics.StateRolledBack, 1, 4), w.Status(id, r.ID, topics.StateDownloading, 2, 5),
			w.presence(id, true, 1), w.presence(id, false, 1), w.presence(id, true, 2), w.Beat(id, "m1", "1.0.0", 1, 6))
		if i%2 == 0 {
			records = append(records, w.Status(id, r.ID, topics.StateCommitted, 2, 7), w.presence(id, false, 2))
		}
	}
	inOrder := slices.Clone(records)
	// Once in order, as the reference.
	reference := newWorldLike(t, w, r)
	reference.Apply(inOrder...)
	want := reference.standing()
	for range 6 {
		rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
		for rest := records; len(rest) > 0; {
			n := min(len(rest), 1+rand.N(12))
			w.Apply(rest[:n]...)
			rest = rest[n:]
		}
		if diff := cmp.Diff(want, w.standing()); diff != "" {
			t.Fatalf("(-in order +reordered)\n%s", diff)
		}
	}
	for i, got := range w.Apply(inOrder...) {
		if got.Outcome != store.Duplicate {
			t.Errorf("record %d on its second way: %+v", i, got)
		}
	}
	counts := must(w.Rollout(t.Context(), r.ID)).Waves[0].Counts
	if counts["committed"] != 3 || counts["downloading"] != 3 {
		t.Errorf("got %v", counts)
	}
}

// newWorldLike is another world with the same devices and the same rollout.
func newWorldLike(t *testing.T, w *world, r fleet.Rollout) *world {
	t.Helper()
	other := anotherWorld(t)
	other.Seed(6)
	started := other.Running(fleet.PolicySpec{Waves: waves(100)})
	other.exec(`ALTER TABLE rollout_cohort DROP CONSTRAINT rollout_cohort_rollout_fkey; ALTER TABLE rollout_wave DROP CONSTRAINT rollout_wave_rollout_fkey`)
	for _, table := range []string{"rollout_cohort", "rollout_wave"} {
		other.exec(`UPDATE `+table+` SET rollout = $1 WHERE rollout = $2`, r.ID, started.ID)
	}
	other.exec(`UPDATE rollout SET id = $1 WHERE id = $2`, r.ID, started.ID)
	return other
}

func TestPoisonRecordDoesNotStopTheOthers(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(3)
	r := w.Running(fleet.PolicySpec{})
	// Legal JSON, legal for the contract, and refused by PostgreSQL: U+0000.
	poison := w.Status(ids[1], r.ID, topics.StateDownloading, 1, 5)
	poison.Payload = bytes.Replace(poison.Payload, []byte(`"state"`), []byte(`"detail":"a\u0000b","state"`), 1)
	if _, err := topics.DecodeStatus(poison.Payload); err != nil {
		t.Fatal(err)
	}
	poisonedBeat := w.Beat(ids[2], "m1", "1.0.0", 1, 9)
	poisonedBeat.Payload = bytes.Replace(poisonedBeat.Payload, []byte(`"clock"`), []byte(`"x":"\u0000","clock"`), 1)
	unreadable := w.Uplink(topics.DeviceStatus(ids[0]), "m1", []byte("{"))
	nowhere := w.Uplink("fleet/v1/nothing", "m1", []byte("{}"))
	unstamped := w.Beat("cam-x", "", "1.0.0", 1, 1)
	batch := []store.UplinkRecord{
		w.Status(ids[0], r.ID, topics.StateDownloading, 1, 3), poison, unreadable, nowhere, unstamped,
		w.Status(ids[1], r.ID, topics.StateDownloading, 1, 6), poisonedBeat, w.Status(ids[2], r.ID, topics.StateDownloading, 1, 7),
	}
	want := []store.UplinkOutcome{store.Applied, store.Dead, store.Dead, store.Dead, store.Dead, store.Applied, store.Dead, store.Applied}
	for round := range 2 {
		for i, got := range w.Apply(batch...) {
			if round == 1 && want[i] == store.Applied {
				want[i] = store.Duplicate
			}
			if got.Outcome != want[i] || (got.Outcome == store.Dead) != (got.Reason != "") {
				t.Errorf("round %d, record %d: got %+v, want %s", round, i, got, want[i])
			}
		}
	}
	letters, _, err := w.DeadLetters(t.Context(), store.Page{})
	if err != nil || len(letters) != 5 {
		t.Fatalf("%d dead letters, %v: %+v", len(letters), err, letters)
	}
	for _, l := range letters {
		if l.Sequence == poison.Sequence && (!bytes.Equal(l.Payload, poison.Payload) || l.Topic != poison.Topic) {
			t.Errorf("not kept as it came: %+v", l)
		}
	}
	alerts, _, err := w.Alerts(t.Context(), "", store.Page{})
	if err != nil || len(alerts) != 5 {
		t.Fatalf("%d alerts, %v: %+v", len(alerts), err, alerts)
	}
	for i, object := range []string{"device/" + ids[0], "device/" + ids[1], "device/" + ids[2], "device/cam-x", "uplink"} {
		if a := alerts[i]; a.Kind != "dead-letter" || a.Object != object || a.Count != 1 || !strings.Contains(a.Message, "registry can never store") {
			t.Errorf("got %+v, want one about %s", a, object)
		}
	}
	if n := w.number(`SELECT count(*) FROM device WHERE id = 'cam-x'`); n != 0 {
		t.Error("a device without a certificate's stamp was registered")
	}
}

func TestReportOfAStrangerCountsNowhere(t *testing.T) {
	w := newWorld(t)
	w.Seed(2)
	r := w.Running(fleet.PolicySpec{})
	stranger := w.Status("stranger", r.ID, topics.StateFailed, 1, 1)
	stranger.Model = "m2"
	w.Apply(stranger, w.Status("cam-00000", "r-unknown", topics.StateFailed, 1, 2))
	if n := w.number(`SELECT count(*) FROM rollout_device`); n != 0 {
		t.Errorf("%d counted", n)
	}
	if n := w.number(`SELECT count(*) FROM report`); n != 2 {
		t.Errorf("%d in the history", n)
	}
}

func TestRegistryBelievesTheVersionThatRuns(t *testing.T) {
	w := newWorld(t)
	w.Seed(1)
	r := w.Running(fleet.PolicySpec{})
	w.Apply(w.Status("cam-00000", r.ID, topics.StateCommitted, 1, 3))
	w.Apply(w.Beat("cam-00000", "m1", "1.0.7", 1, 5)) // flashed by hand
	w.Apply(w.Beat("cam-00000", "m1", "1.1.0", 1, 4)) // an older word
	d := must(w.Device(t.Context(), "cam-00000"))
	if d.Versions["system"] != "1.0.7" || d.Agent != "1.0.0" || d.CheckInMillis != 12 || d.LastCheckIn.IsZero() {
		t.Errorf("got %+v", d)
	}
	// A factory reset begins a new epoch.
	w.Apply(w.Beat("cam-00000", "m1", "1.0.0", 2, 1))
	if d := must(w.Device(t.Context(), "cam-00000")); d.Versions["system"] != "1.0.0" {
		t.Errorf("got %+v", d.Versions)
	}
}

func TestFailureStaysCountedWhileTheDeviceTriesAgain(t *testing.T) {
	w := newWorld(t)
	w.Seed(1)
	r := w.Running(fleet.PolicySpec{})
	w.Apply(w.Status("cam-00000", r.ID, topics.StateRolledBack, 1, 3), w.Status("cam-00000", r.ID, topics.StateDownloading, 2, 4))
	_, e, err := w.Evidence(t.Context(), r.ID)
	if err != nil || e.Wave != (fleet.Counts{Members: 1, Failed: 1}) || len(e.Window) == 0 || e.Window[0].Failures != 1 || e.Window[0].FirstReason != "because" {
		t.Fatalf("got %+v, %v", e, err)
	}
	w.Apply(w.Status("cam-00000", r.ID, topics.StateCommitted, 2, 5))
	_, e, err = w.Evidence(t.Context(), r.ID)
	if err != nil || e.Wave != (fleet.Counts{Members: 1, Committed: 1, Decided: 1}) || e.Window[0].Failures != 0 {
		t.Fatalf("got %+v, %v", e, err)
	}
}

func TestSilentAndUnreachedDevicesAreFoundByTheClock(t *testing.T) {
	w := newWorld(t)
	w.Seed(6)
	r := w.Running(fleet.PolicySpec{Waves: waves(100)})
	until := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	waiting := func(id string, until *time.Time) store.UplinkRecord {
		s := must(topics.DecodeStatus(w.Status(id, r.ID, topics.StateWaiting, 1, 2).Payload))
		s.Until = until
		return w.Uplink(topics.DeviceStatus(id), "m1", must(topics.Encode(s)))
	}
	w.Apply(w.Status("cam-00000", r.ID, topics.StateDownloading, 1, 2), w.Status("cam-00001", r.ID, topics.StateTrying, 1, 2),
		w.Status("cam-00002", r.ID, topics.StateCommitted, 1, 2), waiting("cam-00003", &until), waiting("cam-00004", nil))
	check := func(what string, want map[string]int64) {
		t.Helper()
		if diff := cmp.Diff(want, must(w.Rollout(t.Context(), r.ID)).Waves[0].Counts); diff != "" {
			t.Errorf("%s (-want +got)\n%s", what, diff)
		}
	}
	check("at first", map[string]int64{"downloading": 1, "trying": 1, "committed": 1, "waiting": 3})
	// Sixteen minutes later; cam-00001 has reported again.
	w.exec(`UPDATE rollout_device SET reported_at = reported_at - interval '16 minutes', until_at = until_at - interval '16 minutes' WHERE device <> 'cam-00001'`)
	w.exec(`UPDATE rollout_wave SET opened_at = opened_at - interval '16 minutes', opens_at = opens_at - interval '16 minutes'`)
	check("16 minutes later, to devices that have just appeared", map[string]int64{"silent": 2, "trying": 1, "committed": 1, "waiting": 2})
	w.exec(`UPDATE contact SET first_contact = first_contact - interval '16 minutes'`)
	check("16 minutes later", map[string]int64{"silent": 2, "trying": 1, "committed": 1, "waiting": 1, "unreached": 1})
	_, e, err := w.Evidence(t.Context(), r.ID)
	if err != nil || e.Wave != (fleet.Counts{Members: 6, Committed: 1, Silent: 2, Unreached: 1, Decided: 3}) || e.Window[0].Failures != 2 || e.Window[0].FirstReason != "silent" {
		t.Errorf("got %+v, %v", e, err)
	}
	// A polling device has three intervals, as it says itself or as its operator
	// says, whichever is longer; no heartbeat makes that for ever.
	polling := func(id string, seconds, sequence int64) {
		t.Helper()
		h := must(topics.DecodeHeartbeat(w.Beat(id, "m1", "1.0.0", 1, sequence).Payload))
		h.Mode, h.IntervalSeconds = topics.ModePolling, seconds
		w.Apply(w.Uplink(topics.DeviceHeartbeat(id), "m1", must(topics.Encode(h))))
	}
	seconds := func(id string) int64 {
		t.Helper()
		return w.number(`SELECT polling_seconds FROM contact WHERE device = $1`, id)
	}
	polling("cam-00000", 3600, 5)
	polling("cam-00005", 300, 5)
	polled := map[string]int64{"silent": 1, "downloading": 1, "trying": 1, "committed": 1, "waiting": 1, "unreached": 1}
	check("polling every hour", polled)
	polling("cam-00005", 400, 6)
	polled["waiting"] = 2
	delete(polled, "unreached")
	check("polling every 400 s", polled)
	if _, e, err := w.Evidence(t.Context(), r.ID); err != nil || e.Wave.Silent != 1 || e.Window[0].Failures != 1 {
		t.Errorf("got %+v, %v", e, err)
	}
	polling("cam-00005", 0, 7)
	if n := seconds("cam-00005"); n != 0 {
		t.Errorf("it no longer polls, and has %d s", n)
	}
	w.exec(`UPDATE device SET polling_seconds = 400 WHERE id = 'cam-00005'`)
	check("as its operator says", polled)
	polling("cam-00000", math.MaxInt64, 6)
	if n := seconds("cam-00000"); n != fleet.MaxPollingSeconds {
		t.Errorf("an endless interval is taken for %d s", n)
	}
	// One that has been dead for days says nothing about the release.
	w.exec(`UPDATE contact SET last_contact = now() - interval '3 days' WHERE device = 'cam-00005'`)
	polled["absent"], polled["waiting"] = 1, 1
	check("polling, dead", polled)
	// A pause stops the clock: after it nobody is silent at once.
	r = must(w.PauseRollout(t.Context(), alice, r.ID, r.Revision, ""))
	r = must(w.ResumeRollout(t.Context(), alice, r.ID, r.Revision, ""))
	check("resumed", map[string]int64{"downloading": 1, "trying": 1, "committed": 1, "waiting": 2, "absent": 1})
}

func TestTwoReplicasApplyTheSameAtOnce(t *testing.T) {
	w := newWorld(t)
	other := w.Open()
	must(w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "all", Selector: "model"}))
	var records []store.UplinkRecord
	for i := range 60 {
		records = append(records, w.Beat(fmt.Sprintf("cam-%02d", i), "m1", "1.0.0", 1, 1))
	}
	var all sync.WaitGroup
	for i, s := range []*store.Store{w.Store, other, w.Store, other} {
		mine := slices.Clone(records)
		if i%2 == 1 {
			slices.Reverse(mine)
		}
		all.Go(func() {
			if _, err := s.ApplyUplink(t.Context(), mine); err != nil {
				t.Error(err)
			}
		})
	}
	// A cohort that is made meanwhile misses nobody.
	all.Go(func() {
		if _, err := w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "late", Selector: "hardware=r1"}); err != nil {
			t.Error(err)
		}
	})
	all.Wait()
	if n := w.number(`SELECT count(*) FROM audit WHERE action = 'device.register'`); n != 60 {
		t.Errorf("%d audit rows of 60 registrations", n)
	}
	if n := w.number(`SELECT count(*) FROM cohort_member`); n != 120 {
		t.Errorf("%d memberships, want 120", n)
	}
	for _, id := range []string{"cam-00", "cam-33", "cam-59"} {
		if a := w.assignment(id); !slices.Equal(a.Cohorts, []string{"all", "late"}) {
			t.Errorf("%s: %v", id, a.Cohorts)
		}
	}
}

func TestCohortMadeWhileADeviceRegistersDoesNotMissIt(t *testing.T) {
	w := newWorld(t)
	// The registration is held up after it has looked for cohorts.
	w.exec(`BEGIN; LOCK TABLE contact`)
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := w.ApplyUplink(t.Context(), []store.UplinkRecord{w.Beat("cam-1", "m1", "1.0.0", 1, 1)}); err != nil {
			t.Error(err)
		}
	})
	w.awaitBlocked(1)
	all.Go(func() {
		if _, err := w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "all", Selector: "model=m1"}); err != nil {
			t.Error(err)
		}
	})
	w.awaitBlocked(2)
	w.exec(`COMMIT`)
	all.Wait()
	if a := w.assignment("cam-1"); !slices.Equal(a.Cohorts, []string{"all"}) {
		t.Errorf("got %v", a.Cohorts)
	}
}

func TestDatabaseFailureIsNoDeadLetter(t *testing.T) {
	w := newWorld(t)
	s := w.Open()
	s.Close()
	if got, err := s.ApplyUplink(t.Context(), []store.UplinkRecord{w.Beat("cam-1", "m1", "1.0.0", 1, 1)}); err == nil || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestAssignmentThatADeviceDoesNotHoldGoesOutAgain(t *testing.T) {
	w := newWorld(t)
	w.Seed(2)
	rows := must(w.ClaimOutbox(t.Context(), store.DefaultRegion, []topics.Kind{topics.KindAssignment}, 10, time.Minute))
	for _, row := range rows {
		if err := w.Published(t.Context(), row); err != nil {
			t.Fatal(err)
		}
	}
	holding := func(held int64, sequence int64) {
		h := must(topics.DecodeHeartbeat(w.Beat("cam-00000", "m1", "1.0.0", 1, sequence).Payload))
		h.Assignment = held
		w.Apply(w.Uplink(topics.DeviceHeartbeat("cam-00000"), "m1", must(topics.Encode(h))))
	}
	pending := func() int64 { return w.number(`SELECT count(*) FROM outbox WHERE kind = 'assignment'`) }
	if holding(0, 2); pending() != 0 {
		t.Error("it was published a moment ago")
	}
	w.exec(`UPDATE assignment SET published_at = now() - interval '1 hour'`)
	if holding(rows[0].Version, 3); pending() != 0 {
		t.Error("it holds the newest")
	}
	if holding(0, 4); pending() != 1 {
		t.Error("it was not sent again")
	}
	// The database is back from yesterday, and so is the broker: nobody but the
	// device knows of what it holds.
	w.exec(`DELETE FROM outbox`)
	w.exec(`UPDATE assignment SET version = version - 1000`)
	if holding(rows[0].Version, 5); pending() != 1 || w.assignment("cam-00000").Version <= rows[0].Version {
		t.Errorf("it holds %d, and would be sent %d", rows[0].Version, w.assignment("cam-00000").Version)
	}
	// What a device claims moves no version anywhere.
	w.exec(`DELETE FROM outbox`)
	w.exec(`UPDATE assignment SET published_at = now() - interval '1 hour'`)
	if holding(1<<62, 6); w.assignment("cam-00000").Version > time.Now().Unix()+7200 {
		t.Errorf("version %d", w.assignment("cam-00000").Version)
	}
}

func TestMembersOfARunningRolloutArePinned(t *testing.T) {
	w := newWorld(t)
	w.Seed(2)
	ctx := t.Context()
	must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "all", Selector: "model=m1,region!=us"}))
	must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "free", Selector: "region!=us"}))
	r := w.Running(fleet.PolicySpec{})
	d := must(w.Device(ctx, "cam-00000"))
	for i, region := range []string{"us", "eu", "us", "us"} { // it may come back, and leave again
		d.Region = region
		if _, _, err := w.PutDevice(ctx, alice, d.ID, d.DeviceAttributes, d.Revision+int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	if a := w.assignment(d.ID); !slices.Equal(a.Cohorts, []string{"all"}) {
		t.Errorf("while it runs: %v", a.Cohorts)
	}
	if _, err := w.UpdateCohort(ctx, alice, 1, fleet.CohortSpec{Name: "all", Selector: "model=m7"}); err != nil {
		t.Fatal(err)
	}
	if c := must(w.Cohort(ctx, "all")); c.Members != 2 {
		t.Errorf("%d members while it runs, want 2", c.Members)
	}
	must(w.CancelRollout(ctx, alice, r.ID, r.Revision, ""))
	if c := must(w.Cohort(ctx, "all")); c.Members != 0 {
		t.Errorf("%d members afterwards, want none", c.Members)
	}
	if a := w.assignment(d.ID); len(a.Cohorts) != 0 {
		t.Errorf("afterwards: %v", a.Cohorts)
	}
	if a := w.assignment("cam-00001"); !slices.Equal(a.Cohorts, []string{"free"}) {
		t.Errorf("afterwards: %v", a.Cohorts)
	}
}

func TestNobodyIsInMoreThanSixteenCohorts(t *testing.T) {
	w := newWorld(t)
	w.Seed(1)
	ctx := t.Context()
	for i := range topics.MaxCohorts {
		must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: fmt.Sprintf("c-%02d", i), Selector: "model"}))
	}
	_, err := w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "one-more", Selector: "model=m1"})
	wantField(t, err, "/selector")
	if !strings.Contains(err.Error(), "cam-00000") {
		t.Errorf("it does not say who: %v", err)
	}
	// A device that comes later gets the first sixteen, and an operator hears
	// of it.
	must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "one-more", Selector: "model=m2"}))
	w.Apply(w.Beat("other", "m2", "1.0.0", 1, 1))
	if a := w.assignment("other"); len(a.Cohorts) != topics.MaxCohorts {
		t.Errorf("got %v", a.Cohorts)
	}
	alerts, _, err := w.Alerts(ctx, "", store.Page{})
	if err != nil || len(alerts) != 1 || alerts[0].Object != "device/other" {
		t.Errorf("got %+v, %v", alerts, err)
	}
}
