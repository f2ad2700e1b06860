package rauc

import (
	"testing"

	"groundswell/agent/slot/slottest"
)

func TestRAUCBehindGRUBHasSlots(t *testing.T) {
	t.Parallel()
	slottest.Run(t, func(t *testing.T) slottest.Device { return grub(t) })
}

func TestRAUCBehindUBootHasSlots(t *testing.T) {
	t.Parallel()
	slottest.Run(t, func(t *testing.T) slottest.Device { return uboot(t) })
}
