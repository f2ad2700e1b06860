package publish_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/fleetd/store/storetest"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

// toggle pauses and resumes a rollout n times; each makes a new manifest.
func (p *platform) toggle(r fleet.Rollout, n int) fleet.Rollout {
	p.T.Helper()
	for range n {
		r = storetest.Must(p.PauseRollout(p.T.Context(), storetest.Alice, r.ID, r.Revision, ""))
		r = storetest.Must(p.ResumeRollout(p.T.Context(), storetest.Alice, r.ID, r.Revision, ""))
	}
	return r
}

func TestChangesReachTheBrokerAndStayTheSame(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	pub, _ := p.publisher()
	p.Seed(20)
	r := p.Running(fleet.PolicySpec{})
	p.mustMatch()
	s := p.watch(topics.AllManifests)
	r = p.toggle(r, 3)
	p.mustMatch()
	s.grew(t)
	if c := storetest.Must(p.Cohort(t.Context(), "all")); c.PublishedAt.IsZero() {
		t.Error("not known to be published")
	}
	// From the change to the subscriber, woken by PostgreSQL: told, not judged.
	for len(s.notes) > 0 {
		<-s.notes
	}
	began := time.Now()
	storetest.Must(p.PauseRollout(t.Context(), storetest.Alice, r.ID, r.Revision, ""))
	<-s.notes
	t.Logf("a pause took %v to a subscriber; %+v", time.Since(began), pub.Stats())
	if err := pub.Ready(); err != nil {
		t.Error(err)
	}
}

func TestCommandsGoOutOnceAndAreNotRetained(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.publisher()
	p.Seed(1)
	topic := topics.DeviceCommand("cam-00000")
	s := p.watch(topic)
	storetest.Must(p.CreateCommand(t.Context(), storetest.Alice, "cam-00000", topics.CommandReport, "", time.Hour))
	<-s.notes
	p.mustMatch()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.versions[topic]) != 1 || s.retained[topic] {
		t.Errorf("got %v", s.versions)
	}
	late := p.watch(topic)
	p.mustMatch() // takes its time
	if len(late.notes) != 0 {
		t.Error("retained")
	}
}

func TestPublisherGoesOnAfterACrashAtAnyPoint(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.Seed(3)
	r := p.Running(fleet.PolicySpec{})
	s := p.watch(topics.AllManifests)
	kinds := []topics.Kind{topics.KindManifest, topics.KindAssignment}
	expire := func() { p.Exec(`UPDATE outbox SET claimed_until = now() - interval '1 s'`) }

	// Before anything: the rows are there when the next one starts.
	_, stop := p.publisher()
	p.mustMatch()
	stop()

	// Claimed, and dead before the publish.
	r = p.toggle(r, 1)
	if rows := storetest.Must(p.ClaimOutbox(t.Context(), store.DefaultRegion, kinds, 10, time.Hour)); len(rows) == 0 {
		t.Fatal("nothing to claim")
	}
	expire()
	_, stop = p.publisher()
	p.mustMatch()
	stop()

	// Published, and dead before that was noted: the same bytes go out again.
	if err := p.Republish(t.Context(), store.DefaultRegion, topics.KindManifest, []string{"all"}); err != nil {
		t.Fatal(err)
	}
	_, stop = p.publisher()
	p.mustMatch()
	stop()

	// Dead between two versions: the newest goes out, the older never after it.
	r = p.toggle(r, 2)
	_, stop = p.publisher()
	p.mustMatch()
	stop()

	// An old row comes back: what goes out is the newest that is stored.
	p.toggle(r, 1)
	p.Exec(`UPDATE outbox SET version = 1 WHERE kind = 'manifest'`)
	_, stop = p.publisher()
	p.mustMatch()
	stop()
	s.grew(t)
}

func TestReplicasThatRaceNeverGoBack(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.Seed(2)
	var rollouts []fleet.Rollout
	for range 3 {
		rollouts = append(rollouts, p.Running(fleet.PolicySpec{}))
	}
	for range 3 {
		p.publisher()
	}
	s := p.watch(topics.AllManifests)
	var all sync.WaitGroup
	for _, r := range rollouts {
		all.Go(func() { p.toggle(r, 15) })
	}
	all.Wait()
	p.mustMatch()
	s.grew(t)
}

