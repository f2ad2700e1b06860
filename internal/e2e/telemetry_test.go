package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
	"groundswell/topics"
)

// TestInfluxOutageDelaysPointsAndNothingElse: with InfluxDB killed, reports
// reach PostgreSQL as ever; when it is back, every point follows.
func TestInfluxOutageDelaysPointsAndNothingElse(t *testing.T) {
	p := start(t, 2, stack.Options{})
	r := p.rollout()
	var acked [2][]int64
	report := func(n int) {
		t.Helper()
		for i, d := range p.devices {
			for range n {
				sequence, err := d.Report(t.Context(), status(r, topics.StateDownloading))
				if err != nil {
					t.Fatal(err)
				}
				acked[i] = append(acked[i], sequence)
			}
		}
	}
	for _, d := range p.devices {
		p.connect(d)
	}
	report(10)
	p.Influx.Kill()
	report(100)
	for i, d := range p.devices {
		p.mustHold(d.ID, acked[i]) // while InfluxDB is down
	}
	if err := p.Influx.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := len(acked[0]) + len(acked[1])
	devtest.Eventually(t, 2*time.Minute, "every point", func() error {
		out, err := p.Influx.InfluxQL(t.Context(), "groundswell", `SELECT count("device") FROM "status"`)
		if err != nil {
			return err
		}
		if !strings.Contains(out, fmt.Sprintf(",%d]", want)) {
			return fmt.Errorf("want %d points: %s", want, strings.TrimSpace(out))
		}
		return nil
	})
}
