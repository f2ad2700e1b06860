package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/topics"
)

// Killed at any state, a device that starts again goes on or falls back, tells
// the end once, and runs something that was verified.
func TestKilledAtEveryState(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	good := agenttest.Firmware(t, "1.1.0", "healthy")
	sick := agenttest.Firmware(t, "1.2.0", "sick")
	crash := agenttest.Firmware(t, "1.3.0", "crash")
	wrong := agenttest.Firmware(t, "1.4.0", "healthy")
	goodImage := f.publishRelease("1.1.0", good.Bytes)
	sickImage := f.publishRelease("1.2.0", sick.Bytes)
	crashImage := f.publishRelease("1.3.0", crash.Bytes)
	wrongImage := f.publishRelease("1.4.0", wrong.Bytes)
	f.mu.Lock()
	f.files["/artifacts/"+wrongImage.SHA256] = append([]byte{1}, wrong.Bytes[1:]...)
	f.mu.Unlock()

	cases := []struct {
		name    string
		entry   topics.Entry
		points  []string
		outcome topics.State
		version string
		digest  string
	}{
		{"good", entry(goodImage), []string{"downloading", "verified", "staged", "trying", "armed", "committed", "confirmed", "closed"},
			topics.StateCommitted, "1.1.0", good.SHA256},
		{"sick", entry(sickImage, func(e *topics.Entry) { e.HealthTimeoutSeconds = 1 }), []string{"staged", "trying", "armed", "rolled_back", "fallen-back", "closed"},
			topics.StateRolledBack, "1.0.0", ""},
		{"crashing", entry(crashImage, func(e *topics.Entry) { e.HealthTimeoutSeconds = 5 }), []string{"armed", "rolled_back", "fallen-back"},
			topics.StateRolledBack, "1.0.0", ""},
		{"wrong bytes", entry(wrongImage), []string{"downloading", "failed", "closed"},
			topics.StateFailed, "1.0.0", ""},
	}
	for _, c := range cases {
		cohort := strings.ReplaceAll(c.name, " ", "-")
		f.manifest(cohort, c.entry)
		for _, point := range c.points {
			t.Run(c.name+" killed at "+point, func(t *testing.T) {
				t.Parallel()
				d := f.newDevice(t, cohort+"-"+strings.ReplaceAll(point, "_", "-"), "")
				f.assign(d.id, []string{cohort})
				d.start(point)
				d.awaitKill()
				d.start("")
				s := d.ends(c.entry.Rollout, c.outcome)
				if s.Attempt != 1 || s.Running != c.version {
					t.Errorf("report: %+v", s)
				}
				d.runs(c.version, c.digest)
			})
		}
	}
}

// A device that dies again and again in the middle of the trial never runs the
// new version more often than it has tries.
func TestKilledAtEachBootOfTheTrial(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	d := f.newDevice(t, "cam-1", "health: {interval: 20ms, timeout: 5s, settle: 1h, total: 2h}\n")
	d.replace("health: {interval: 20ms, timeout: 5s, settle: 200ms, total: 20s}\n", "")
	e := entry(image)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("armed")
	d.awaitKill()
	for range 2 {
		d.forgetLog()
		d.start("")
		d.eventually("the trial to be launched", func() error { return d.logged("component launched", `"trial":true`) })
		d.process.Kill()
	}
	d.start("")
	s := d.ends(e.Rollout, topics.StateRolledBack)
	if s.Reason != "boot-attempts" || s.Running != "1.0.0" {
		t.Errorf("report: %+v", s)
	}
	d.runs("1.0.0", "")
}

// The part that was downloaded before the power cut is not downloaded again.
func TestKilledWhileDownloading(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	good := agenttest.Firmware(t, "1.1.0", "healthy")
	image := f.publishRelease("1.1.0", good.Bytes)
	half := make(chan struct{})
	var ranges []string
	f.mu.Lock()
	f.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/artifacts/") {
			return false
		}
		f.mu.Lock()
		ranges = append(ranges, r.Header.Get("Range"))
		first := len(ranges) == 1
		f.mu.Unlock()
		if !first {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(good.Bytes)))
		_, _ = w.Write(good.Bytes[:len(good.Bytes)/2])
		w.(http.Flusher).Flush()
		close(half)
		<-r.Context().Done()
		return true
	}
	f.mu.Unlock()
	d := f.newDevice(t, "cam-1", "")
	e := entry(image)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	select {
	case <-half:
	case <-time.After(time.Minute):
		t.Fatalf("nobody downloads\n%s", d.process.LogTail(20))
	}
	d.eventually("half of it to be on disk", func() error { return d.staged(int64(len(good.Bytes) / 2)) })
	d.process.Kill()
	d.start("")
	d.ends(e.Rollout, topics.StateCommitted)
	f.mu.Lock()
	defer f.mu.Unlock()
	if want := fmt.Sprintf("bytes=%d-", len(good.Bytes)/2); len(ranges) != 2 || ranges[1] != want {
		t.Errorf("asked for %q, want %s at last", ranges, want)
	}
}
