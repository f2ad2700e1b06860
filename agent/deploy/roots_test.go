package deploy

import (
	"os"
	"path/filepath"
	"testing"

	"groundswell/agent/allowance"
	"groundswell/agent/condition"
	"groundswell/agent/peers/peerstest"
	"groundswell/agent/update"
	"groundswell/certs/trust"
	"groundswell/internal/devstack/devtest"
)

// TestARootThatCannotBeTakenKeepsTheDeviceFromPeersToo: a source has answered, so peers are
// not asked for what verifies by the root before it.
func TestARootThatCannotBeTakenKeepsTheDeviceFromPeersToo(t *testing.T) {
	for name, c := range map[string]struct {
		release func(*lan) trust.RoleKeys
		trouble func(*testing.T, *lan, *near)
		reason  string // it gives up; "": it asks again and again
	}{
		"a release key that is the director's": {
			release: func(l *lan) trust.RoleKeys { return l.director }, reason: "metadata",
		},
		"and another source that is away": {
			release: func(l *lan) trust.RoleKeys { return l.director },
			trouble: func(_ *testing.T, l *lan, _ *near) { l.mirrors = []string{"http://127.0.0.1:1"} },
		},
		"it cannot be kept": {
			release: func(l *lan) trust.RoleKeys { return l.spec.Targets },
			trouble: func(t *testing.T, _ *lan, n *near) {
				if err := os.MkdirAll(filepath.Join(n.trust, "trust.new", "x"), 0o700); err != nil {
					t.Fatal(err)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			addr := peerstest.Addrs(t, 1)
			other := l.newPeer(addr[0])
			other.fetch(l.artifact.Length)
			l.publish(c.release(l))
			l.forget(nil)
			n := l.newNear(allowance.Config{}, condition.Config{}, nil, addr...)
			if c.trouble != nil {
				c.trouble(t, l, n)
			}
			n.begins()
			devtest.Eventually(t, devtest.Patience, "the device to ask for the root", devtest.True(func() bool { return l.asks(secondRoot) >= patience || len(n.ended) > 0 }))
			if c.reason != "" {
				if event := <-n.ended; event != update.Fail || n.dep.Reason != c.reason {
					t.Errorf("it ends with %q: %s %s", event, n.dep.Reason, n.dep.Detail)
				}
			}
			if given := other.Peers.Given(); given != 0 {
				t.Errorf("the peer has given %d bytes", given)
			}
		})
	}
}
