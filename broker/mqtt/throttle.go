package mqtt

import (
	"log/slog"
	"sync"
	"time"
)

// throttle keeps what goes wrong a thousand times a second from filling the
// log: one line a second, which says how many were left out. All are counted
// in the metrics.
type throttle struct {
	mu      sync.Mutex // guards what follows
	last    time.Time
	skipped int
}

func (t *throttle) warn(log *slog.Logger, text string, attrs ...any) {
	t.mu.Lock()
	now := time.Now()
	if now.Sub(t.last) < time.Second {
		t.skipped++
		t.mu.Unlock()
		return
	}
	skipped := t.skipped
	t.last, t.skipped = now, 0
	t.mu.Unlock()
	if skipped > 0 {
		attrs = append(attrs, "also", skipped)
	}
	log.Warn(text, attrs...)
}
