package self

import "groundswell/agent/slot"

// Contents is this agent's executable, to read; not ok if it was not launched from a slot.
func (s *Slots) Contents() (slot.Contents, bool) {
	if s.cfg.Launched.Slot == "" {
		return slot.Contents{}, false
	}
	return s.dir.Contents(s.cfg.Launched.Slot)
}
