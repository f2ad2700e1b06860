package main

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/allowance"
	"groundswell/topics"
)

// TestTheDailyBudgetHoldsOverAKill: the device says that it waits, and until when; after a
// kill it fetches nothing more that day.
func TestTheDailyBudgetHoldsOverAKill(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	budget := image.Length / 2
	d := f.newDevice(t, "cam-1", fmt.Sprintf("download: {daily_budget: %d, rate: 100000000, windows: [{days: [], start: \"00:00\", end: \"00:00\"}]}\n", budget))
	e := entry(image)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	waits := func(n int) (list []topics.Status) {
		d.eventually("the report of the wait", func() error {
			list = nil
			for _, s := range f.statuses("cam-1") {
				if s.Reason == allowance.ReasonBudget && s.State == topics.StateDownloading {
					list = append(list, s)
				}
			}
			if len(list) < n {
				return errors.New("none")
			}
			return nil
		})
		return list
	}
	d.start("")
	s := waits(1)[0]
	if s.DownloadedBytes < budget/2 || s.DownloadedBytes > budget || s.Until == nil || time.Until(*s.Until) > 26*time.Hour {
		t.Errorf("%+v", s)
	}
	d.process.Kill()
	d.start("")
	if again := waits(2)[1]; again.DownloadedBytes != s.DownloadedBytes || again.Until == nil || !again.Until.Equal(*s.Until) {
		t.Errorf("after a kill: %+v, before %+v", again, s)
	}
	d.process.Kill()
	d.replace(fmt.Sprintf("daily_budget: %d", budget), fmt.Sprintf("daily_budget: %d", 4*budget))
	d.start("")
	d.ends(e.Rollout, topics.StateCommitted)
	d.runs("1.1.0", image.SHA256)
}

// TestDownloadsWaitForAnotherLink: a device says that its link is metered, and goes on when
// it is not.
func TestDownloadsWaitForAnotherLink(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "")
	wifi, command := d.path("wifi"), d.path("unmetered")
	if err := os.WriteFile(command, []byte("#!/bin/sh\n[ -e "+wifi+" ] && exit 0\necho it is LTE\nexit 21\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	d.replace("backoff: {min: 10ms, max: 200ms}", fmt.Sprintf("backoff: {min: 10ms, max: 200ms}\ndownload: {metered: {unmetered: [%s], again: 50ms}}", command))
	e := entry(image)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.eventually("the report of the wait", func() error {
		for _, s := range f.statuses("cam-1") {
			if s.State == topics.StateDownloading && s.Reason == allowance.ReasonMetered && s.Detail == "it is LTE" && s.Until != nil {
				return nil
			}
		}
		return errors.New("none")
	})
	f.mu.Lock()
	if n := f.requests["/artifacts/"+image.SHA256]; n != 0 {
		t.Errorf("%d requests for the artifact over LTE", n)
	}
	f.mu.Unlock()
	if err := os.WriteFile(wifi, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.ends(e.Rollout, topics.StateCommitted)
}

// TestDownloadsAndInstallsHaveWindowsOfTheirOwn: what is staged says until when it waits.
func TestDownloadsAndInstallsHaveWindowsOfTheirOwn(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "")
	at := func(in time.Duration) string { return time.Now().UTC().Add(in).Format("15:04") }
	e := entry(image, func(e *topics.Entry) {
		e.DownloadWindows = []topics.Window{{Start: at(-2 * time.Hour), End: at(2 * time.Hour)}}
		e.Windows = []topics.Window{{Start: at(6 * time.Hour), End: at(7 * time.Hour)}}
	})
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.eventually("the report of what is staged", func() error {
		for _, s := range f.statuses("cam-1") {
			if s.State == topics.StateStaged && s.Reason == "window" && s.Until != nil && time.Until(*s.Until) > 5*time.Hour {
				return nil
			}
		}
		return errors.New("none")
	})
	e.Revision, e.Windows = e.Revision+1, []topics.Window{}
	f.manifest("lobby", e)
	d.ends(e.Rollout, topics.StateCommitted)
}
