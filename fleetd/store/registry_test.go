package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

func TestMalformedCursorsAreRefused(t *testing.T) {
	w := newWorld(t)
	// "null", an object, too many keys, another type, not base64, U+0000.
	for _, cursor := range []string{"x", "!", "bnVsbA", "e30", "WyJhIiwiYiJd", "WzFd", "W251bGxd", "WyJcdTAwMDAiXQ", strings.Repeat("A", 5000)} {
		_, _, err := w.Devices(t.Context(), fleet.DeviceFilter{}, store.Page{Cursor: cursor})
		wantField(t, err, "/cursor")
	}
	for _, limit := range []int{-1, 1001} {
		_, _, err := w.Cohorts(t.Context(), store.Page{Limit: limit})
		wantField(t, err, "/limit")
	}
}

func TestTextThatPostgreSQLDoesNotTakeIsRefusedByField(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.Seed(1)
	r := w.Running(fleet.PolicySpec{})
	_, err := w.PauseRollout(ctx, alice, r.ID, r.Revision, "a\x00b")
	wantField(t, err, "/reason")
	_, err = w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "x", Selector: "model", Description: "\xff"})
	wantField(t, err, "/description")
	_, _, err = w.Audit(ctx, store.AuditFilter{Object: "\x00"}, store.Page{})
	wantField(t, err, "/object")
	_, err = w.Rollout(ctx, "\x00")
	if !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := w.Cohort(ctx, "\x00"); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := w.Release(ctx, "\x00", "1"); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestListsArePagedWithoutGapsOrRepeats(t *testing.T) {
	w := newWorld(t)
	ids := w.Seed(23)
	var got []string
	for page := (store.Page{Limit: 5}); ; {
		devices, next, err := w.Devices(t.Context(), fleet.DeviceFilter{Model: "m1"}, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range devices {
			got = append(got, d.ID)
		}
		if page.Cursor = next; next == "" {
			break
		}
	}
	if !slices.Equal(got, ids) {
		t.Errorf("got %v", got)
	}
	var versions []int64
	for i := range 7 {
		w.Apply(w.Status(ids[0], "r-x", topics.StateWaiting, 1, int64(i+2)))
	}
	for page := (store.Page{Limit: 2}); ; {
		reports, next, err := w.DeviceHistory(t.Context(), ids[0], page)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range reports {
			versions = append(versions, r.Sequence)
		}
		if page.Cursor = next; next == "" {
			break
		}
	}
	if !slices.Equal(versions, []int64{8, 7, 6, 5, 4, 3, 2}) {
		t.Errorf("got %v", versions)
	}
}

func TestDevicesOfACohortBelowAVersion(t *testing.T) {
	w := newWorld(t)
	must(w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "a", Selector: "model=m1"}))
	for id, version := range map[string]string{"d1": "1.9.9", "d2": "2.0.0-rc.1", "d3": "2.0.0", "d4": "10.0.0", "d5": "1.10.0"} {
		w.Apply(w.Beat(id, "m1", version, 1, 1))
	}
	w.Apply(w.Beat("d6", "m2", "1.0.0", 1, 1))
	list := func(f fleet.DeviceFilter) (ids []string) {
		t.Helper()
		devices, _, err := w.Devices(t.Context(), f, store.Page{})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range devices {
			ids = append(ids, d.ID)
		}
		return ids
	}
	yes, no := true, false
	w.Apply(w.presence("d3", true, 1))
	for _, c := range []struct {
		f    fleet.DeviceFilter
		want []string
	}{
		{fleet.DeviceFilter{Cohort: "a", Below: "2.0"}, []string{"d1", "d2", "d5"}},
		{fleet.DeviceFilter{Below: "1.10.0"}, []string{"d1", "d6"}},
		{fleet.DeviceFilter{Cohort: "a", Model: "m1", Version: "2.0.0"}, []string{"d3"}},
		{fleet.DeviceFilter{Component: "radio", Below: "9"}, nil},
		{fleet.DeviceFilter{Connected: &yes}, []string{"d3"}},
		{fleet.DeviceFilter{Connected: &no, Cohort: "a"}, []string{"d1", "d2", "d4", "d5"}},
		{fleet.DeviceFilter{State: topics.StateTrying}, nil},
	} {
		if got := list(c.f); !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %v, want %v", c.f, got, c.want)
		}
	}
	_, _, err := w.Devices(t.Context(), fleet.DeviceFilter{Below: "two"}, store.Page{})
	wantField(t, err, "/below")
	_, _, err = w.Devices(t.Context(), fleet.DeviceFilter{State: "asleep"}, store.Page{})
	wantField(t, err, "/state")
}

