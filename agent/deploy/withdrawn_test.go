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
