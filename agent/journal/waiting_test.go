package journal

import (
	"errors"
	"log/slog"
	"slices"
	"syscall"
	"testing"
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
func TestEndOfAnAttemptThatMayVanishIsNotSent(t *testing.T) {
	d := simdisk.New()
	d.Put("/data/.keep", nil)
	open := func() *Journal {
		j, err := OpenOn(d, "/data", begun, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	j := open()
	update1(t, j, func(r *Record) error { return r.QueueStatus(status(topics.StateStaged)) })
	refused := func(c simdisk.Change) simdisk.Verdict {
		if c.Op == "sync-dir" {
			return simdisk.Verdict{Err: syscall.EIO}
		}
		return simdisk.Verdict{}
	}
	d.Ask = refused
	err := j.Update(func(r *Record) error {
		return errors.Join(r.QueueStatus(status(topics.StateFailed)), r.QueueStatus(status(topics.StateDownloading)))
	})
	if !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	d.Restart(false, nil)
	d.Ask = refused
	again := open()
	if n := len(again.Snapshot().Queue); n != 3 {
		t.Fatalf("%d reports were found", n)
	}
	if err := again.Hold(func(r *Record) error { return r.QueueHeartbeat(heartbeat()) }); err != nil {
		t.Fatal(err)
	}
	var kinds []topics.Kind
	for _, report := range again.Waiting(10, 1<<20) {
		kinds = append(kinds, report.Kind)
	}
	if !slices.Equal(kinds, []topics.Kind{topics.KindStatus, topics.KindHeartbeat}) {
		t.Errorf("to be sent while the disk refuses: %v", kinds)
	}
	d.Ask = nil
	if list := again.Waiting(10, 1<<20); len(list) != 4 || !list[1].Final {
		t.Errorf("to be sent when the disk takes writes again: %v", list)
	}
}
