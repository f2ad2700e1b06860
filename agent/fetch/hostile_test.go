package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// drip sends a byte whenever tick has one, for as long as the client stays.
func drip(every time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(firmware)))
		tick := time.NewTicker(every)
		defer tick.Stop()
		for i := range firmware {
			if _, err := w.Write(firmware[i : i+1]); err != nil {
				return
			}
			w.(http.Flusher).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	}
}

// A byte now and then is not enough to keep the device with a source.
func TestDrippingSourceIsLeftForTheNext(t *testing.T) {
	slow := newSource(t, drip(time.Millisecond))
	good := newSource(t, honest)
	c := client(t, slow.URL, good.URL)
	c.cfg.Stall, c.cfg.MinRate = 5*time.Second, 10_000
	path := filepath.Join(t.TempDir(), "staging")
	if err := c.Artifact(t.Context(), artifact(), path, nil); err != nil {
		t.Fatal(err)
	}
	mustBe(t, path, firmware)
	if len(slow.asked()) != 1 || len(good.asked()) != 1 {
		t.Errorf("asked %q and %q", slow.asked(), good.asked())
	}
}

// One source sends a beginning that is wrong and hangs up; the next completes
// it, and is not to blame for what comes of that.
func TestPoisonedBeginningIsNotBlamedOnWhoCompletesIt(t *testing.T) {
	poison := newSource(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(firmware)))
		_, _ = w.Write(make([]byte, 1000))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	good := newSource(t, honest)
	path := filepath.Join(t.TempDir(), "staging")
	if err := client(t, poison.URL, good.URL).Artifact(t.Context(), artifact(), path, nil); err != nil {
		t.Fatal(err)
	}
	mustBe(t, path, firmware)
}

// What one source has sent is not thrown away because another says that it has
// no such range, or sends all of it.
func TestNoSourceUndoesWhatAnotherHasSent(t *testing.T) {
	for name, bad := range map[string]http.HandlerFunc{
		"no such range":             func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) },
		"all of it, but not really": cutAt(10),
	} {
		t.Run(name, func(t *testing.T) {
			hostile := newSource(t, bad)
			good := newSource(t, cutAt(100_000), honest)
			path := filepath.Join(t.TempDir(), "staging")
			// The good one first: a part is there before the other is asked.
			if err := client(t, good.URL, hostile.URL).Artifact(t.Context(), artifact(), path, nil); err != nil {
				t.Fatal(err)
			}
			mustBe(t, path, firmware)
			if got := good.asked(); len(got) != 2 || got[1] == "" || got[1] == "bytes=10-" {
				t.Errorf("ranges %q", got)
			}
		})
	}
}

// A source that sends a byte and hangs up is asked again with growing pauses: all
// that is there is read again each time.
func TestByteAtATimeDoesNotCountAsProgress(t *testing.T) {
	s := newSource(t, func(w http.ResponseWriter, r *http.Request) {
		from := 0
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err != nil {
			from = 0
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(firmware)-from))
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(firmware)-1, len(firmware)))
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(firmware[from : from+1])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := &rounds{enough: 12, done: cancel}
	c := client(t, s.URL)
	c.cfg.Log = slog.New(told)
	if err := c.Artifact(ctx, artifact(), filepath.Join(t.TempDir(), "staging"), nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for i, n := range told.got {
		if n != int64(i+1) {
			t.Fatalf("rounds %v", told.got)
		}
	}
}

// rounds is a log that remembers in which round a download was interrupted.
type rounds struct {
	slog.Handler
	got    []int64
	enough int
	done   func()
}

func (r *rounds) Enabled(context.Context, slog.Level) bool { return true }

func (r *rounds) Handle(_ context.Context, record slog.Record) error {
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == "round" {
			r.got = append(r.got, a.Value.Int64())
		}
		return true
	})
	if len(r.got) == r.enough {
		r.done()
	}
	return nil
}
