package slot

import "groundswell/agent/disk"

// Contents is what a slot holds, to read: what a new version has in common with it need
// not be fetched. Whatever runs from there may have changed it.
type Contents struct {
	Image Image
	Open  func() (disk.File, error)
}

// Contents is what a slot holds; not ok if that is nothing, or not known.
func (d *Dir) Contents(slot string) (Contents, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	image, err := d.image(slot)
	if err != nil || image.Length < 1 {
		return Contents{}, false
	}
	return Contents{image, func() (disk.File, error) { return disk.Open(d.on, d.file(slot, "artifact")) }}, true
}

// Contents is what runs, to read; not ok if nothing does.
func (s *Supervised) Contents() (Contents, bool) {
	if slot := s.Running().Slot; slot != "" {
		return s.dir.Contents(slot)
	}
	return Contents{}, false
}

// Idle is what the slot holds that does not run, to read; not ok if that is nothing.
func (s *Supervised) Idle() (Contents, bool) {
	if slot := s.Running().Slot; slot != "" {
		return s.dir.Contents(other(slot))
	}
	return Contents{}, false
}
