package rauc

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// TestWhatRAUCRefusesInPassingIsAskedForAgain: a loop device that went away while it looked
// at its slots, as RAUC 1.8 tells it. Nothing else that it refuses is repeated.
func TestWhatRAUCRefusesInPassingIsAskedForAgain(t *testing.T) {
	passes := fmt.Errorf("%w: Failed to determine slot states: Error getting loop backing_file for /dev/loop8", ErrRefused)
	other := fmt.Errorf("%w: No slot with name rootfs.7", ErrRefused)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx     context.Context
		answers []error // the last one stays
		asked   int
		want    error
	}{
		"passes by":   {t.Context(), []error{passes, passes, nil}, 3, nil},
		"stays":       {t.Context(), []error{passes}, tries, ErrRefused},
		"other":       {t.Context(), []error{other, nil}, 1, ErrRefused},
		"unavailable": {t.Context(), []error{ErrUnavailable, nil}, 1, ErrUnavailable},
		"cancelled":   {cancelled, []error{passes, nil}, 1, ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			asked := 0
			err := again(c.ctx, func() error {
				asked++
				return c.answers[min(asked, len(c.answers))-1]
			})
			if asked != c.asked || !errors.Is(err, c.want) {
				t.Errorf("asked %d times: %v; want %d times: %v", asked, err, c.asked, c.want)
			}
		})
	}
}
