package deploy

import (
	"net/http"
	"testing"

	"groundswell/agent/update"
	"groundswell/internal/devstack/devtest"
)

// noRoot answers with metadata that is refused.
func noRoot(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"signed":{}}`)) }

// TestARefusalIsNotAskedAboutAtEachWake: whatever wakes the device, it asks once a minute, and
// after a restart.
func TestARefusalIsNotAskedAboutAtEachWake(t *testing.T) {
	for name, meanwhile := range map[string]func(*lan){
		"of a root": func(l *lan) { l.forget(noRoot) },
		"of a root, and another source is away": func(l *lan) {
			l.mirrors = []string{"http://127.0.0.1:1"}
			l.forget(noRoot)
		},
		"of the list, by a newer root": func(l *lan) { l.publish(stranger(l.t)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			n := l.copied()
			meanwhile(l)
			before := n.refused(0)
			n.stop()
			if event := <-n.ended; event != "" {
				t.Errorf("it ended with %q: %s", event, n.dep.Detail)
			}
			n.refused(before)
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
