package deploy

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/assemble"
	"groundswell/agent/condition"
	"groundswell/agent/peers/peerstest"
	"groundswell/agent/wake"
)

// TestPeersAreNotAskedForWhatElseKeepsTheDevice: over a metered link, by one that sleeps
// between its check-ins, and while a condition does not hold.
func TestPeersAreNotAskedForWhatElseKeepsTheDevice(t *testing.T) {
	dir := t.TempDir()
	command := filepath.Join(dir, "unmetered")
	if err := os.WriteFile(command, []byte("#!/bin/sh\n[ -e "+dir+"/wifi ] && exit 0\necho it is LTE\nexit 21\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	metered := allowance.Metered{Unmetered: []string{command}, Again: time.Millisecond}
	asleep := wake.New(wake.Limits{})
	asleep.Begin()
	for name, c := range map[string]struct {
		cfg        allowance.Config
		conditions condition.Config
		wake       *wake.Wake
		reason     string
	}{
		"metered":           {cfg: allowance.Config{Metered: metered}, reason: allowance.ReasonMetered},
		"metered and spent": {cfg: allowance.Config{Metered: metered, DailyBudget: daily.DailyBudget}, reason: allowance.ReasonMetered},
		"asleep":            {cfg: daily, wake: asleep, reason: allowance.ReasonBudget},
		"condition":         {cfg: daily, conditions: condition.Config{Facts: []condition.Fact{{Name: "recorder", Command: []string{command}, Before: "download", Again: time.Millisecond}}}, reason: "fact-recorder"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			other := peerstest.Serve(t, l.ca, "other", func(_ http.ResponseWriter, r *http.Request) { t.Errorf("a peer is asked for %s", r.URL.Path) })
			n := l.newNear(c.cfg, c.conditions, c.wake, other)
			if c.cfg.DailyBudget > 0 {
				spend(t, n.allowed, int(c.cfg.DailyBudget))
			}
			n.begins()
			n.rests(c.reason)
			for range 3 {
				n.Look(t.Context())
			}
			if requests, _, _ := l.counted(); requests != 0 {
				t.Errorf("the origin was asked %d times", requests)
			}
		})
	}
}

// TestWhoConnectsOnAScheduleAndIsPluggedInAsksPeers for what it may not download.
func TestWhoConnectsOnAScheduleAndIsPluggedInAsksPeers(t *testing.T) {
	l := newLAN(t)
	addr := peerstest.Addrs(t, 1)
	l.newPeer(addr[0]).fetch(l.artifact.Length)
	l.forget(nil)
	scheduled := wake.New(wake.Limits{Bytes: 64 << 10})
	scheduled.Begin()
	n := l.newNear(daily, condition.Config{}, scheduled, addr...)
	n.cfg.Peers.(*assemble.Nearby).Downloads.Battery = func() bool { return false }
	spend(t, n.allowed, int(daily.DailyBudget))
	n.begins()
	n.fetched()
	if got := n.dep.Transfer; got.Peer != l.artifact.Length+l.artifact.Index.Length || got.Received() != got.Peer {
		t.Errorf("%+v", got)
	}
}
