package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/agent/update"
	"groundswell/topics"
)

var (
	begun = time.Date(2027, 3, 3, 12, 0, 0, 0, time.UTC)
	quiet = slog.New(slog.DiscardHandler)
)

func open(t testing.TB, dir string, now time.Time) *Journal {
	t.Helper()
	j, err := Open(dir, now, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func status(state topics.State) topics.Status {
	s := topics.Status{
		Rollout: "r-1", Revision: 1, Cohort: "all", Component: "system", Release: "camera", Attempt: 1, State: state,
		From: "1.0.0", Running: "1.0.0", Target: "1.1.0", BootID: "b2", PreviousBootID: "b1",
		Clock: topics.ClockTrusted, At: begun,
	}
	if state == topics.StateCommitted {
		s.Running = s.Target
	}
	return s
}

func heartbeat() topics.Heartbeat {
	return topics.Heartbeat{Versions: map[string]string{"system": "1.0.0"}, BootID: "b1", Mode: topics.ModeConnected,
		Agent: "0.1.0", Clock: topics.ClockTrusted, At: begun}
}

// restarted is where the numbering of an epoch stands after a restart, when the
// journal was at n.
func restarted(n int64) int64 { return n + reserve + 1 }

func update1(t testing.TB, j *Journal, change func(*Record) error) {
	t.Helper()
	if err := j.Update(change); err != nil {
		t.Fatal(err)
	}
}

func TestStepAndItsReportAreOneWrite(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, begun)
	update1(t, j, func(r *Record) error {
		r.SetDeployment("system", Deployment{State: update.Downloading, Attempt: 1})
		return r.QueueStatus(status(topics.StateDownloading))
	})
	err := j.Update(func(r *Record) error {
		r.SetDeployment("system", Deployment{State: update.Verified})
		return r.QueueStatus(topics.Status{}) // not valid
	})
	if !errors.Is(err, topics.ErrInvalid) {
		t.Fatalf("got %v", err)
	}
	again := open(t, dir, begun.Add(time.Hour)).Snapshot()
	if again.Epoch != begun.Unix() || again.Sequence != restarted(1) || again.Deployments["system"].State != update.Downloading || len(again.Queue) != 1 {
		t.Fatalf("after a restart: %+v", again)
	}
	if s, err := topics.DecodeStatus(again.Queue[0].Payload); err != nil || s.Epoch != begun.Unix() || s.Sequence != 1 {
		t.Fatalf("queued %+v, %v", s, err)
	}
}

func TestQueueGivesUpHeartbeatsAndLogsButNoResults(t *testing.T) {
	j := open(t, t.TempDir(), begun)
	update1(t, j, func(r *Record) error {
		for range 3 {
			if err := r.QueueHeartbeat(heartbeat()); err != nil {
				return err
			}
		}
		for range MaxLogs + 5 {
			if err := r.QueueLog(topics.Log{Source: "agent", Text: strings.Repeat("\x01", topics.MaxLog), At: begun}); err != nil {
				return err
			}
		}
		for range 10 {
			if err := r.QueueStatus(status(topics.StateCommitted)); err != nil {
				return err
			}
		}
		for n := range MaxStatuses {
			s := status(topics.StateDownloading)
			s.Attempt = n + 1
			if err := r.QueueStatus(s); err != nil {
				return err
			}
		}
		return nil
	})
	r := j.Snapshot()
	count := map[topics.Kind]int{}
	final := 0
	for _, q := range r.Queue {
		count[q.Kind]++
		if q.Final {
			final++
		}
		if len(q.Payload) > topics.MaxPayload(q.Kind) {
			t.Errorf("%s of %d bytes", q.Kind, len(q.Payload))
		}
	}
	if count[topics.KindHeartbeat] != 1 || count[topics.KindLog] != MaxLogs || count[topics.KindStatus] != MaxStatuses || final != 10 {
		t.Errorf("queue holds %v, %d results", count, final)
	}
	if r.Dropped != 15 {
		t.Errorf("dropped %d", r.Dropped)
	}
}

func TestReportStaysUntilItIsAcknowledged(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, begun)
	update1(t, j, func(r *Record) error { return r.QueueHeartbeat(heartbeat()) })
	update1(t, j, func(r *Record) error { return r.QueueStatus(status(topics.StateCommitted)) })
	first, _ := j.Next()
	if first.Kind != topics.KindStatus {
		t.Fatalf("a %s goes before a result", first.Kind)
	}
	j = open(t, dir, begun)
	again, ok := j.Next()
	if !ok || again.ID != first.ID || !bytes.Equal(again.Payload, first.Payload) {
		t.Fatalf("after a restart: %+v, want %+v", again, first)
	}
	if err := j.Sent(again.ID); err != nil {
		t.Fatal(err)
	}
	hb, _ := j.Next()
	update1(t, j, func(r *Record) error { return r.QueueHeartbeat(heartbeat()) })
	if err := j.Sent(hb.ID); err != nil { // acknowledged late: the newer one must stay
		t.Fatal(err)
	}
	if rest, ok := j.Next(); !ok || rest.Kind != topics.KindHeartbeat || rest.ID == hb.ID {
		t.Fatalf("left: %+v, %v", rest, ok)
	}
}

