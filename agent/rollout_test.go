package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/journal"
	"groundswell/topics"
)

func TestPausedRolloutIsNotActivated(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	good := agenttest.Firmware(t, "1.1.0", "healthy")
	image := f.publishRelease("1.1.0", good.Bytes)
	e := entry(image)
	paused := e
	paused.Revision, paused.State = 2, topics.EntryPaused
	hold := make(chan struct{})
	f.mu.Lock()
	f.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/artifacts/") {
			return false
		}
		select {
		case <-hold:
			return false
		case <-r.Context().Done():
			return true
		}
	}
	f.mu.Unlock()
	d := f.newDevice(t, "cam-1", "")
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.eventually("the download", func() error { return d.logged("deployment", `"state":"downloading"`) })
	f.manifest("lobby", paused)
	d.eventually("the word that it waits", func() error {
		all := f.statuses("cam-1")
		if len(all) == 0 || all[len(all)-1].State != topics.StateWaiting || all[len(all)-1].Reason != "paused" {
			return fmt.Errorf("%+v", all)
		}
		return nil
	})
	close(hold)
	resumed := e
	resumed.Revision = 3
	f.manifest("lobby", resumed)
	if s := d.ends(e.Rollout, topics.StateCommitted); s.Attempt != 1 {
		t.Errorf("being paused has cost an attempt: %+v", s)
	}
}

func TestCancelledWhileItWaitsForItsWindow(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	// A window that has just closed, in a zone that the device does not have by
	// itself.
	zone := must[*time.Location](t)(time.LoadLocation("Asia/Kathmandu"))
	local := time.Now().In(zone)
	e := entry(image, func(e *topics.Entry) {
		e.Windows = []topics.Window{{Start: local.Add(-3 * time.Hour).Format("15:04"), End: local.Add(-time.Hour).Format("15:04")}}
	})
	d := f.newDevice(t, "cam-1", "")
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"}, func(a *topics.Assignment) { a.TimeZone = "Asia/Kathmandu" })
	d.start("")
	d.eventually("the word that it waits", func() error {
		all := f.statuses("cam-1")
		if len(all) != 1 || all[0].State != topics.StateWaiting || all[0].Reason != "window" || all[0].Until == nil {
			return fmt.Errorf("%+v", all)
		}
		if in := time.Until(*all[0].Until); in < 20*time.Hour || in > 22*time.Hour {
			return fmt.Errorf("until %v", all[0].Until)
		}
		return nil
	})
	f.manifest("lobby")
	d.eventually("the empty manifest", func() error { return d.manifests(2) })
	d.runs("1.0.0", "")
}

// manifests is nil when at least n manifests were accepted.
func (d *device) manifests(n int) error {
	data := string(must[[]byte](d.t)(os.ReadFile(d.path("agent.log"))))
	if got := strings.Count(data, "manifest accepted"); got < n {
		return fmt.Errorf("%d accepted", got)
	}
	return nil
}

func TestGivesUpAfterItsAttemptsUntilToldToTryAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.2.0", agenttest.Firmware(t, "1.2.0", "crash").Bytes)
	d := f.newDevice(t, "cam-1", "")
	e := entry(image, func(e *topics.Entry) { e.Attempts = 2 })
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	attempts := func() (ended []int) {
		for _, s := range f.statuses("cam-1") {
			if s.State == topics.StateRolledBack {
				ended = append(ended, s.Attempt)
			}
		}
		return ended
	}
	d.eventually("two attempts", func() error {
		if got := fmt.Sprint(attempts()); got != "[1 2]" {
			return errors.New(got)
		}
		return nil
	})
	d.rests()
	if r := must[journal.Record](t)(journal.Read(d.data())); r.Failures[e.Rollout].Count != 2 {
		t.Fatalf("journal: %+v", r.Failures)
	}
	for source, text := range map[string]string{"system": "firmware 1.2.0", "agent": "component launched"} {
		d.eventually("what "+source+" said", func() error { // the broker has it, and passes it on
			logs := slices.DeleteFunc(f.logs("cam-1"), func(l topics.Log) bool { return l.Source != source })
			if len(logs) < 2 || !strings.Contains(logs[0].Text, text) || logs[0].Rollout != e.Rollout {
				return fmt.Errorf("%+v", logs)
			}
			return nil
		})
	}
	f.command("cam-1", topics.Command{ID: "again", Action: topics.CommandRetry, Rollout: e.Rollout})
	d.eventually("attempts after the command", func() error {
		if got := fmt.Sprint(attempts()); got != "[1 2 3 4]" {
			return errors.New(got)
		}
		return nil
	})
	d.eventually("the command's answer", d.last(func(h topics.Heartbeat) error {
		if h.Command != "again" {
			return fmt.Errorf("%+v", h)
		}
		return nil
	}))
}
