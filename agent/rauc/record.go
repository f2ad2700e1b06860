package rauc

import (
	"encoding/json"
	"errors"
	"maps"
	"os"

	"groundswell/agent/slot"
)

// record is what survives a power cut: what RAUC has no place for.
type record struct {
	// Active is the slot that was confirmed last; empty on a device that was never
	// updated.
	Active string `json:"active,omitempty"`
	// Slots says what was put into them.
	Slots map[string]held `json:"slots,omitempty"`
	// Trial is the one that was not ended.
	Trial *trial `json:"trial,omitempty"`
}

// held is what a slot was given to hold.
type held struct {
	slot.Image // the bundle
	// Holds is what RAUC said of the group when it had installed the bundle, by slot. Nil:
	// it has not, or not all of it.
	Holds map[string]content `json:"holds,omitempty"`
	// Plain are those of these slots whose device began with the very bytes of the image.
	Plain []string `json:"plain,omitempty"`
}

// trial is one of a slot.
type trial struct {
	Slot string `json:"slot"`
	Boot string `json:"boot"` // in which it was armed
	// Before is how often RAUC had activated the slot until then; Armed: it has done so
	// again.
	Before uint32 `json:"before"`
	Armed  bool   `json:"armed,omitempty"`
	// Over: it was ended, in the boot OverIn; Told: and RAUC knows.
	Over   bool   `json:"over,omitempty"`
	OverIn string `json:"over_in,omitempty"`
	Told   bool   `json:"told,omitempty"`
}

// agrees reports whether RAUC says of a group what it said when the bundle had been
// installed.
func (h held) agrees(group []place) bool {
	return h.Length > 0 && h.Holds != nil && maps.Equal(h.Holds, contents(group))
}

func contents(group []place) map[string]content {
	c := map[string]content{}
	for _, p := range group {
		c[p.name] = p.holds
	}
	return c
}

// with is the record with that trial. What a record points to never changes.
func (r record) with(t trial) record {
	r.Trial = &t
	return r
}

// without is the record without a trial.
func (r record) without() record {
	r.Trial = nil
	return r
}

// holding is the record with something else in a slot.
func (r record) holding(name string, h held) record {
	r.Slots = maps.Clone(r.Slots)
	if r.Slots == nil {
		r.Slots = map[string]held{}
	}
	r.Slots[name] = h
	return r
}

// load reads the record. What cannot be read is as on a device that was never updated:
// what runs is kept, and what does not is installed anew when it is needed.
func (s *Slots) load() (read bool) {
	body, _, err := s.file.Load()
	if err == nil {
		err = json.Unmarshal(body, &s.record)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.cfg.Log.Error("what the slots hold is not known any more", "err", err)
		s.record = record{}
		return false
	}
	return true
}

// save writes next, and takes it over when that went well. The caller holds busy.
func (s *Slots) save(next record) error {
	s.at()
	body, err := json.Marshal(next)
	if err == nil {
		err = s.file.Save(body)
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record = next
	return nil
}
