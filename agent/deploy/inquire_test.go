package deploy

import (
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/assemble"
	"groundswell/agent/condition"
	"groundswell/agent/journal"
	"groundswell/agent/peers/peerstest"
	"groundswell/agent/update"
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

// copied is a device that may not download, and has all from a peer.
func (l *lan) copied() *near {
	l.t.Helper()
	addr := peerstest.Addrs(l.t, 1)
	l.newPeer(addr[0]).fetch(l.artifact.Length)
	l.forget(nil)
	n := l.spent(addr...)
	n.begins()
	n.fetched()
	return n
}

// restarts has a device that has fetched everything go down when it is staged, and come up.
func (n *near) restarts() {
	n.l.t.Helper()
	n.dep.State, n.dep.Slot = update.Staged, "b"
	if err := n.write(nil); err != nil {
		n.l.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	j, err := journal.Open(n.dir, time.Now(), log)
	if err != nil {
		n.l.t.Fatal(err)
	}
	before := n.Driver
	n.Driver = New(before.cfg, NewDevice(before.world, condition.Config{}), before.slots,
		n.l.verifier(n.trust, before.clock, before.downloads.(assemble.Downloads).Client, "cam-1"), before.downloads, j, before.clock, log)
	n.journal, n.dep = j, j.Snapshot().Deployments["system"]
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

// answers is the event that it ends with; it is told to look again until then.
func (n *near) answers() (event update.Event) {
	n.l.t.Helper()
	devtest.Eventually(n.l.t, devtest.Patience, "it to end", devtest.True(func() bool {
		select {
		case event = <-n.ended:
			return true
		default:
			n.wakes()
			return false
		}
	}))
	return event
}

// wakes has it look again after as long as it sleeps at most.
func (n *near) wakes() {
	n.up.Add(int64(longest))
	n.Look(n.doing)
}

// noRoot answers with metadata that is refused.
func noRoot(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"signed":{}}`)) }

// TestARefusalIsNotAskedAboutAtEachWake: whatever wakes the device, it asks once a minute, and
// after a restart.
func TestARefusalIsNotAskedAboutAtEachWake(t *testing.T) {
	for name, c := range map[string]struct {
		meanwhile func(*lan)
		restarts  bool
	}{
		"of a root": {func(l *lan) { l.forget(noRoot) }, true},
		"of a root, and another source is away": {func(l *lan) {
			l.mirrors = []string{"http://127.0.0.1:1"}
			l.forget(noRoot)
		}, true},
		"of the list, by a newer root": {func(l *lan) { l.publish(stranger(l.t)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			n := l.copied()
			c.meanwhile(l)
			before := n.refused(0)
			if c.restarts {
				n.stop()
				if event := <-n.ended; event != "" {
					t.Errorf("it ended with %q: %s", event, n.dep.Detail)
				}
				n.refused(before)
			}
			if event := n.answers(); event != update.Fail || n.dep.Reason != "metadata" {
				t.Errorf("it ends with %q: %s %s", event, n.dep.Reason, n.dep.Detail)
			}
		})
	}
}

// refused has it start, ask, be refused, and wake often. It returns how often the origin was
// asked.
func (n *near) refused(before int) (asked int) {
	t := n.l.t
	t.Helper()
	n.restarts()
	n.does(n.await)
	devtest.Eventually(t, devtest.Patience, "the device to wait", devtest.True(func() bool {
		r, ok := n.Rest()
		return len(n.ended) > 0 || ok && r.Reason == "metadata"
	}))
	if asked, _, _ = n.l.counted(); asked == before {
		t.Error("nobody was asked")
	}
	for range 2 * patience {
		n.Look(n.doing)
	}
	if r, _ := n.Rest(); r.Reason != "metadata" {
		t.Errorf("it rests: %+v", r)
	}
	n.device.mu.Lock()
	blocked := n.device.blocked[n.cfg.Component]
	n.device.mu.Unlock()
	if !blocked {
		t.Error("other components wait for it")
	}
	if again, _, _ := n.l.counted(); again != asked {
		t.Errorf("the origin was asked for %v", n.l.asked)
	}
	return asked
}

// TestAMeteredLinkIsNotUsedForRoots where the device is to wait for another.
func TestAMeteredLinkIsNotUsedForRoots(t *testing.T) {
	dir := t.TempDir()
	command := filepath.Join(dir, "unmetered")
	if err := os.WriteFile(command, []byte("#!/bin/sh\n[ -e "+dir+"/lte ] || exit 0\necho it is LTE\nexit 21\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for then, asks := range map[string]int{allowance.ThenWait: 0, allowance.ThenBudget: 1} {
		t.Run(then, func(t *testing.T) {
			_ = os.Remove(filepath.Join(dir, "lte")) // not there at first
			l := newLAN(t)
			addr := peerstest.Addrs(t, 1)
			l.newPeer(addr[0]).fetch(l.artifact.Length)
			l.forget(nil)
			cfg := daily
			cfg.Metered = allowance.Metered{Unmetered: []string{command}, Then: then, Again: time.Millisecond}
			if then == allowance.ThenBudget {
				cfg.Metered.DailyBudget = 64 << 10
			}
			n := l.newNear(cfg, condition.Config{}, nil, addr...)
			spend(t, n.allowed, int(cfg.DailyBudget))
			n.begins()
			n.fetched()
			if err := os.WriteFile(filepath.Join(dir, "lte"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			n.restarts()
			n.does(n.await)
			if event := n.answers(); event != update.Jump || n.dep.Unasked != (asks == 0) {
				t.Errorf("it ends with %q: %s %s, unasked: %v", event, n.dep.Reason, n.dep.Detail, n.dep.Unasked)
			}
			if got := l.asks(secondRoot); got != asks {
				t.Errorf("the origin was asked %d times", got)
			}
		})
	}
}

// TestWhoAskedASourceAsksNobodyBeforeTheJump, nor who wrote the journal before there was such
// a question.
func TestWhoAskedASourceAsksNobodyBeforeTheJump(t *testing.T) {
	l := newLAN(t)
	n := l.newNear(allowance.Config{}, condition.Config{}, nil)
	n.begins()
	n.fetched()
	n.restarts()
	l.forget(nil)
	n.does(n.await)
	if event := n.answers(); event != update.Jump {
		t.Errorf("it ends with %q: %s %s", event, n.dep.Reason, n.dep.Detail)
	}
	if requests, _, _ := l.counted(); requests != 0 {
		t.Errorf("the origin was asked for %v", l.asked)
	}
}

// TestWhatASourceSaysLaterCounts: the peers have brought a part with the list, and a source the
// rest.
func TestWhatASourceSaysLaterCounts(t *testing.T) {
	l := newLAN(t)
	addr := peerstest.Addrs(t, 1)
	l.newPeer(addr[0]).fetch(l.artifact.Length / 2)
	l.forget(nil)
	n := l.spent(addr...)
	n.begins()
	n.rests(allowance.ReasonBudget)
	n.tomorrow()
	n.fetched()
	if n.dep.Unasked || l.asks(secondRoot) == 0 {
		t.Errorf("unasked: %v; the origin was asked for %v", n.dep.Unasked, l.asked)
	}
}