func TestFleetQueriesAreIndexed(t *testing.T) {
	w := newWorld(t)
	must(w.CreateCohort(t.Context(), alice, fleet.CohortSpec{Name: "a", Selector: "model=m1"}))
	w.exec(`INSERT INTO device (id, bucket, model, hardware) SELECT 'x' || i, i, 'm1', 'r1' FROM generate_series(1, 20000) i`)
	w.exec(`INSERT INTO cohort_member (cohort, device, bucket) SELECT 'a', id, bucket FROM device WHERE bucket % 10 = 0`)
	w.exec(`INSERT INTO device_version SELECT id, 'system', '1.0.0', '010000~', 1, 1 FROM device`)
	w.exec(`ANALYZE`)
	for name, query := range map[string]string{
		"below a version": `SELECT m.device FROM cohort_member m JOIN device_version v ON v.device = m.device
			WHERE m.cohort = 'a' AND v.component = 'system' AND v.sort_key < '020000~' AND m.device > '' ORDER BY m.device LIMIT 100`,
		"in a wave": `SELECT device FROM cohort_member WHERE cohort = 'a' AND bucket >= 100 AND bucket < 200`,
	} {
		rows, err := w.db.Query(t.Context(), `EXPLAIN `+query)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || strings.Contains(strings.Join(plan, "\n"), "Seq Scan") {
			t.Errorf("%s: %v\n%s", name, err, strings.Join(plan, "\n"))
		}
	}
}

func TestOperatorsChangeDevicesByRevision(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "eu", Selector: "region=eu,time_zone=Europe__Berlin"}))
	attributes := fleet.DeviceAttributes{Region: "eu", TimeZone: "Europe/Berlin", PollingSeconds: 60, Labels: map[string]string{"site": "hall"}}
	d, created, err := w.PutDevice(ctx, alice, "cam-1", attributes, 0)
	if err != nil || !created || d.Revision != 1 || !slices.Equal(d.Cohorts, []string{"eu"}) {
		t.Fatalf("got %+v, %v", d, err)
	}
	a := w.assignment("cam-1")
	if a.TimeZone != "Europe/Berlin" || a.Polling.IntervalSeconds != 60 || !slices.Equal(a.Cohorts, []string{"eu"}) {
		t.Errorf("got %+v", a)
	}
	if _, _, err := w.PutDevice(ctx, alice, "cam-1", attributes, 0); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("created twice: %v", err)
	}
	attributes.Region = "us"
	if d, _, err = w.PutDevice(ctx, alice, "cam-1", attributes, 1); err != nil || d.Revision != 2 || len(d.Cohorts) != 0 {
		t.Errorf("got %+v, %v", d, err)
	}
	if _, _, err := w.PutDevice(ctx, alice, "cam-1", attributes, 1); !errors.Is(err, fleet.ErrStale) {
		t.Errorf("second writer: %v", err)
	}
	if _, _, err := w.PutDevice(ctx, alice, "cam-2", attributes, 4); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("change of none: %v", err)
	}
	_, _, err = w.PutDevice(ctx, alice, "cam-2", fleet.DeviceAttributes{TimeZone: "Mars/Olympus"}, 0)
	wantField(t, err, "/time_zone")
	// What the device reports leaves the revision alone.
	w.Apply(w.Beat("cam-1", "m1", "1.0.0", 1, 1))
	d = must(w.Device(ctx, "cam-1"))
	if d.Revision != 3 { // its model is known now
		t.Errorf("revision %d", d.Revision)
	}
	w.Apply(w.Beat("cam-1", "m1", "1.0.1", 1, 2))
	if again := must(w.Device(ctx, "cam-1")); again.Revision != d.Revision || again.Region != "us" {
		t.Errorf("got %+v", again)
	}
}

