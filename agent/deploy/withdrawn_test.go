package deploy

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/assemble"
	"groundswell/agent/condition"
	"groundswell/agent/update"
	"groundswell/agent/verify"
	"groundswell/certs/trust"
	"groundswell/internal/devstack/devtest"
	"groundswell/topics"
)

// stranger is somebody's release key that signed nothing.
func stranger(t *testing.T) trust.RoleKeys {
	t.Helper()
	k, err := trust.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return trust.RoleKeys{Keys: []trust.PublicKey{k.Public()}, Threshold: 1}
}

// signedAnew is a snapshot that a key signed which no device knows.
func (l *lan) signedAnew() []byte {
	l.t.Helper()
	k, err := trust.GenerateKey()
	if err != nil {
		l.t.Fatal(err)
	}
	raw, _, err := trust.MakeSnapshot(l.files["/repository/image/1.targets.json"], 2, time.Now().AddDate(1, 0, 0), k)
	if err != nil {
		l.t.Fatal(err)
	}
	return raw
}

// TestAKeyThatWasWithdrawnMeanwhile: the release came from peers, with its list, while nothing
// might be downloaded, and that is still so when it is installed.
func TestAKeyThatWasWithdrawnMeanwhile(t *testing.T) {
	for name, c := range map[string]struct {
		besides   bool // peers hold another list
		meanwhile func(*testing.T, *lan, *near)
		event     update.Event // "": it waits
		reason    string
		unasked   bool // still
		asks      int  // for the next root, at least
	}{
		"no": {event: update.Jump, asks: 1},
		"by another list": {
			// As for what was fetched from a source, which is asked once.
			meanwhile: func(_ *testing.T, l *lan, _ *near) {
				l.pin = topics.SnapshotPin{Version: 2, Length: 3, SHA256: its([]byte("new"))}
			},
			event: update.Jump, asks: 1,
		},
		"yes": {
			meanwhile: func(t *testing.T, l *lan, _ *near) { l.publish(stranger(t)) },
			event:     update.Fail, reason: "metadata", asks: 1,
		},
		"by a root that cannot be taken": {
			meanwhile: func(_ *testing.T, l *lan, _ *near) { l.publish(l.director) },
			event:     update.Fail, reason: "metadata", asks: patience, unasked: true,
		},
		"by what is no root, and another source is away": {
			meanwhile: func(_ *testing.T, l *lan, _ *near) {
				l.mirrors = []string{"http://127.0.0.1:1"}
				l.forget(noRoot)
			},
			event: update.Fail, reason: "metadata", asks: patience, unasked: true,
		},
		"nobody knows": {
			meanwhile: func(t *testing.T, l *lan, _ *near) { l.publish(stranger(t)); l.Close() },
			event:     update.Jump, unasked: true,
		},
		"nobody knows, and the manifest has another list": {
			meanwhile: func(t *testing.T, l *lan, _ *near) {
				l.pin = topics.SnapshotPin{Version: 2, Length: 3, SHA256: its([]byte("new"))}
				l.Close()
			},
			unasked: true,
		},
		"nobody knows, and the device asks no peers any more": {
			meanwhile: func(_ *testing.T, l *lan, n *near) {
				l.pin = topics.SnapshotPin{Version: 2, Length: 3, SHA256: its([]byte("new"))}
				l.Close()
				n.Driver.cfg.Peers = nil
			},
			unasked: true,
		},
		"nobody knows, and a peer holds the other list, that a new key signed": {
			besides: true,
			meanwhile: func(_ *testing.T, l *lan, _ *near) {
				l.pin = topics.SnapshotPin{Version: 2, Length: int64(len(l.besides)), SHA256: its(l.besides)}
				l.Close()
			},
			unasked: true,
		},
		"nobody knows, and the list has expired": {
			meanwhile: func(_ *testing.T, l *lan, n *near) {
				n.later.Store(int64(2 * 365 * 24 * time.Hour))
				l.Close()
			},
			unasked: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			if c.besides {
				l.besides = l.signedAnew()
			}
			n := l.copied()
			if !n.dep.Unasked {
				t.Fatal("somebody was asked for roots")
			}
			if c.meanwhile != nil {
				c.meanwhile(t, l, n)
			}
			n.restarts()
			n.does(n.await)
			if c.event == "" {
				devtest.Eventually(t, devtest.Patience, "the device to wait", devtest.True(func() bool { _, ok := n.Rest(); return ok }))
				for range 2 * patience {
					n.wakes()
				}
				if len(n.ended) > 0 {
					t.Errorf("it ends with %q", <-n.ended)
				}
			} else if event := n.answers(); event != c.event || n.dep.Reason != c.reason || n.dep.Unasked != c.unasked {
				t.Errorf("it ends with %q: %s %s, unasked: %v", event, n.dep.Reason, n.dep.Detail, n.dep.Unasked)
			}
			if c.asks > 0 && l.asks(secondRoot) < c.asks {
				t.Errorf("the origin was asked %v", l.asked)
			}
			if hold := n.allowed.Look(t.Context(), nil); hold == nil {
				t.Error("it may download by now")
			}
			if got := n.journal.Snapshot().Deployments["system"].Unasked; c.event == update.Jump && got != c.unasked {
				t.Errorf("unasked by the journal: %v", got)
			}
		})
	}
}

