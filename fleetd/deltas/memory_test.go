//go:build !race

package deltas_test

import (
	"bytes"
	"strings"
	"testing"

	"groundswell/fleetd/deltas"
	"groundswell/fleetd/fleet"
)

// The race detector's own memory is more than the child may have here.

// TestLookingThroughTakesNoMoreMemoryThanAllowed: else there is the plain delta.
func TestLookingThroughTakesNoMoreMemoryThanAllowed(t *testing.T) {
	f := newFixture(t)
	same := noise(7, 400_000)
	f.release("1.0.0", append(bytes.Clone(same), compressed(t, 1)...))
	f.release("1.1.0", append(bytes.Clone(same), compressed(t, 2)...))
	cfg := f.config()
	cfg.Encoder = deltas.Child{Memory: 129 << 20} // enough for the plain delta: delta.LeastMemory and 1 MiB
	f.work(cfg, f.rollout("1.1.0"), "a verdict about the other one", func(s fleet.DeltaSource) bool {
		return s.Listed && strings.HasPrefix(f.expanded(), "done|")
	})
	if x := f.index(); len(x.Deltas) != 1 || len(x.Expanded) != 0 {
		t.Errorf("the delta index: %+v", x)
	}
}