func TestNoNumberIsUsedTwiceAfterDamage(t *testing.T) {
	for _, damage := range []struct {
		name  string
		files []string
	}{{"newest", []string{"journal"}}, {"both", []string{"journal", "journal.old"}}} {
		t.Run(damage.name, func(t *testing.T) {
			dir := t.TempDir()
			j := open(t, dir, begun)
			for range 3 {
				update1(t, j, func(r *Record) error { return r.QueueStatus(status(topics.StateStaged)) })
			}
			for _, f := range damage.files {
				flip(t, filepath.Join(dir, f))
			}
			j = open(t, dir, begun.Add(time.Second))
			r := j.Snapshot()
			if r.Epoch <= begun.Unix() || r.Sequence != 0 {
				t.Fatalf("epoch %d sequence %d", r.Epoch, r.Sequence)
			}
			if damage.name == "newest" && len(r.Queue) != 2 {
				t.Fatalf("%d reports are left of the generation before", len(r.Queue))
			}
			update1(t, j, func(r *Record) error { return r.QueueStatus(status(topics.StateStaged)) })
			if again := open(t, dir, begun.Add(time.Hour)).Snapshot(); again.Epoch != r.Epoch || again.Sequence != restarted(1) {
				t.Fatalf("the epoch does not last: %+v", again)
			}
		})
	}
}

func flip(t testing.TB, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 4
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFailedWriteChangesNothing(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, begun)
	update1(t, j, func(r *Record) error { r.Command = "c-1"; return nil })
	// Nothing can be written where a directory stands in the way.
	if err := os.Mkdir(filepath.Join(dir, "journal.new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "journal.new", "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := j.Update(func(r *Record) error { r.Command = "c-2"; return nil }); err == nil {
		t.Fatal("no error")
	}
	if j.Snapshot().Command != "c-1" || open(t, dir, begun).Snapshot().Command != "c-1" {
		t.Fatal("the record moved")
	}
}

// The newer agent was rolled back, and the older one is to say so.
func TestRecordOfANewerAgentIsRead(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, begun)
	update1(t, j, func(r *Record) error {
		r.SetDeployment("agent", Deployment{State: update.Trying, Slot: "b", Attempt: 2, Entry: topics.Entry{Rollout: "r-1", Version: "2.0.0"}})
		r.Fail("r-0", begun, begun)
		return r.QueueStatus(status(topics.StateTrying))
	})
	before := j.Snapshot()
	var newer map[string]any
	if err := json.Unmarshal(j.raw, &newer); err != nil {
		t.Fatal(err)
	}
	newer["schema"] = Schema + 98
	newer["grudges"] = map[string]any{"r-0": []int{1, 2}}
	newer["deployments"].(map[string]any)["agent"].(map[string]any)["mood"] = "good"
	newer["deployments"].(map[string]any)["modem"] = map[string]any{"state": "singing", "entry": map[string]any{"stanza": 3}}
	newer["failures"].(map[string]any)["r-0"].(map[string]any)["why"] = []string{"rain"}
	queue := newer["queue"].([]any)
	queue[0].(map[string]any)["colour"] = "red"
	newer["queue"] = append([]any{map[string]any{"id": 90, "kind": "poem", "payload": map[string]any{"lines": 4}}}, queue...)
	newer["next_id"] = 91
	raw, err := json.Marshal(newer)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.file.Save(raw); err != nil {
		t.Fatal(err)
	}

	j = open(t, dir, begun)
	r := j.Snapshot()
	if r.Epoch != before.Epoch || r.Deployments["agent"].State != update.Trying || r.Deployments["agent"].Entry.Version != "2.0.0" || r.Failures["r-0"].Count != 1 {
		t.Fatalf("read %+v", r)
	}
	q, ok := j.Next()
	if s, err := topics.DecodeStatus(q.Payload); !ok || q.ID != before.Queue[0].ID || err != nil || s.State != topics.StateTrying {
		t.Fatalf("next to send is %+v, %v", s, err)
	}
	update1(t, j, func(r *Record) error {
		r.SetDeployment("agent", Deployment{State: update.RolledBack})
		return r.QueueStatus(status(topics.StateRolledBack))
	})
	if err := j.Sent(q.ID); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir, begun).Snapshot()
	q, _ = j.Next()
	if r.Schema != Schema || r.Deployments["agent"].State != update.RolledBack || r.Sequence <= before.Sequence || q.ID <= 91 || !q.Final {
		t.Fatalf("written %+v, next to send is %+v", r, q)
	}
}

func TestFailuresAreBounded(t *testing.T) {
	var r Record
	for i := range 2 * maxRollouts {
		r.Fail(fmt.Sprint("r-", i), begun.Add(time.Duration(i)*time.Second), begun)
	}
	r.Fail(fmt.Sprint("r-", 2*maxRollouts-1), begun.Add(time.Hour), begun)
	if len(r.Failures) != maxRollouts || r.Failures[fmt.Sprint("r-", 2*maxRollouts-1)].Count != 2 {
		t.Fatalf("%d remembered, %+v", len(r.Failures), r.Failures)
	}
}

// TestAttemptsDoNotShareANumber: neither after a success, nor after a command to retry, nor
// after an older agent that counted failures only.
func TestAttemptsDoNotShareANumber(t *testing.T) {
	r := Record{Failures: map[string]Failure{"r-1": {Count: 1}}}
	var numbers []int
	end := func(failed bool) {
		n := r.Attempt("r-1")
		numbers = append(numbers, n)
		if r.End("r-1", n, begun); failed {
			r.Fail("r-1", begun, begun)
		} else {
			delete(r.Failures, "r-1")
		}
	}
	end(true)
	end(false)
	end(false)
	r.End("r-1", 1, begun) // begun by an older one
	end(true)
	if fmt.Sprint(numbers) != "[2 3 4 5]" {
		t.Errorf("numbered %v", numbers)
	}
	for i := range 2 * maxRollouts {
		r.End(fmt.Sprint("other-", i), 1, begun.Add(time.Duration(i+1)*time.Second))
	}
	if len(r.Ended) != maxRollouts || r.Attempt("r-1") != 2 {
		t.Errorf("%d are remembered, the next is %d", len(r.Ended), r.Attempt("r-1"))
	}
}
