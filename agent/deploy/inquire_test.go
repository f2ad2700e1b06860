package deploy

import (
	"log/slog"
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
	"groundswell/internal/devstack/devtest"
)

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