// looks has it look once before the jump, and be refused, in a process of its own.
func (n *near) looks(detail string) {
	t := n.l.t
	t.Helper()
	n.restarts()
	n.does(n.await)
	devtest.Eventually(t, devtest.Patience, "the device to wait", devtest.True(func() bool {
		r, ok := n.Rest()
		return len(n.ended) > 0 || ok && r.Reason == reasonMetadata
	}))
	n.stop()
	if event := <-n.ended; event != "" || n.journal.Snapshot().Deployments["system"].Refused != n.dep.Refused {
		t.Fatalf("it ends with %q: %s %s", event, n.dep.Reason, n.dep.Detail)
	}
	if said := n.said(); len(said) == 0 || !strings.Contains(said[len(said)-1].Detail, detail) || said[len(said)-1].State != topics.StateStaged {
		t.Fatalf("it says %+v", said)
	}
}

// TestAReleaseWhoseKeyWasWithdrawnIsDropped, although the device restarts: it holds the root
// that withdraws the key, and the list that the key signed. It says why.
func TestAReleaseWhoseKeyWasWithdrawnIsDropped(t *testing.T) {
	fetched := func(l *lan) *near {
		n := l.newNear(allowance.Config{}, condition.Config{}, nil)
		n.begins()
		n.fetched()
		return n
	}
	for name, c := range map[string]struct {
		staged func(*lan) *near
		away   bool // all sources
		waits  bool // until one is back
		looks  int  // each in a process of its own, before the one that ends it
	}{
		"it asked for the root itself":                {staged: (*lan).copied},
		"and is woken for one look at a time":         {staged: (*lan).copied, looks: patience - 1},
		"another component asked":                     {staged: fetched},
		"and nobody is there to ask for the list":     {staged: fetched, away: true, waits: true},
		"it copied, and its peers have that list":     {staged: (*lan).copied, away: true},
		"another component asked, one look a process": {staged: fetched, looks: patience - 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			n := c.staged(l)
			l.publish(stranger(t))
			taken, err := l.verifier(n.trust, n.Driver.clock, n.downloads.(assemble.Downloads).Client, "cam-1").ImageRoots(t.Context())
			if taken != 1 {
				t.Fatalf("%d roots: %v", taken, err)
			}
			for range c.looks {
				n.looks(verify.ErrUnsigned.Error())
			}
			if c.away {
				l.forget(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
			}
			n.restarts()
			n.does(n.await)
			if c.waits {
				for range 2 * patience {
					n.wakes()
				}
				if len(n.ended) > 0 {
					t.Fatalf("it ends with %q: %s", <-n.ended, n.dep.Detail)
				}
				l.forget(nil)
			}
			if event := n.answers(); event != update.Fail || n.dep.Reason != reasonMetadata || !strings.Contains(n.dep.Detail, verify.ErrUnsigned.Error()) {
				t.Errorf("it ends with %q: %s %s", event, n.dep.Reason, n.dep.Detail)
			}
			if n.dep.Refused != patience {
				t.Errorf("after it was refused %d times", n.dep.Refused)
			}
		})
	}
}

// TestAReleaseThatIsSignedAnewIsInstalled, by the keys that have taken the place of those that
// were withdrawn.
func TestAReleaseThatIsSignedAnewIsInstalled(t *testing.T) {
	l := newLAN(t)
	n := l.newNear(allowance.Config{}, condition.Config{}, nil)
	n.begins()
	n.fetched()
	key, err := trust.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	l.publish(trust.RoleKeys{Keys: []trust.PublicKey{key.Public()}, Threshold: 1})
	if _, err := l.verifier(n.trust, n.Driver.clock, n.downloads.(assemble.Downloads).Client, "cam-1").ImageRoots(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.looks(verify.ErrUnsigned.Error())
	expires := time.Now().AddDate(1, 0, 0)
	list, err := trust.SignTargets(trust.TargetsSpec{Root: l.files[secondRoot], Previous: l.files["/repository/image/1.targets.json"], PreviousRoot: l.roots.Image, Now: time.Now(), Expires: expires}, key)
	if err != nil {
		t.Fatal(err)
	}
	snapshot, pin, err := trust.MakeSnapshot(list, 2, expires, l.snapshot)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	l.files["/repository/image/2.snapshot.json"], l.files["/repository/image/2.targets.json"] = snapshot, list
	l.mu.Unlock()
	l.pin = pin
	n.restarts()
	n.does(n.await)
	if event := n.answers(); event != update.Jump {
		t.Errorf("it ends with %q: %s %s", event, n.dep.Reason, n.dep.Detail)
	}
}
