package deploy

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/allowance"
	"groundswell/agent/clock"
	"groundswell/agent/condition"
	"groundswell/agent/journal"
	"groundswell/agent/update"
	"groundswell/topics"
)

// TestADeviceThatWaitsSaysWhyAndUntilWhen: once, and asks no more often than it should.
func TestADeviceThatWaitsSaysWhyAndUntilWhen(t *testing.T) {
	dir := t.TempDir()
	asked := filepath.Join(dir, "asked")
	consent := filepath.Join(dir, "consent")
	script := "#!/bin/sh\necho x >>" + asked + "\n[ -e " + consent + ".given ] || { echo the owner is asked; exit 21; }\n"
	if err := os.WriteFile(consent, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	d, _ := newDriver(t, onTrial(), update.Staged)
	d.cfg.Conditions = condition.Config{Facts: []condition.Fact{{Name: "consent", Command: []string{consent}, Again: time.Hour}}}
	times := func() int {
		data, err := os.ReadFile(asked)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(data), "x")
	}
	for range 3 {
		hold, err := d.allowed(t.Context(), condition.Install)
		if err != nil || hold == nil || hold.Reason != "fact-consent" || hold.Again > time.Hour || hold.Again < time.Minute {
			t.Fatalf("%+v, %v", hold, err)
		}
	}
	if hold, err := d.allowed(t.Context(), condition.Download); hold != nil || err != nil {
		t.Errorf("before a download: %+v, %v", hold, err)
	}
	queue := d.journal.Snapshot().Queue
	if len(queue) != 1 || times() != 1 {
		t.Fatalf("%d reports, asked %d times", len(queue), times())
	}
	var s topics.Status
	if err := json.Unmarshal(queue[0].Payload, &s); err != nil {
		t.Fatal(err)
	}
	if s.State != topics.StateStaged || s.Reason != "fact-consent" || s.Detail != "the owner is asked" || s.Until == nil || s.Until.Before(s.At.Add(50*time.Minute)) {
		t.Errorf("reported %+v", s)
	}
	if err := os.WriteFile(consent+".given", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.held.until = time.Now() // an hour later
	if hold, err := d.allowed(t.Context(), condition.Install); hold != nil || err != nil {
		t.Errorf("with consent: %+v, %v", hold, err)
	}
}

// TestTheLockIsHeldUntilTheJumpIsMade: and given back when it has failed.
func TestTheLockIsHeldUntilTheJumpIsMade(t *testing.T) {
	d, _ := newDriver(t, onTrial(), update.Trying)
	d.cfg.Conditions.Lock = filepath.Join(t.TempDir(), "busy")
	release, hold := d.cfg.Conditions.Seize()
	if hold != nil {
		t.Fatalf("%+v", hold)
	}
	d.release = release
	held := func() bool { return d.cfg.Conditions.Look(t.Context(), condition.Install) != nil }
	if !held() {
		t.Error("an application could begin with something")
	}
	if _, err := d.arm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if held() {
		t.Error("still held after the jump")
	}
}

// TestTheLockIsGivenBackWhenTheJumpCannotBeJournalled: the device would hold it up to
// itself, and to all applications, until the disk is emptied and for ever after.
func TestTheLockIsGivenBackWhenTheJumpCannotBeJournalled(t *testing.T) {
	d, dir := newDriver(t, onTrial(), update.Staged)
	d.cfg.Conditions.Lock = filepath.Join(t.TempDir(), "busy")
	defer agenttest.BreakJournal(t, dir)()
	for range 2 {
		release, hold := d.device.seize(&d.cfg.Conditions)
		if hold != nil {
			t.Fatalf("the driver waits: %+v", hold)
		}
		d.release = release
		if effects, err := d.step(t.Context(), update.Jump); err != nil || !slices.Equal(effects, []update.Effect{update.Await}) {
			t.Fatalf("%v, %v", effects, err)
		}
	}
}

// TestADownloadThatHasToWaitSaysSo: why, and until when; again after it has
// gone on.
func TestADownloadThatHasToWaitSaysSo(t *testing.T) {
	d, _ := newDriver(t, onTrial(), update.Downloading)
	d.dep.Entry.Target.Length = 1000
	clk := now // noon, or any other time
	d.clock = clock.New(clk, func() time.Time { return clk })
	d.cfg.Allowance = allowance.New(allowance.Config{DailyBudget: 1 << 20}, "cam-1", d.clock, slog.New(slog.DiscardHandler))
	d.cfg.Allowance.Remember(d.journal, func() *time.Location { return time.UTC })
	if hold, err := d.allowed(t.Context(), condition.Download); hold != nil || err != nil {
		t.Fatalf("%+v, %v", hold, err)
	}
	for day := range 2 {
		spend(t, d.cfg.Allowance, 2<<20)
		var until time.Time
		for range 3 {
			d.held.until = time.Time{} // a minute later
			hold, err := d.allowed(t.Context(), condition.Download)
			if err != nil || hold == nil || hold.Reason != allowance.ReasonBudget || hold.Until.IsZero() {
				t.Fatalf("%+v, %v", hold, err)
			}
			until = hold.Until
		}
		queue := d.journal.Snapshot().Queue
		if len(queue) != day+1 {
			t.Fatalf("%d reports on day %d", len(queue), day+1)
		}
		var s topics.Status
		if err := json.Unmarshal(queue[day].Payload, &s); err != nil {
			t.Fatal(err)
		}
		if s.State != topics.StateDownloading || s.Reason != allowance.ReasonBudget || s.Bytes != 1000 || s.Until == nil || !s.Until.Equal(until.Truncate(time.Second)) {
			t.Errorf("reported %+v, want until %v", s, until)
		}
		clk = until.Add(48 * time.Hour)
		d.held.until = time.Time{}
		if hold, err := d.allowed(t.Context(), condition.Download); hold != nil || err != nil {
			t.Fatalf("the next day: %+v, %v", hold, err)
		}
		if hold, err := d.allowed(t.Context(), condition.Install); hold != nil || err != nil {
			t.Fatalf("before installing: %+v, %v", hold, err)
		}
	}
}

// spend has bytes come over a connection.
func spend(t *testing.T, a *allowance.Allowance, n int) {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		_, _ = theirs.Write(make([]byte, n))
		_ = theirs.Close()
	}()
	if got, err := io.Copy(io.Discard, a.Count(ours)); err != nil || got != int64(n) {
		t.Fatalf("%d bytes: %v", got, err)
	}
}

