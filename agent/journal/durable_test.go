package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"groundswell/agent/disk/simdisk"
	"groundswell/topics"
)

// What a process reads that another one wrote, and was killed before it was durable,
// does not vanish afterwards: more was done on the strength of it.
func TestWhatWasLoadedSurvivesAPowerCut(t *testing.T) {
	d := simdisk.New()
	d.Put("/data/.keep", nil)
	if err := NewFileOn(d, "/data/journal").Save([]byte("one")); err != nil {
		t.Fatal(err)
	}
	d.Ask = func(c simdisk.Change) simdisk.Verdict { return simdisk.Verdict{CutAfter: c.Op == "rename"} }
	f := NewFileOn(d, "/data/journal")
	if _, _, err := f.Load(); err != nil {
		t.Fatal(err)
	}
	if err := f.Save([]byte("two")); err == nil {
		t.Fatal("not killed")
	}
	d.Ask = nil
	d.Restart(false, nil)
	body, _, err := NewFileOn(d, "/data/journal").Load()
	if err != nil || string(body) != "two" {
		t.Fatalf("after the kill: %q, %v", body, err)
	}
	d.Restart(true, func() bool { return false })
	if body, _, err := NewFileOn(d, "/data/journal").Load(); err != nil || string(body) != "two" {
		t.Errorf("after the power cut: %q, %v", body, err)
	}
}

func TestPenaltiesAreBounded(t *testing.T) {
	var r Record
	hour := func(n int) time.Duration { return time.Duration(n) * time.Hour }
	r.Penalize("first", "r-1", begun, hour)
	r.Penalize("first", "r-2", begun, hour)
	if p := r.Penalties["first"]; p.Count != 2 || p.Rollout != "r-2" || !p.NotBefore.Equal(begun.Add(2*time.Hour)) {
		t.Errorf("%+v", p)
	}
	for n := range maxPenalties {
		r.Penalize(fmt.Sprint(n), "r-1", begun.Add(time.Duration(n+1)*time.Second), hour)
	}
	if _, known := r.Penalties["first"]; known || len(r.Penalties) != maxPenalties {
		t.Errorf("%d are kept, the oldest %v", len(r.Penalties), known)
	}
}

// TestANumberOfAReportThatMayComeBackIsNotGivenAgain: a write that failed at its very end
// is there after a restart, with the report that memory has forgotten.
func TestANumberOfAReportThatMayComeBackIsNotGivenAgain(t *testing.T) {
	d := simdisk.New()
	d.Put("/data/.keep", nil)
	j, err := OpenOn(d, "/data", begun, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	update1(t, j, func(r *Record) error { return r.QueueStatus(status(topics.StateStaged)) })
	d.Ask = func(c simdisk.Change) (v simdisk.Verdict) {
		if c.Op == "sync-dir" {
			v.Err = syscall.EIO
		}
		return v
	}
	if err := j.Update(func(r *Record) error { return r.QueueStatus(status(topics.StateFailed)) }); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if n := len(j.Snapshot().Queue); n != 1 {
		t.Fatalf("%d reports", n)
	}
	d.Ask = func(simdisk.Change) simdisk.Verdict { return simdisk.Verdict{Err: syscall.ENOSPC} }
	if err := j.Hold(func(r *Record) error { return r.QueueHeartbeat(heartbeat()) }); err != nil {
		t.Fatal(err)
	}
	held := sequences(t, j)
	d.Ask = nil
	d.Restart(false, nil)
	again, err := OpenOn(d, "/data", begun, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	back := sequences(t, again)
	if len(held) != 2 || len(back) != 2 || held[0] != back[0] || held[1] == back[1] {
		t.Errorf("numbered %v before the restart, %v after it", held, back)
	}
}

func sequences(t *testing.T, j *Journal) (list []int64) {
	t.Helper()
	for _, report := range j.Snapshot().Queue {
		var numbered struct{ Sequence int64 }
		if err := json.Unmarshal(report.Payload, &numbered); err != nil {
			t.Fatal(err)
		}
		list = append(list, numbered.Sequence)
	}
	return list
}
