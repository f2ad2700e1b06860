package fetch

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/clock"
	"groundswell/agent/wake"
)

func noSuchRange(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Range") != "" {
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	_, _ = w.Write(firmware)
}

func noRanges(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(firmware) }

// begun is a file with the first n bytes of the firmware.
func begun(t *testing.T, n int) (path string) {
	path = filepath.Join(t.TempDir(), "staging")
	if err := os.WriteFile(path, firmware[:n], 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustHave(t *testing.T, path string, n int) {
	t.Helper()
	mustBe(t, path, firmware[:n])
}

// TestNoSuchRangeUndoesNothingAfterARestart: nobody knows any more who sent the part.
func TestNoSuchRangeUndoesNothingAfterARestart(t *testing.T) {
	bad := newSource(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) })
	good := newSource(t, honest)
	path := begun(t, 100_000)
	c := client(t, bad.URL, good.URL)
	c.cfg.Wake = wake.New(wake.Limits{Bytes: 100_000})
	c.cfg.Wake.Begin()
	if err := c.Artifact(t.Context(), artifact(), path, nil); !errors.Is(err, wake.ErrSpent) {
		t.Fatal(err)
	}
	mustHave(t, path, 200_000)
	c.cfg.Wake.Begin()
	if err := c.Artifact(t.Context(), artifact(), path, nil); err != nil {
		t.Fatal(err)
	}
	mustBe(t, path, firmware)
	if got, want := good.asked(), []string{"bytes=100000-199999", "bytes=200000-"}; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

// TestASourceWithoutTheRangeIsAskedForAll: there may be no other one.
func TestASourceWithoutTheRangeIsAskedForAll(t *testing.T) {
	s := newSource(t, noSuchRange)
	path := begun(t, 290_000)
	if err := client(t, s.URL).Artifact(t.Context(), artifact(), path, nil); err != nil {
		t.Fatal(err)
	}
	mustBe(t, path, firmware)
	if got, want := s.asked(), []string{"bytes=290000-", ""}; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

// TestASourceIsAskedForRangesAgain, once it was asked for all: it may have them by now.
func TestASourceIsAskedForRangesAgain(t *testing.T) {
	asked := 0
	s := newSource(t, func(w http.ResponseWriter, r *http.Request) {
		switch asked++; asked {
		case 1:
			noSuchRange(w, r)
		case 2:
			w.WriteHeader(http.StatusBadGateway)
		default:
			honest(w, r)
		}
	})
	path := begun(t, 200_000)
	if err := client(t, s.URL).Artifact(t.Context(), artifact(), path, nil); err != nil {
		t.Fatal(err)
	}
	mustBe(t, path, firmware)
	if got, want := s.asked(), []string{"bytes=200000-", "", "bytes=200000-"}; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

// TestWhatIsThereIsNotFetchedAgainBeyondABudget: a source that would send all of it is left
// for the next. Where there is none, a wake is over, or a device that sleeps would stay awake.
func TestWhatIsThereIsNotFetchedAgainBeyondABudget(t *testing.T) {
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	clk := clock.New(now, func() time.Time { return now })
	daily := func() Config {
		return Config{Allowance: allowance.New(allowance.Config{DailyBudget: 64 << 10}, "camera-1", clk, slog.New(slog.DiscardHandler))}
	}
	perWake := func() Config {
		w := wake.New(wake.Limits{Bytes: 64 << 10})
		w.Begin()
		return Config{Wake: w}
	}
	for name, limits := range map[string]func() Config{"of a day": daily, "of a wake": perWake} {
		for unwilling, handler := range map[string]http.HandlerFunc{"sends all of it": noRanges, "has no such range": noSuchRange} {
			t.Run(name+", "+unwilling, func(t *testing.T) {
				bad, good := newSource(t, handler), newSource(t, honest)
				cfg := limits()
				cfg.Sources = func() []string { return []string{bad.URL} }
				cfg.BackoffMin, cfg.BackoffMax = time.Millisecond, time.Millisecond
				c := New(cfg)
				t.Cleanup(c.Close)
				path := begun(t, 200_000)

				ctx, cancel := context.WithCancel(t.Context())
				a, rounds := artifact(), 0
				a.Skipped = func(n int64) { t.Errorf("%d bytes came again", n) }
				a.Waits = func(why error) {
					if rounds++; rounds == 5 {
						cancel()
					}
					if !errors.Is(why, ErrRange) && !errors.Is(why, errAgain) {
						t.Error(why)
					}
				}
				want := context.Canceled
				if cfg.Wake != nil {
					want = wake.ErrSpent
				}
				if err := c.Artifact(ctx, a, path, nil); !errors.Is(err, want) {
					t.Fatal(err)
				}
				if n := len(bad.asked()); n != 1 {
					t.Errorf("asked it %d times in %d rounds", n, rounds)
				}
				if cfg.Wake != nil {
					if !cfg.Wake.Over() {
						t.Error("the wake goes on")
					}
					cfg.Wake.Begin()
				}
				if left, _ := c.Left(); left < 32<<10 {
					t.Errorf("%d bytes are left", left)
				}

				c.cfg.Sources = func() []string { return []string{bad.URL, good.URL} }
				if err := c.Artifact(t.Context(), a, path, nil); !errors.Is(err, wake.ErrSpent) {
					t.Fatal(err)
				}
				info, err := os.Stat(path)
				if err != nil || info.Size() < 200_000+32<<10 || info.Size() > 200_000+64<<10 {
					t.Fatalf("%v, %v", info.Size(), err)
				}
			})
		}
	}
}

// TestWhatComesAgainCounts: for the budget, and for who keeps accounts.
func TestWhatComesAgainCounts(t *testing.T) {
	for name, c := range map[string]struct {
		budget         int64
		others         int64 // bytes that others fetch meanwhile
		skipped, there int
	}{
		"there is enough for more":    {budget: 250_000, skipped: 200_000, there: 250_000},
		"others need it meanwhile":    {budget: 250_000, others: 250_000, skipped: 1, there: 200_000},
		"others need some of it":      {budget: 250_000, others: 40_000, skipped: 200_000, there: 210_000},
		"there is enough for nothing": {budget: 200_001, others: 1, skipped: 200_000, there: 200_000},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSource(t, noRanges)
			client := client(t, s.URL)
			client.cfg.Wake = wake.New(wake.Limits{Bytes: c.budget})
			client.cfg.Wake.Begin()
			path := begun(t, 200_000)
			a, skipped := artifact(), int64(0)
			a.Skipped = func(n int64) {
				if skipped == 0 {
					client.cfg.Wake.Spent(c.others)
				}
				skipped += n
			}
			if err := client.Artifact(t.Context(), a, path, nil); !errors.Is(err, wake.ErrSpent) {
				t.Fatal(err)
			}
			mustHave(t, path, c.there)
			if left, _ := client.Left(); left != 0 {
				t.Errorf("%d bytes are left", left)
			}
			if want := int64(c.skipped); skipped != want && (want != 1 || skipped > 32<<10) {
				t.Errorf("%d bytes came again, want %d", skipped, want)
			}
		})
	}
}
