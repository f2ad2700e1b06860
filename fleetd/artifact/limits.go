package artifact

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"groundswell/certs"
)

// piece is how much a download may send at once, in bytes. It bounds what the next in
// line waits for.
const piece = 16 << 10

// MinRate is how many bytes a second a download gets at least when all that are
// allowed run at once: an agent leaves a source that sends less than 1,024.
const MinRate = 4 << 10

// LimitsConfig is how much downloads may take of one fleetd.
type LimitsConfig struct {
	// Concurrent is how many downloads of artifacts run at once; as many of each other
	// kind (packs, deltas between indexes, metadata) may run besides. What is above is
	// answered 503, but for deltas between indexes: 404.
	Concurrent int
	// PerDevice is how many of artifacts, packs and deltas between indexes together may be of
	// one device, by its certificate. Callers without one are not told apart. Metadata is not
	// counted: it is short, it is in memory, and a device that may not have it stops updating.
	PerDevice int
	// RetryAfterMin and RetryAfterMax are between which whole seconds Retry-After is
	// drawn at random, so that those who were refused do not come back together.
	RetryAfterMin, RetryAfterMax time.Duration
	// BytesPerSecond bounds the bodies of all answers together, on average from any
	// moment on, but for a twentieth of a second's worth or one piece (16 KiB). 0: no bound.
	BytesPerSecond int64
}

// DefaultLimits are those of a fleetd that was told nothing.
func DefaultLimits() LimitsConfig {
	return LimitsConfig{Concurrent: 1000, PerDevice: 8, RetryAfterMin: 5 * time.Second, RetryAfterMax: time.Minute}
}

// Check names the first field, as it stands in the configuration, that cannot be used.
func (c LimitsConfig) Check() error {
	switch {
	case c.Concurrent < 1 || c.Concurrent > 100_000:
		return errors.New("concurrent: must be from 1 to 100000")
	case c.PerDevice < 1 || c.PerDevice > c.Concurrent:
		return errors.New("per_device: must be from 1 to concurrent")
	case c.RetryAfterMin < time.Second:
		return errors.New("retry_after_min: must be at least 1s")
	case c.RetryAfterMax < c.RetryAfterMin || c.RetryAfterMax > time.Hour:
		return errors.New("retry_after_max: must be from retry_after_min to 1h")
	case c.BytesPerSecond < 0:
		return errors.New("bytes_per_second: must not be negative")
	case c.BytesPerSecond > 0 && c.BytesPerSecond < MinRate*int64(c.Concurrent):
		return fmt.Errorf("bytes_per_second: is less than %d for each of %d downloads at once (%d): devices would take it for a stalled source; lower concurrent", MinRate, c.Concurrent, MinRate*int64(c.Concurrent))
	}
	return nil
}

// Burst is how many bytes may exceed BytesPerSecond at any one time.
func (c LimitsConfig) Burst() int64 { return max(piece, c.BytesPerSecond/20) }

// Limits are shared by all listeners of a fleetd. Whoever waits for bytes gets one
// piece in the order of asking, and asks for the next only then: so none starves, and
// a fast one gets no more than a slow one that keeps up.
type Limits struct {
	cfg LimitsConfig

	mu      sync.Mutex    // guards what follows
	bytes   *rate.Limiter // nil: no bound
	running map[kind]int
	devices map[string]int // all but metadata, by device
}

// NewLimits takes what Check accepts.
func NewLimits(cfg LimitsConfig) *Limits {
	l := &Limits{cfg: cfg, running: map[kind]int{}, devices: map[string]int{}}
	if cfg.BytesPerSecond > 0 {
		l.bytes = rate.NewLimiter(rate.Limit(cfg.BytesPerSecond), int(cfg.Burst()))
	}
	return l
}

// The reasons for a 503.
const (
	busy       = "busy"
	busyDevice = "device"
)

// perDevice is whether it is counted how many a device has at once: all that is long, or made for
// who asks.
func (k kind) perDevice() bool { return k != metadata }

// begin takes a place for a download, or says why there is none.
func (l *Limits) begin(k kind, r *http.Request) (end func(), refused string) {
	device := deviceOf(r)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.running[k] >= l.cfg.Concurrent:
		return nil, busy
	case k.perDevice() && device != "" && l.devices[device] >= l.cfg.PerDevice:
		return nil, busyDevice
	}
	l.running[k]++
	if k.perDevice() && device != "" {
		l.devices[device]++
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.running[k]--
		if !k.perDevice() || device == "" {
			return
		}
		if l.devices[device]--; l.devices[device] == 0 {
			delete(l.devices, device)
		}
	}, ""
}

// deviceOf is the device whose certificate the connection was opened with; "" when
// there is none.
func deviceOf(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	id, err := certs.ParseIdentity(r.TLS.PeerCertificates[0])
	if err != nil {
		return ""
	}
	return id.String()
}

// wait returns when n bytes (at most a piece) may be sent, or with ctx's error.
func (l *Limits) wait(ctx context.Context, n int, m *Metrics) error {
	if l.bytes == nil {
		return ctx.Err()
	}
	l.mu.Lock()
	// The clock is read under the lock: times that go back, as those of two callers
	// may, have the limiter count the time between them twice.
	turn := l.bytes.ReserveN(time.Now(), n)
	l.mu.Unlock()
	delay := turn.Delay()
	if delay <= 0 {
		return ctx.Err()
	}
	m.waiting.Inc()
	defer m.waiting.Dec()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		m.waited.Add(delay.Seconds())
		return nil
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		turn.Cancel() // for those behind
		return ctx.Err()
	}
}

// retryAfter is a value for that header.
func (l *Limits) retryAfter() string {
	least, most := int64(l.cfg.RetryAfterMin/time.Second), int64(l.cfg.RetryAfterMax/time.Second)
	return strconv.FormatInt(least+rand.Int64N(most-least+1), 10)
}
