package link

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/agent/clock"
	"groundswell/agent/fetch"
	"groundswell/agent/verify"
	"groundswell/certs/trust"
	"groundswell/topics"
)

const domain = "fleet.test"

// director signs as fleetd does, and its link verifies for real.
type director struct {
	t       *testing.T
	key     *trust.Key
	link    *Link
	version int64
	boot    time.Duration // since the device was booted, when it does not run by itself
}

type noSource struct{}

func (noSource) Root(context.Context, trust.Repository, int64, func([]byte) error) error {
	return fetch.ErrNotFound
}
func (noSource) Snapshot(context.Context, topics.SnapshotPin, func([]byte) error) error {
	return fetch.ErrNotFound
}
func (noSource) Targets(context.Context, trust.TargetsPin, func([]byte) error) error {
	return fetch.ErrNotFound
}

func newDirector(t *testing.T) *director {
	t.Helper()
	d := &director{t: t}
	role := func() (*trust.Key, trust.RoleKeys) {
		k, err := trust.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		return k, trust.RoleKeys{Keys: []trust.PublicKey{k.Public()}, Threshold: 1}
	}
	rootKey, root := role()
	var director trust.RoleKeys
	d.key, director = role()
	_, online := role()
	expires := time.Now().AddDate(1, 0, 0)
	image, err := trust.InitRoot(trust.RootSpec{TrustDomain: domain, Repository: trust.Image, Expires: expires,
		Root: root, Targets: root, Snapshot: online, Timestamp: online}, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	directorRoot, err := trust.InitRoot(trust.RootSpec{TrustDomain: domain, Repository: trust.Director, Expires: expires,
		Root: root, Targets: director}, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	clk := clock.NewFrom(time.Time{}, time.Now, func() time.Duration { return d.boot })
	d.link = newLinkAt(t, clk)
	d.link.cfg.RootPause, d.link.cfg.Heartbeat = time.Minute, time.Hour
	d.link.verifier, err = verify.Open(t.TempDir(), domain, "cam-1", verify.Roots{Image: image, Director: directorRoot},
		clk, time.Time{}, noSource{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *director) manifest(cohort string, expires time.Time) []byte {
	d.t.Helper()
	d.version++
	raw, err := trust.SignManifest(topics.Manifest{
		Schema: 1, Kind: "manifest", TrustDomain: domain, Cohort: cohort, Version: d.version, Issued: time.Now(), Entries: []topics.Entry{},
	}, expires, d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	return raw
}

func (d *director) assignment(expires time.Time, cohorts ...string) []byte {
	d.t.Helper()
	d.version++
	raw, err := trust.SignAssignment(topics.Assignment{
		Schema: 1, Kind: "assignment", TrustDomain: domain, Device: "cam-1", Version: d.version, Issued: time.Now(), Cohorts: cohorts,
	}, expires, d.key)
	if err != nil {
		d.t.Fatal(err)
	}
	return raw
}

func later() time.Time { return time.Now().Add(24 * time.Hour).UTC().Truncate(time.Second) }

var (
	ours  = topics.DeviceAssignment("cam-1")
	lobby = topics.CohortManifest("lobby")
)

// Something newer that does not verify: what is held may have been paused by it.
func TestAfterARefusalNothingCountsAsReadUntilOneVerifies(t *testing.T) {
	for _, topic := range []string{lobby, ours} {
		for name, bad := range map[string]func(d *director) []byte{
			"rubbish":          func(*director) []byte { return []byte("rubbish") },
			"another cohort's": func(d *director) []byte { return d.manifest("garden", later()) },
			"expired":          func(d *director) []byte { return d.manifest("lobby", time.Now().Add(-time.Hour)) },
			"of an older version": func(d *director) []byte {
				d.version -= 2
				return d.manifest("lobby", later())
			},
			"of a stranger": func(d *director) []byte {
				stranger, err := trust.GenerateKey()
				if err != nil {
					d.t.Fatal(err)
				}
				d.key, stranger = stranger, d.key
				defer func() { d.key = stranger }()
				return d.manifest("lobby", later())
			},
		} {
			t.Run(name+" on "+topic, func(t *testing.T) {
				d := newDirector(t)
				l := d.link
				connect := func() *conn {
					c := l.open(time.Now())
					l.take(ours, d.assignment(later(), "lobby"))
					l.take(lobby, d.manifest("lobby", later()))
					if !l.World().View.Live {
						t.Fatal("premise: not live")
					}
					return c
				}
				c := connect()
				held := l.World().Manifests["lobby"].Version
				l.take(topic, bad(d))
				w := l.World()
				if w.View.Live || !w.View.Opened.IsZero() || w.Manifests["lobby"].Version != held {
					t.Fatalf("after the refusal: %+v, manifest %d", w.View, w.Manifests["lobby"].Version)
				}
				d.version += 10
				if topic == ours {
					l.take(lobby, d.manifest("lobby", later())) // the other's word is none
					if l.World().View.Live {
						t.Error("live by another topic's message")
					}
					l.take(ours, d.assignment(later(), "lobby"))
				} else {
					l.take(lobby, d.manifest("lobby", later()))
				}
				if !l.World().View.Live {
					t.Error("not live again by one that verifies")
				}
				// A session that polls: what the one before has brought does not count
				// either.
				l.close(c)
				if l.World().View.Opened.IsZero() {
					t.Fatal("premise: the view is kept")
				}
				c = l.open(time.Now())
				l.take(topic, bad(d))
				l.close(c)
				if w := l.World(); w.View.Live || !w.View.Opened.IsZero() {
					t.Errorf("after a session with a refusal: %+v", w.View)
				}
				d.version += 10 // what "of an older version" took off, and more
				connect()
			})
		}
	}
}

func TestBrokerIsAskedAgainForWhatWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirector(t)
		l, p := d.link, &peer{}
		ctx, cancel := context.WithCancel(t.Context())
		c := l.open(time.Now())
		l.take(ours, d.assignment(later(), "lobby"))
		l.take(lobby, d.manifest("lobby", later()))
		done := make(chan error, 1)
		go func() { done <- l.serve(ctx, c, p) }()
		asked := func() (n int) {
			synctest.Wait()
			for _, filter := range p.asked {
				if filter == lobby {
					n++
				}
			}
			return n
		}
		before := asked()
		l.take(lobby, []byte("rubbish"))
		time.Sleep(l.cfg.RootPause)
		if n := asked() - before; n != 1 {
			t.Errorf("asked %d times", n)
		}
		// It goes on being refused.
		for range 100 {
			l.take(lobby, []byte("rubbish"))
			time.Sleep(l.cfg.RootPause)
		}
		if n := asked() - before; n < 4 || n > 12 {
			t.Errorf("asked %d times in 100 minutes", n)
		}
		l.take(lobby, d.manifest("lobby", later()))
		time.Sleep(2 * time.Hour)
		settled := asked()
		time.Sleep(24 * time.Hour)
		if n := asked() - settled; n != 0 {
			t.Errorf("asked %d times for what came", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The device sleeps with its connection up: Go's clock stands still, and when it
// wakes up the loss has not been noticed.
func TestSleepMakesWhatWasReadOld(t *testing.T) {
	d := newDirector(t)
	l := d.link
	c := l.open(time.Now())
	l.take(ours, d.assignment(later(), "lobby"))
	l.take(lobby, d.manifest("lobby", later()))
	d.boot += 10 * time.Hour
	if v := l.World().View; v.Age != 10*time.Hour {
		t.Errorf("with the connection up: %+v", v)
	}
	l.Heartbeat()
	report, _ := l.journal.Next()
	l.sendOne(t.Context(), c, &peer{answers: []error{errors.New("lost")}}, report)
	if v := l.World().View; v.Age != 10*time.Hour {
		t.Errorf("after a report that was not acknowledged: %+v", v)
	}
	select {
	case <-l.changed:
	default:
	}
	l.sendOne(t.Context(), c, &peer{}, report)
	if v := l.World().View; !v.Live || v.Age != 0 {
		t.Errorf("after one that was: %+v", v)
	}
	select {
	case <-l.changed:
	default:
		t.Error("nobody is told that the broker answers")
	}
	d.boot += time.Hour
	l.close(c) // now the loss is noticed
	if v := l.World().View; v.Live || v.Opened.IsZero() || v.Age != time.Hour {
		t.Errorf("after its end: %+v", v)
	}
}

func TestConnectedDeviceFindsOutWhetherItStillIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirector(t)
		l, p := d.link, &peer{}
		ctx, cancel := context.WithCancel(t.Context())
		c := l.open(time.Now())
		c.checkIn = l.checkIn
		done := make(chan error, 1)
		go func() { done <- l.serve(ctx, c, p) }()
		synctest.Wait()
		l.CheckIn()
		synctest.Wait()
		if len(p.published) != 1 {
			t.Errorf("published %v", p.published)
		}
		cancel()
		<-done
	})
}

func TestWorldTellsWhenWhatIsHeldExpires(t *testing.T) {
	d := newDirector(t)
	l := d.link
	first, second := later(), later().Add(time.Hour)
	l.take(ours, d.assignment(first, "lobby"))
	l.take(lobby, d.manifest("lobby", second))
	check := func() {
		t.Helper()
		if w := l.World(); !w.AssignmentUntil.Equal(first) || !w.Until["lobby"].Equal(second) {
			t.Errorf("until %v and %v", w.AssignmentUntil, w.Until)
		}
	}
	check()
	l.again() // as after a newer root
	check()
}

// Messages are taken one after the other, and a search through what is held
// comes between none of them: an older manifest never replaces a newer one, and
// none of a cohort that was left is kept.
func TestMessagesThatComeAtOnceAreTakenOneByOne(t *testing.T) {
	d := newDirector(t)
	l := d.link
	for round := range 60 {
		l.take(ours, d.assignment(later(), "lobby"))
		l.take(lobby, d.manifest("lobby", later()))
		older, newer := d.manifest("lobby", later()), d.manifest("lobby", later())
		newest := d.version
		leave := d.assignment(later())
		at := func(do ...func()) {
			var wg sync.WaitGroup
			begin := make(chan struct{})
			for _, f := range do {
				wg.Go(func() { <-begin; f() })
			}
			close(begin)
			wg.Wait()
		}
		at(func() { l.take(lobby, older) }, func() { l.take(lobby, newer) }, l.again)
		if got := l.World().Manifests["lobby"].Version; got != newest {
			t.Fatalf("round %d: holds %d after %d", round, got, newest)
		}
		another := d.manifest("lobby", later())
		at(func() { l.take(ours, leave) }, func() { l.take(lobby, another) }, l.again)
		if w := l.World(); len(w.Manifests) != 0 || len(w.Assignment.Cohorts) != 0 {
			t.Fatalf("round %d: holds %v of cohorts %v", round, w.Manifests, w.Assignment.Cohorts)
		}
	}
}

func TestVerifiedMessageTellsTheJournalTheTime(t *testing.T) {
	d := newDirector(t)
	l := d.link
	if !l.journal.Snapshot().Blind {
		t.Fatal("premise: not blind")
	}
	l.take(ours, []byte("rubbish"))
	if !l.journal.Snapshot().Blind {
		t.Error("what was refused has told the time")
	}
	l.take(ours, d.assignment(later(), "lobby"))
	if l.journal.Snapshot().Blind {
		t.Error("still blind")
	}
}