func TestBrokerThatLostItsDataGetsEverythingAgain(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.publisher()
	p.Seed(30)
	p.Running(fleet.PolicySpec{})
	p.mustMatch()
	p.broker.Kill()
	p.startBroker("empty")
	p.mustMatch()
}

func TestBrokerWithOlderDataGetsTheNewest(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	_, stop := p.publisher()
	p.Seed(3)
	r := p.Running(fleet.PolicySpec{})
	p.mustMatch()
	stop()
	p.toggle(r, 2)
	p.Exec(`DELETE FROM outbox`) // as if it had been published, to a broker restored since
	p.publisher()
	p.mustMatch()
}

func TestDatabaseRestoredFromAnOlderBackupOvertakesTheBroker(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	_, stop := p.publisher()
	p.Seed(3)
	r := p.Running(fleet.PolicySpec{})
	p.mustMatch()
	stop()
	s := p.watch(topics.AllManifests)
	backup := p.Exec(`SELECT version FROM manifest`)
	// What happens after the backup: the clock was ahead, versions ran away.
	p.Exec(`UPDATE manifest SET version = version + 1000000; UPDATE assignment SET version = version + 1000000`)
	r = p.toggle(r, 1)
	d := storetest.Must(p.Device(t.Context(), "cam-00001"))
	if _, _, err := p.PutDevice(t.Context(), storetest.Alice, d.ID, fleet.DeviceAttributes{Region: "eu"}, d.Revision); err != nil {
		t.Fatal(err)
	}
	_, stop = p.publisher()
	p.mustMatch()
	stop()
	ahead := p.Exec(`SELECT version FROM manifest`)
	if ahead <= backup {
		t.Fatal("not ahead")
	}
	// Restored: older versions, other content.
	p.Exec(`UPDATE manifest SET version = version - 1000000, signed = signed || ' '; UPDATE assignment SET version = version - 1000000, signed = signed || ' '`)

	// Once found by comparing.
	pub, stop := p.publisher()
	devtest.Eventually(t, 0, "the database to overtake", func() error {
		if got := p.Exec(`SELECT version FROM manifest`); got <= ahead {
			return fmt.Errorf("still %s, the broker has %s", strings.TrimSpace(got), strings.TrimSpace(ahead))
		}
		return nil
	})
	p.mustMatch()
	if pub.Stats().Superseded < 2 {
		t.Errorf("got %+v", pub.Stats())
	}
	stop()
	s.grew(t)

	// And once by the refusal of a publish.
	p.Exec(`UPDATE manifest SET version = version - 500000`)
	pub, _ = p.publisher()
	devtest.Eventually(t, 0, "a comparison", func() error {
		if pub.Stats().Reconciled == 0 {
			return fmt.Errorf("%+v", pub.Stats())
		}
		return nil
	})
	p.mustMatch()
	p.Exec(`UPDATE manifest SET version = version - 500000`)
	p.toggle(r, 1)
	devtest.Eventually(t, 0, "a refusal", func() error {
		if pub.Stats().Failed == 0 {
			return fmt.Errorf("%+v", pub.Stats())
		}
		return nil
	})
	p.mustMatch()
	s.grew(t)
}

func TestManifestDoesNotWaitBehindAssignments(t *testing.T) {
	t.Parallel()
	p := newPlatform(t)
	p.Seed(300)
	r := p.Running(fleet.PolicySpec{})
	rows := storetest.Must(p.ClaimOutbox(t.Context(), store.DefaultRegion, []topics.Kind{topics.KindManifest}, 10, time.Second))
	for _, row := range rows {
		if err := p.Published(t.Context(), row); err != nil {
			t.Fatal(err)
		}
	}
	// The assignments are older in the outbox than the pause.
	storetest.Must(p.PauseRollout(t.Context(), storetest.Alice, r.ID, r.Revision, ""))
	kind := func(k topics.Kind) []store.OutboxRow {
		return storetest.Must(p.ClaimOutbox(t.Context(), store.DefaultRegion, []topics.Kind{k}, 1000, 0))
	}
	if m, a := kind(topics.KindManifest), kind(topics.KindAssignment); len(m) != 1 || len(a) != 300 {
		t.Errorf("%d manifests, %d assignments", len(m), len(a))
	}
	p.publisher()
	p.mustMatch()
}