func TestImportIsAllOrNothing(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.Seed(2)
	devices := []store.ImportDevice{{ID: "cam-00000", DeviceAttributes: fleet.DeviceAttributes{Region: "eu"}}, {ID: "new-1"}, {ID: "new-2"}}
	bad := append(slices.Clone(devices), store.ImportDevice{ID: "new-3", DeviceAttributes: fleet.DeviceAttributes{Region: "e u"}})
	_, _, err := w.ImportDevices(ctx, alice, bad)
	wantField(t, err, "/devices/3/region")
	_, _, err = w.ImportDevices(ctx, alice, append(slices.Clone(devices), devices[0]))
	wantField(t, err, "/devices/3/id")
	if n := w.number(`SELECT count(*) FROM device`); n != 2 {
		t.Fatalf("%d devices after refused imports", n)
	}
	created, updated, err := w.ImportDevices(ctx, alice, devices)
	if err != nil || created != 2 || updated != 1 {
		t.Errorf("got %d, %d, %v", created, updated, err)
	}
	if a := w.assignment("new-2"); a.Device != "new-2" {
		t.Errorf("got %+v", a)
	}
}

func TestCohortsChangeByRevision(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.Seed(4)
	c := must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "a", Selector: "model=m1"}))
	if c.Members != 4 || c.Revision != 1 || c.ManifestVersion == 0 || len(w.manifest("a").Entries) != 0 {
		t.Fatalf("got %+v", c)
	}
	if _, err := w.CreateCohort(ctx, alice, c.CohortSpec); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("created twice: %v", err)
	}
	c = must(w.UpdateCohort(ctx, alice, 1, fleet.CohortSpec{Name: "a", Devices: []string{"cam-00001", "later"}}))
	if c.Members != 1 || c.Revision != 2 || len(w.assignment("cam-00000").Cohorts) != 0 {
		t.Errorf("got %+v", c)
	}
	w.Apply(w.Beat("later", "m9", "1.0.0", 1, 1))
	ids, _, err := w.CohortMembers(ctx, "a", store.Page{})
	if err != nil || !slices.Equal(ids, []string{"cam-00001", "later"}) {
		t.Errorf("got %v, %v", ids, err)
	}
	if _, err := w.UpdateCohort(ctx, alice, 1, c.CohortSpec); !errors.Is(err, fleet.ErrStale) {
		t.Errorf("second writer: %v", err)
	}
	if err := w.DeleteCohort(ctx, alice, "a", 1); !errors.Is(err, fleet.ErrStale) {
		t.Errorf("deleted by an old revision: %v", err)
	}
	if err := w.DeleteCohort(ctx, alice, "a", 2); err != nil {
		t.Error(err)
	}
	if _, err := w.Cohort(ctx, "a"); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if a := w.assignment("later"); len(a.Cohorts) != 0 {
		t.Errorf("got %+v", a)
	}
	w.Running(fleet.PolicySpec{})
	if err := w.DeleteCohort(ctx, alice, "all", 1); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("deleted under a rollout: %v", err)
	}
}

func TestReleasesAreImmutable(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "a", Selector: "model=m1"}))
	before := w.manifest("a")
	r := w.AddRelease("1.0.0")
	if m := w.manifest("a"); m.Images == nil || m.Version <= before.Version {
		t.Errorf("the new snapshot is not pinned: %+v", m)
	}
	if _, err := w.PublishReleases(ctx, alice, store.Publication{Releases: []fleet.Release{r}}); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("published twice: %v", err)
	}
	missing := r
	missing.Version, missing.Path, missing.SHA256 = "1.0.1", "p", strings.Repeat("f", 64)
	_, err := w.PublishReleases(ctx, alice, store.Publication{Releases: []fleet.Release{missing}})
	wantField(t, err, "/targets")
	file := fleet.RepositoryFile{Repository: "image", Name: "targets.json", Version: 1, Bytes: []byte("{}")}
	for range 2 { // the same again is no change
		if err := w.PutRepositoryFile(ctx, alice, file); err != nil {
			t.Fatal(err)
		}
	}
	file.Bytes = []byte("[]")
	if err := w.PutRepositoryFile(ctx, alice, file); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("replaced: %v", err)
	}
	if f := must(w.RepositoryFile(ctx, "image", "targets.json", 0)); string(f.Bytes) != "{}" {
		t.Errorf("got %s", f.Bytes)
	}
	pin := must(w.ImagePin(ctx))
	older := pin
	older.Version--
	if _, err := w.PublishReleases(ctx, alice, store.Publication{Pin: &older}); !errors.Is(err, fleet.ErrConflict) {
		t.Errorf("the pin went back: %v", err)
	}
}

