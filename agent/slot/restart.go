package slot

import (
	"context"
	"fmt"
	"time"
)

// restartTime is how long a machine may take to end what runs.
const restartTime = 10 * time.Minute

// Restart boots the machine, and waits for it: it returns only when that fails, or when
// ctx ends.
func Restart(ctx context.Context, restart func(ctx context.Context) error) error {
	if err := restart(ctx); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	timer := time.NewTimer(restartTime)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return fmt.Errorf("restart: the machine still runs after %v", restartTime)
	}
}
