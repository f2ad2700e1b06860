package fetch

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"groundswell/internal/backoff"
)

// Busy is a source's answer that it has no time now.
type Busy struct {
	Host  string
	After time.Duration // how long it wants to be left alone; 0: it does not say
}

func (b Busy) Error() string { return fmt.Sprintf("%s is busy for %v", b.Host, b.After) }

// maxBusy is how long a source may ask to be left alone.
const maxBusy = time.Hour

// busy is Busy for 429 and 503, with Retry-After in seconds (RFC 9110, 10.2.3; dates
// are not read: the clock may be wrong).
func busy(base string, resp *http.Response) error {
	seconds, err := strconv.ParseInt(resp.Header.Get("Retry-After"), 10, 32)
	if err != nil || seconds < 0 {
		seconds = 0
	}
	return Busy{host(base), min(time.Duration(seconds)*time.Second, maxBusy)}
}

// alone are the sources that want to be left alone, and until when. What they say about
// artifacts, packs and documents they do not say about the repositories; nor what they say
// about deltas between block indexes, without which a device goes on, about anything else.
type alone struct {
	mu    sync.Mutex // guards until
	until map[string]time.Time
}

func key(base, path string) string {
	for _, first := range []string{"repository", "indexes"} {
		if strings.HasPrefix(path, first+"/") {
			return base + " " + first
		}
	}
	return base
}

// ask is Busy while a source wants to be left alone about a path.
func (a *alone) ask(base, path string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if left := time.Until(a.until[key(base, path)]); left > 0 {
		return Busy{host(base), left}
	}
	return nil
}

// note remembers what a source has said.
func (a *alone) note(base, path string, resp *http.Response) {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return
	}
	said, ok := busy(base, resp).(Busy)
	if !ok || said.After == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.until == nil {
		a.until = map[string]time.Time{}
	}
	for k, until := range a.until { // sources come and go
		if time.Until(until) <= 0 {
			delete(a.until, k)
		}
	}
	a.until[key(base, path)] = time.Now().Add(said.After)
}

// Rest is Pause for artifacts and what belongs to them: it waits besides for as long as all
// sources want to be left alone.
func (c *Client) Rest(ctx context.Context, n int) error {
	wait := time.Duration(-1)
	c.alone.mu.Lock()
	for _, base := range c.cfg.Sources() {
		left := max(0, time.Until(c.alone.until[key(base, "")]))
		if wait < 0 || left < wait {
			wait = left
		}
	}
	c.alone.mu.Unlock()
	if wait > 0 {
		if err := backoff.Sleep(ctx, wait); err != nil {
			return err
		}
	}
	return c.Pause(ctx, n)
}