// Of two who publish at once, each at a moment of its own, one is told: what it
// made knows nothing of what the other has published.
func TestWhatIsPublishedIsMadeFromWhatIsThere(t *testing.T) {
	w := newWorld(t)
	publish := func(name string, version, base int64) error {
		p := store.Publication{Base: base, Files: []fleet.RepositoryFile{{Repository: "image", Name: name, Version: version, Bytes: fmt.Append(nil, version)}}}
		if name == "snapshot.json" {
			p.Pin = &topics.SnapshotPin{Version: version, Length: 1, SHA256: fmt.Sprintf("%064x", version)}
		}
		_, err := w.PublishReleases(t.Context(), alice, p)
		return err
	}
	for _, c := range []struct {
		name          string
		version, base int64
		want          error
	}{
		{"snapshot.json", 100, 0, nil},
		{"snapshot.json", 200, 0, fleet.ErrConflict},
		{"timestamp.json", 200, 0, fleet.ErrConflict},
		{"timestamp.json", 200, 100, nil},
		{"snapshot.json", 201, 100, nil},
		{"snapshot.json", 202, 100, fleet.ErrConflict},
	} {
		if err := publish(c.name, c.version, c.base); !errors.Is(err, c.want) {
			t.Errorf("%s %d, made from %d: %v", c.name, c.version, c.base, err)
		}
	}
	if pin := must(w.ImagePin(t.Context())); pin.Version != 201 {
		t.Errorf("snapshot %d is pinned", pin.Version)
	}
}

func TestCommandsAreNumberedPerDevice(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.Seed(1)
	first := must(w.CreateCommand(ctx, alice, "cam-00000", topics.CommandReport, "", time.Hour))
	second := must(w.CreateCommand(ctx, alice, "cam-00000", topics.CommandLogs, "", time.Hour))
	if second.Version <= first.Version || first.ID == second.ID {
		t.Errorf("got %+v and %+v", first, second)
	}
	rows := must(w.ClaimOutbox(ctx, store.DefaultRegion, []topics.Kind{topics.KindCommand}, 10, time.Minute))
	if len(rows) != 2 || rows[0].Topic != "fleet/v1/devices/cam-00000/command" || rows[0].ExpiresAt.IsZero() {
		t.Errorf("got %+v", rows)
	}
	h := must(topics.DecodeHeartbeat(w.Beat("cam-00000", "m1", "1.0.0", 1, 5).Payload))
	h.Command = second.ID
	w.Apply(w.Uplink(topics.DeviceHeartbeat("cam-00000"), "m1", must(topics.Encode(h))))
	if c := must(w.Command(ctx, second.ID)); c.AckedAt.IsZero() {
		t.Error("not acknowledged")
	}
	if _, err := w.CreateCommand(ctx, alice, "none", topics.CommandReport, "", time.Hour); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	_, err := w.CreateCommand(ctx, alice, "cam-00000", "reboot", "", time.Hour)
	wantField(t, err, "/action")
}

func TestEveryChangeLeavesAnAuditRow(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.Seed(1)
	r := w.Running(fleet.PolicySpec{})
	must(w.PauseRollout(ctx, fleet.Actor{Name: "bob", RequestID: "req-9"}, r.ID, r.Revision, "why"))
	entries, _, err := w.Audit(ctx, store.AuditFilter{Object: "rollout/" + r.ID, Actor: "bob"}, store.Page{})
	if err != nil || len(entries) != 1 {
		t.Fatalf("got %+v, %v", entries, err)
	}
	e := entries[0]
	if e.Action != "rollout.pause" || e.Before != 2 || e.After != 3 || e.RequestID != "req-9" || !strings.Contains(e.Detail, `"why"`) {
		t.Errorf("got %+v", e)
	}
	all, _, err := w.Audit(ctx, store.AuditFilter{}, store.Page{})
	var actions []string
	for _, e := range all {
		actions = append(actions, e.Action)
	}
	want := []string{"rollout.pause", "rollout.start", "rollout.create", "release.create", "artifact.put", "cohort.create", "device.register"}
	if err != nil || !slices.Equal(actions, want) {
		t.Errorf("got %v, %v", actions, err)
	}
	// A refused change leaves none.
	if _, err := w.PauseRollout(ctx, alice, r.ID, r.Revision, ""); !errors.Is(err, fleet.ErrStale) {
		t.Error(err)
	}
	if n := w.number(`SELECT count(*) FROM audit`); n != int64(len(want)) {
		t.Errorf("%d rows", n)
	}
}

