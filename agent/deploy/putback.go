package deploy

import (
	"context"

	"groundswell/agent/update"
)

// PutBack makes run again what ran before the trial of a slot, and leaves it to FallBack
// to forget that trial: as long as no journal says that it has ended badly, the slots are
// all that could tell it after a restart. It may be repeated.
func PutBack(ctx context.Context, s Slots, slot string) error {
	if s, ok := s.(interface {
		PutBack(ctx context.Context) error
	}); ok {
		return s.PutBack(ctx)
	}
	// What falls back by a boot remembers the trial over that.
	if s.Trial(slot) == update.FellBack {
		return nil
	}
	return s.FallBack(ctx)
}
