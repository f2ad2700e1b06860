package group

import (
	"testing"

	"groundswell/agent/slot/slottest"
)

func TestGroupsAreSlots(t *testing.T) {
	for _, kinds := range [][]string{{"module", "final"}, {"process", "module"}, {"final", "machine"}} {
		t.Run(kinds[0]+" and "+kinds[1], func(t *testing.T) {
			t.Parallel()
			slottest.Run(t, func(t *testing.T) slottest.Device { return newDevice(t, kinds...) })
		})
	}
}