func TestMetadataIsSignedAnewAtHalfItsLife(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.Seed(3)
	must(w.CreateCohort(ctx, alice, fleet.CohortSpec{Name: "a", Selector: "model=m1"}))
	if n := w.number(`SELECT count(*) FROM manifest WHERE refresh_at > issued_at + interval '5 days' AND refresh_at < issued_at + interval '7 days 1 minute'`); n != 1 {
		t.Error("not due at about half of 14 days")
	}
	if n := must(w.RefreshManifests(ctx, 10)) + must(w.RefreshAssignments(ctx, 10)); n != 0 {
		t.Errorf("%d signed anew before their time", n)
	}
	manifest, assignment := w.manifest("a").Version, w.assignment("cam-00000").Version
	w.exec(`UPDATE manifest SET refresh_at = now(); UPDATE assignment SET refresh_at = now()`)
	if n := must(w.RefreshManifests(ctx, 10)); n != 1 || w.manifest("a").Version <= manifest {
		t.Errorf("%d manifests", n)
	}
	if n := must(w.RefreshAssignments(ctx, 10)); n != 3 || w.assignment("cam-00000").Version <= assignment {
		t.Errorf("%d assignments", n)
	}
	if n := must(w.RefreshAssignments(ctx, 10)); n != 0 {
		t.Errorf("%d due again", n)
	}
}

func TestOutboxHoldsTheNewestVersionOnly(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	w.Seed(1)
	r := w.Running(fleet.PolicySpec{})
	claim := func() []store.OutboxRow {
		t.Helper()
		return must(w.ClaimOutbox(ctx, store.DefaultRegion, []topics.Kind{topics.KindManifest}, 10, time.Minute))
	}
	first := claim()
	if len(first) != 1 || len(claim()) != 0 {
		t.Fatalf("got %+v; or it was claimed twice", first)
	}
	// A change while the first is under way: due at once, and its PUBACK does
	// not take the newer one with it.
	must(w.PauseRollout(ctx, alice, r.ID, r.Revision, ""))
	second := claim()
	if len(second) != 1 || second[0].Version <= first[0].Version {
		t.Fatalf("got %+v", second)
	}
	if err := w.Published(ctx, first[0]); err != nil {
		t.Fatal(err)
	}
	if n := w.number(`SELECT count(*) FROM outbox WHERE kind = 'manifest'`); n != 1 {
		t.Error("an old acknowledgement removed the newer row")
	}
	if c := must(w.Cohort(ctx, "all")); !c.PublishedAt.IsZero() {
		t.Error("called published before the newest was")
	}
	if err := w.NotPublished(ctx, second[0], 0, "no\x00 connection\xff"); err != nil {
		t.Fatal(err)
	}
	if again := claim(); len(again) != 1 || again[0].Attempts != 2 {
		t.Fatalf("got %+v", again)
	}
	if err := w.Published(ctx, second[0]); err != nil {
		t.Fatal(err)
	}
	if c := must(w.Cohort(ctx, "all")); c.PublishedAt.IsZero() || w.number(`SELECT count(*) FROM outbox WHERE kind = 'manifest'`) != 0 {
		t.Errorf("got %+v", c)
	}
	// Whoever claimed and died leaves it to the others.
	if err := w.Republish(ctx, store.DefaultRegion, topics.KindManifest, []string{"all", "gone"}); err != nil {
		t.Fatal(err)
	}
	claim()
	w.exec(`UPDATE outbox SET claimed_until = now() - interval '1 s'`)
	if len(claim()) != 1 {
		t.Error("a claim that ran out still holds")
	}
}

func TestPruneRemovesWhatIsOldOnly(t *testing.T) {
	w := newWorld(t)
	w.Seed(1)
	w.Apply(w.Status("cam-00000", "r-x", topics.StateWaiting, 1, 2), w.Status("cam-00000", "r-x", topics.StateWaiting, 1, 3))
	w.exec(`UPDATE report SET stored_at = now() - interval '100 days' WHERE sequence = 2`)
	for range 2 {
		must(w.CreateCommand(t.Context(), alice, "cam-00000", topics.CommandReport, "", time.Hour))
	}
	w.exec(`UPDATE command SET expires_at = now() - interval '100 days'`)
	if err := w.Prune(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(w.number(`SELECT sum(sequence)::bigint FROM report`), w.number(`SELECT count(*) FROM command`)); got != "3 1" {
		t.Errorf("got %s", got)
	}
}
