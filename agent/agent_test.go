package main

import (
	"testing"

	"groundswell/agent/agenttest"
	"groundswell/topics"
)

func TestGoodReleaseIsCommittedAndBadOneRolledBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "")
	good := agenttest.Firmware(t, "1.1.0", "healthy")
	image := f.publishRelease("1.1.0", good.Bytes)
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	e := entry(image)
	f.manifest("lobby", e)
	s := d.ends(e.Rollout, topics.StateCommitted)
	if s.Running != "1.1.0" || s.From != "1.0.0" || s.SlotDigest != good.SHA256 || s.BootID == s.PreviousBootID {
		t.Errorf("report: %+v", s)
	}
	d.runs("1.1.0", good.SHA256)

	bad := f.publishRelease("1.2.0", agenttest.Firmware(t, "1.2.0", "sick").Bytes)
	e2 := entry(bad, func(e *topics.Entry) { e.HealthTimeoutSeconds = 1 })
	f.manifest("lobby", e, e2)
	s = d.ends(e2.Rollout, topics.StateRolledBack)
	if s.Running != "1.1.0" || s.Reason != "health-http" {
		t.Errorf("report: %+v", s)
	}
	d.runs("1.1.0", good.SHA256)
}
