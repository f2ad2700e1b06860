package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"groundswell/agent/agenttest"
	"groundswell/topics"
)

// A version that starts and answers, and films only half as much, is put back.
func TestVersionThatIsWorseThanTheOneBeforeIsPutBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDeviceOf(t, "cam-1", "")
	gauge := d.path("frames")
	text := fmt.Sprintf("#!/bin/sh\nif [ -e %s/slots/trial.json ]; then echo 12; else echo 25; fi\n", d.data())
	if err := os.WriteFile(gauge, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	d.configure(initial(t) + fmt.Sprintf(`
health:
  interval: 20ms
  timeout: 5s
  settle: 200ms
  total: 5s
  checks: [{name: frames, metric: [%s], min_percent: 80}]
`, gauge))
	e := entry(image, func(e *topics.Entry) { e.Attempts = 1 })
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	end := d.ends(e.Rollout, topics.StateRolledBack)
	if end.Reason != "health-metric" || !strings.Contains(end.Detail, "frames: is 12, and was 25 before the update: at least 20 is allowed") {
		t.Errorf("%s: %s", end.Reason, end.Detail)
	}
	d.runs("1.0.0", "")
}

// The same bytes under another rollout wait; who knows better tells the device to retry.
func TestPutBackBytesWaitUntilToldToTryAgain(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.2.0", agenttest.Firmware(t, "1.2.0", "crash").Bytes)
	d := f.newDevice(t, "cam-1", "")
	first := entry(image, func(e *topics.Entry) { e.Attempts = 1 })
	f.manifest("lobby", first)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	d.ends(first.Rollout, topics.StateRolledBack)
	second := entry(image, func(e *topics.Entry) { e.Attempts, e.Rollout, e.Sequence = 1, "r-second", first.Sequence+1 })
	f.manifest("lobby", first, second)
	d.eventually("the word that it waits", func() error {
		for _, s := range f.statuses("cam-1") {
			if s.Rollout == second.Rollout {
				if s.State != topics.StateWaiting || s.Reason != "penalty" || s.Until == nil {
					t.Errorf("%+v", s)
				}
				return nil
			}
		}
		return fmt.Errorf("nothing of %s", second.Rollout)
	})
	f.command("cam-1", topics.Command{ID: "again", Action: topics.CommandRetry, Rollout: second.Rollout})
	d.ends(second.Rollout, topics.StateRolledBack)
}