// TestWhoWaitsForLongSaysSoAgain: or fleetd would take it for silent, which is a
// failure.
func TestWhoWaitsOrDownloadsForLongSaysSoAgain(t *testing.T) {
	d, _ := newDriver(t, onTrial(), update.Downloading)
	clk := now
	d.clock = clock.New(clk, func() time.Time { return clk })
	d.dep.Entry.Target.Length, d.dep.Reason = 1000, ""
	last := func(n int) (s topics.Status) {
		t.Helper()
		queue := d.journal.Snapshot().Queue
		if len(queue) != n {
			t.Fatalf("%d reports, want %d", len(queue), n)
		}
		if err := json.Unmarshal(queue[n-1].Payload, &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	short := &condition.Hold{Reason: "metered", Again: time.Minute}
	long := &condition.Hold{Reason: "daily-budget", Again: time.Minute, Until: clk.Add(5 * time.Hour)}
	tell := func(h *condition.Hold) {
		t.Helper()
		if err := d.tell(t.Context(), condition.Download, h); err != nil {
			t.Fatal(err)
		}
	}
	tell(short)
	tell(short)
	last(1)
	clk = clk.Add(2 * time.Minute)
	tell(short)
	last(1) // it would be told every minute
	d.account.again -= retell
	tell(short)
	if s := last(2); s.Reason != "metered" || !s.Until.After(clk) {
		t.Errorf("%+v", s)
	}
	tell(long)
	last(3)
	d.account.again -= retell
	clk = clk.Add(time.Hour)
	tell(long) // as was said
	last(3)
	clk = clk.Add(5 * time.Hour)
	tell(long)
	last(4)
}

// TestWhatPeersBringIsToldToo: no more often than anything else, and once for the same.
func TestWhatPeersBringIsToldToo(t *testing.T) {
	d, _ := newDriver(t, onTrial(), update.Downloading)
	d.dep.Entry.Target.Length = 1000
	hold := &condition.Hold{Reason: allowance.ReasonBudget, Detail: "all is used", Again: time.Minute, Until: now.Add(5 * time.Hour)}
	var last journal.Report
	tell := func(told bool, detail string) {
		t.Helper()
		if err := d.tell(t.Context(), condition.Download, hold); err != nil {
			t.Fatal(err)
		}
		queue := d.journal.Snapshot().Queue
		report := queue[len(queue)-1]
		if s, err := topics.DecodeStatus(report.Payload); err != nil || s.Detail != detail || report.ID != last.ID != told {
			t.Errorf("report %v after %v: %q, %v; want %q", report.ID, last.ID, s.Detail, err, detail)
		}
		last = report
	}
	tell(true, "all is used")
	d.transfer.Peer = 300
	tell(false, "all is used")
	d.account.again -= retell
	tell(true, "all is used; 0 of 1000 bytes are there, peers have sent 300")
	d.account.again -= retell
	tell(false, "all is used; 0 of 1000 bytes are there, peers have sent 300")
	d.dep.Transfer.Peer = 100 // of the attempt before a restart of the download
	tell(true, "all is used; 0 of 1000 bytes are there, peers have sent 400")
}
