package journal

import (
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/agent/disk/simdisk"
	"groundswell/topics"
)

func TestWaitingIsBoundedAndInTheOrderOfSending(t *testing.T) {
	j, err := Open(t.TempDir(), time.Now(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Update(func(r *Record) error {
		for _, kind := range []topics.Kind{topics.KindHeartbeat, topics.KindLog, topics.KindStatus, topics.KindStatus} {
			if err := r.queue(kind, []byte(`"0123456789"`), nil, false); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	kinds := func(list []Report) (s string) {
		for _, r := range list {
			s += string(r.Kind)[:1]
		}
		return s
	}
	for _, c := range []struct {
		n, size int
		want    string
	}{{16, 1000, "sslh"}, {3, 1000, "ssl"}, {16, 47, "ssl"}, {16, 48, "sslh"}, {16, 11, ""}, {0, 1000, ""}} {
		if got := kinds(j.Waiting(c.n, c.size)); got != c.want {
			t.Errorf("at most %d and %d bytes: %q, want %q", c.n, c.size, got, c.want)
		}
	}
	if next, ok := j.Next(); !ok || next.ID != j.Waiting(1, 1000)[0].ID {
		t.Error("Next is another")
	}
}

// TestEndOfAnAttemptThatMayVanishIsNotSent: a process was killed when it had written the
// end and the disk had refused to make it durable. A power cut may take it back.
func TestEndOfAnAttemptThatMayVanishIsNotSent(t *testing.T) { synctest.Test(t, endThatMayVanish) }

func endThatMayVanish(t *testing.T) {
	d := simdisk.New()
	d.Put("/data/.keep", nil)
	var log strings.Builder
	open := func() *Journal {
		j, err := OpenOn(d, "/data", begun, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	j := open()
	update1(t, j, func(r *Record) error { return r.QueueStatus(status(topics.StateStaged)) })
	syncs := 0
	refused := func(c simdisk.Change) simdisk.Verdict {
		if c.Op == "sync-dir" {
			syncs++
			return simdisk.Verdict{Err: syscall.EIO}
		}
		return simdisk.Verdict{}
	}
	d.Ask = refused
	err := j.Update(func(r *Record) error {
		next, other := status(topics.StateDownloading), status(topics.StateDownloading)
		next.Attempt, other.Rollout, other.Component = 2, "r-2", "modem"
		return errors.Join(r.QueueStatus(status(topics.StateFailed)), r.QueueStatus(next), r.QueueStatus(other))
	})
	if !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.Restart(false, nil)
	d.Ask = refused
	again := open()
	if n := len(again.Snapshot().Queue); n != 4 {
		t.Fatalf("%d reports were found", n)
	}
	if err := again.Hold(func(r *Record) error { return r.QueueHeartbeat(heartbeat()) }); err != nil {
		t.Fatal(err)
	}
	waits := func(want ...string) {
		t.Helper()
		var list []string
		for _, report := range again.Waiting(10, 1<<20) {
			var s struct{ Rollout, State string }
			if err := json.Unmarshal(report.Payload, &s); err != nil {
				t.Fatal(err)
			}
			list = append(list, strings.TrimSpace(s.Rollout+" "+s.State))
		}
		if !slices.Equal(list, want) {
			t.Errorf("to be sent: %q, want %q", list, want)
		}
	}
	syncs = 0
	for range 10 { // minutes, and a look each second
		for range 60 {
			waits("r-1 staged", "r-2 downloading", "")
			time.Sleep(time.Second)
		}
	}
	if syncs < 9 || syncs > 11 {
		t.Errorf("the disk was asked %d times in 10 minutes", syncs)
	}
	d.Ask = nil
	time.Sleep(resave)
	for range 2 {
		waits("r-1 staged", "r-1 failed", "r-1 downloading", "r-2 downloading", "")
	}
	if n := strings.Count(log.String(), "does not confirm"); n != 1 || strings.Count(log.String(), "has confirmed") != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
}
