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

	"groundswell/agent/agenttest"
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

func TestTornWriteLeavesAGeneration(t *testing.T) {
	dir := t.TempDir()
	f := NewFile(filepath.Join(dir, "f"))
	for i := range 3 {
		if err := f.Save(fmt.Appendf(nil, "body %d", i)); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) {
		if err := os.WriteFile(filepath.Join(dir, "f"), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		body, older, err := NewFile(filepath.Join(dir, "f")).Load()
		if err != nil || !older || string(body) != "body 1" {
			t.Fatalf("cut at %d: %q, %v, %v", n, body, older, err)
		}
	}
	// A torn newest must never push out the whole old one.
	g := NewFile(filepath.Join(dir, "f"))
	if _, _, err := g.Load(); err != nil {
		t.Fatal(err)
	}
	if err := g.Save([]byte("body 3")); err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(dir, "f"))
	if body, older, err := NewFile(filepath.Join(dir, "f")).Load(); err != nil || !older || string(body) != "body 1" {
		t.Fatalf("got %q, %v, %v", body, older, err)
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

func FuzzDecode(f *testing.F) {
	f.Add(encode(1, []byte(`{"epoch":1}`)))
	f.Add([]byte(magic + " 1 2 3\nxx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decode(data)
		if err != nil {
			return
		}
		if !bytes.Equal(c.body, data[len(data)-len(c.body):]) {
			t.Fatal("another body")
		}
		var r Record
		_ = json.Unmarshal(c.body, &r) // must not panic
	})
}

// lose removes files of the journal, as a bad flash or a file system check does.
func lose(t testing.TB, dir string, files ...string) {
	t.Helper()
	for _, f := range files {
		if err := os.Remove(filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
}

var wokeIn1970 = time.Unix(3, 0)

func TestEpochDoesNotGoBackWithTheClock(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, begun)
	update1(t, j, func(r *Record) error { return r.QueueHeartbeat(heartbeat()) })
	lose(t, dir, "journal", "journal.old")
	r := open(t, dir, wokeIn1970).Snapshot()
	if r.Epoch != begun.Unix()+1 || r.Blind {
		t.Fatalf("after the loss: %+v", r)
	}
	// And it lasts: the next loss comes after this epoch.
	lose(t, dir, "journal")
	if r := open(t, dir, wokeIn1970).Snapshot(); r.Epoch != begun.Unix()+2 {
		t.Fatalf("after the next: %+v", r)
	}
	// A device of before there was a copy gets one.
	lose(t, dir, "epoch", "epoch.old")
	open(t, dir, wokeIn1970)
	lose(t, dir, "journal")
	if r := open(t, dir, wokeIn1970).Snapshot(); r.Epoch != begun.Unix()+3 {
		t.Fatalf("after an update of the agent: %+v", r)
	}
}

func TestEpochBegunBlindGivesWayToTheTimeThatWasVerified(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, begun)
	witness := func(at time.Time, agrees bool, epoch int64, blind bool) {
		t.Helper()
		if err := j.Witness(at, agrees); err != nil {
			t.Fatal(err)
		}
		j = open(t, dir, wokeIn1970)
		if r := j.Snapshot(); r.Epoch != epoch || r.Blind != blind {
			t.Fatalf("epoch %d, blind %v; want %d, %v", r.Epoch, r.Blind, epoch, blind)
		}
	}
	witness(begun.Add(time.Second), true, begun.Unix(), false) // the clock was right all along
	witness(begun.AddDate(1, 0, 0), true, begun.Unix(), false)

	lose(t, dir, "journal", "journal.old", "epoch")
	j = open(t, dir, wokeIn1970)
	update1(t, j, func(r *Record) error { return r.QueueHeartbeat(heartbeat()) })
	issued := begun.AddDate(0, 1, 0)
	witness(issued, false, issued.Unix(), true)
	if r := j.Snapshot(); r.Sequence != restarted(0) {
		t.Errorf("sequence %d in a new epoch", r.Sequence)
	}
	witness(begun, false, issued.Unix(), true)
	// The clock agrees now, and the last epoch is in the copy at once.
	if err := j.Witness(issued.Add(time.Hour), true); err != nil || j.Snapshot().Blind {
		t.Fatalf("%+v, %v", j.Snapshot(), err)
	}
	lose(t, dir, "journal", "journal.old")
	if r := open(t, dir, wokeIn1970).Snapshot(); r.Epoch != issued.Add(time.Hour).Unix()+1 {
		t.Errorf("after a loss: %+v", r)
	}
}

// The copy of the epoch could not be written when the epoch began, and now the
// journal falls back on its older generation: what was lost is unknown again.
func TestEpochIsBlindWhereTheCopyIsBehindToo(t *testing.T) {
	for _, c := range []struct {
		name  string
		copy  string
		epoch int64
		blind bool
	}{{"behind", "5", 8, true}, {"none", "", 8, true}, {"level", "7", 8, false}, {"ahead", "9", 10, false}} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			f := NewFile(filepath.Join(dir, name))
			for range 2 {
				if err := f.Save([]byte(`{"epoch":7,"sequence":1,"next_id":1}`)); err != nil {
					t.Fatal(err)
				}
			}
			flip(t, filepath.Join(dir, name))
			if c.copy != "" {
				if err := NewFile(filepath.Join(dir, epochName)).Save([]byte(c.copy)); err != nil {
					t.Fatal(err)
				}
			}
			r := open(t, dir, wokeIn1970).Snapshot()
			if r.Blind != c.blind || r.Epoch != c.epoch {
				t.Errorf("%+v, want epoch %d, blind %v", r, c.epoch, c.blind)
			}
		})
	}
}

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
