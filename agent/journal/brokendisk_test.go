package journal

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"groundswell/agent/agenttest"
	"groundswell/topics"
)

// A disk that takes no writes must not keep the agent, and with it the
// firmware, from starting; and nothing is numbered that could be numbered again.
func TestLostJournalOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	full := filepath.Join(dir, "journal.new")
	if err := os.MkdirAll(filepath.Join(full, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	j := open(t, dir, begun)
	queue := func() error { return j.Update(func(r *Record) error { return r.QueueHeartbeat(heartbeat()) }) }
	if err := queue(); err == nil {
		t.Fatal("queued without writing it down")
	}
	if _, waiting := j.Next(); waiting {
		t.Fatal("it would be sent")
	}
	if err := os.RemoveAll(full); err != nil {
		t.Fatal(err)
	}
	if err := queue(); err != nil {
		t.Fatal(err)
	}
	if r := open(t, dir, begun).Snapshot(); r.Epoch != begun.Unix() || r.Sequence != restarted(1) || len(r.Queue) != 1 {
		t.Fatalf("after a restart: %+v", r)
	}
}

// numbers lists those of the reports in the queue, the oldest first.
func numbers(t *testing.T, r Record) (list []int64) {
	t.Helper()
	for _, q := range r.Queue {
		var p struct {
			Epoch    int64 `json:"epoch"`
			Sequence int64 `json:"sequence"`
		}
		if err := json.Unmarshal(q.Payload, &p); err != nil || p.Epoch != r.Epoch {
			t.Fatalf("%s, %v", q.Payload, err)
		}
		list = append(list, p.Sequence)
	}
	return list
}

func TestDeviceWhoseDiskFailsStillSpeaksAndLosesNothing(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, begun)
	step := func(r *Record) error { return r.QueueStatus(status(topics.StateCommitted)) }
	beat := func(r *Record) error { return r.QueueHeartbeat(heartbeat()) }
	hold := func() {
		t.Helper()
		if err := j.Hold(beat); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, want ...int64) {
		t.Helper()
		if got := numbers(t, j.Snapshot()); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%s: %v wait, want %v", when, got, want)
		}
	}
	update1(t, j, step)
	mend := agenttest.BreakJournal(t, dir)
	if j.Broken() != nil {
		t.Error("broken before any write failed")
	}
	hold()
	want("the first heartbeat without a disk", 1, 2)
	if err := j.Update(step); err == nil || j.Broken() == nil {
		t.Fatalf("a step without its journal: %v, %v", err, j.Broken())
	}
	want("a step that was refused", 1, 2)
	// What was journalled before is sent, once.
	q, _ := j.Next()
	if err := j.Sent(q.ID); err != nil || q.Kind != topics.KindStatus {
		t.Fatalf("%s, %v", q.Kind, err)
	}
	hold()
	want("the status was sent", 3)

	// Killed: the status is sent again, and no number is used for something else.
	j = open(t, dir, begun)
	want("after a restart", 1)
	hold()
	hold()
	again := restarted(1)
	want("a restart on the failing disk", 1, again)
	if s := j.Snapshot().Sequence; s != again {
		t.Errorf("the journal is at %d", s)
	}
	mend()
	update1(t, j, step)
	want("the disk is mended", 1, again, again+1)
	if j.Broken() != nil {
		t.Error(j.Broken())
	}
	hold()
	if r := open(t, dir, begun).Snapshot(); len(r.Queue) != 3 || r.Sequence <= again+2 {
		t.Errorf("on disk: %+v", r)
	}
}

func TestNumbersThatWereSetAsideRunOut(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, begun)
	update1(t, j, func(r *Record) error { r.Command = "c-1"; return nil })
	defer agenttest.BreakJournal(t, dir)()
	j.mu.Lock()
	j.limit = 3
	j.mu.Unlock()
	for _, want := range []int64{1, 2, 3, 3, 3} {
		if err := j.Hold(func(r *Record) error { return r.QueueHeartbeat(heartbeat()) }); err != nil {
			t.Fatal(err)
		}
		if got := numbers(t, j.Snapshot()); len(got) != 1 || got[0] != want {
			t.Errorf("got %v, want %d", got, want)
		}
		q, _ := j.Next()
		if err := j.Sent(q.ID); err != nil { // numbers nothing
			t.Fatal(err)
		}
		if r := j.Snapshot(); len(r.Queue) != 0 || r.Sequence != want {
			t.Errorf("after it was sent: %+v", r)
		}
	}
}

func TestNothingIsNumberedFromAJournalThatSetNothingAside(t *testing.T) {
	dir := t.TempDir()
	raw := []byte(`{"epoch":7,"sequence":9,"next_id":3,"queue":[{"id":3,"kind":"status","payload":{}}]}`) // of an agent that set nothing aside
	if err := NewFile(filepath.Join(dir, name)).Save(raw); err != nil {
		t.Fatal(err)
	}
	j := open(t, dir, begun)
	if r := j.Snapshot(); r.Epoch != 7 || r.Sequence != 9 {
		t.Fatalf("%+v", r)
	}
	defer agenttest.BreakJournal(t, dir)()
	if err := j.Hold(func(r *Record) error { return r.QueueHeartbeat(heartbeat()) }); err == nil {
		t.Error("numbered from nothing")
	}
	if err := j.Sent(3); err != nil || len(j.Snapshot().Queue) != 0 {
		t.Errorf("what numbers nothing: %v, %+v", err, j.Snapshot())
	}
}
