//go:build !race

package rauc

// One thing after the other in one goroutine: the race detector would only take long.

import (
	"testing"

	"groundswell/agent/slot/slottest"
)

func TestRAUCBehindGRUBHasSlots(t *testing.T) {
	slottest.Run(t, func(t *testing.T) slottest.Device { return grub(t) })
}

func TestRAUCBehindUBootHasSlots(t *testing.T) {
	slottest.Run(t, func(t *testing.T) slottest.Device { return uboot(t) })
}
