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

// TestTooLittleMemoryIsFoundOutOnce: the next attempt would have no more.
func TestTooLittleMemoryIsFoundOutOnce(t *testing.T) {
	f := newFixture(t)
	f.release("1.0.0", noise(7, 2_000_000))
	f.release("1.1.0", noise(8, 2_000_000))
	cfg := f.config()
	cfg.Encoder = deltas.Child{Memory: 129 << 20}
	source := f.work(cfg, f.rollout("1.1.0"), "a verdict", func(s fleet.DeltaSource) bool { return s.State == fleet.DeltaFailed })
	if !strings.HasPrefix(source.Error, "deltas.memory is too little: ") || !strings.HasSuffix(source.Error, " bytes, of 135266304") {
		t.Errorf("it says %q", source.Error)
	}
	if n := strings.TrimSpace(f.Exec(`SELECT attempts FROM delta`)); n != "1" {
		t.Errorf("%s attempts", n)
	}
}
