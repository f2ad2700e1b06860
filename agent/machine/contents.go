package machine

import (
	"groundswell/agent/disk"
	"groundswell/agent/slot"
)

// Contents is what runs, to read; not ok if what was written down of it is not true any
// more, because somebody flashed it by hand.
func (m *Machine) Contents() (slot.Contents, bool) {
	running := m.Running()
	if running.Image.SHA256 == "" || running.Image.Length < 1 {
		return slot.Contents{}, false
	}
	partition := m.cfg.Partitions[running.Slot]
	return slot.Contents{Image: running.Image, Open: func() (disk.File, error) { return disk.Open(m.cfg.Disk, partition) }}, true
}
