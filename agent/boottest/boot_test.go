//go:build !race

package boottest

// The race detector would see no more than the test itself; what it is about runs in a
// machine.

import (
	"strings"
	"testing"
)

// TestUpdatesBoot takes one device through what decides about devices in the field. It
// is one test because every boot takes its time.
func TestUpdatesBoot(t *testing.T) {
	r := newRig(t)

	// A good release.
	before := r.bootID()
	r.ends(r.rollout(System{Version: "1.1.0"}), "committed", "1.1.0", "b 1.1.0")
	if after := r.bootID(); after == before || after == "" {
		t.Errorf("boot ids %q and %q", before, after)
	}
	r.must(r.machine.Listen())
	r.machine.Cut()
	r.on("")
	r.runs("1.1.0", "b 1.1.0")

	// One whose kernel panics, each time that it is tried.
	r.ends(r.rollout(System{Version: "1.2.0", Panics: true}), "rolled_back", "1.1.0",
		append(strings.Split(strings.Repeat("a 1.2.0,", tries), ",")[:tries], "b 1.1.0")...)

	// A good one, and the power goes when it comes up for the first time.
	id := r.rollout(System{Version: "1.3.0"})
	r.says("userland: slot a, version 1.3.0")
	r.machine.Cut()
	r.on("")
	r.ends(id, "committed", "1.3.0", "a 1.3.0", "a 1.3.0")
}
