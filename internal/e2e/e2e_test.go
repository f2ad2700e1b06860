package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/simulated"
	"groundswell/internal/devstack/stack"
	"groundswell/topics"
)

const (
	cohort  = "west"
	model   = "cam-a"
	before  = "1.0.0"
	release = "camera"
	version = "1.1.0"
)

// platform is a running stack with a few simulated devices in one cohort.
type platform struct {
	*stack.Stack
	t       *testing.T
	fleet   *simulated.Fleet
	devices []*simulated.Device
	// brokerWentBack: the broker was restored from older data.
	brokerWentBack bool
}

func start(t *testing.T, devices int, options stack.Options) *platform {
	t.Helper()
	s, err := stack.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	p := &platform{Stack: s, t: t}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the broker's log:\n%s\nend of fleetd's log:\n%s", p.Broker.LogTail(40), p.Fleetd.LogTail(40))
		}
		_ = s.Stop() // tests kill parts of it
	})
	if p.fleet, err = simulated.NewFleet(s); err != nil {
		t.Fatal(err)
	}
	for i := range devices {
		d, err := p.fleet.Device(fmt.Sprintf("dev-%03d", i), model, false)
		if err != nil {
			t.Fatal(err)
		}
		p.devices = append(p.devices, d)
	}
	if err := p.fleet.Register(t.Context(), cohort, p.devices); err != nil {
		t.Fatal(err)
	}
	return p
}

// publish catalogues a release that no simulated device ever runs.
func (p *platform) publish(version string) {
	p.t.Helper()
	artifact := filepath.Join(p.Dir, "firmware-"+version)
	if err := os.WriteFile(artifact, []byte("firmware "+version), 0o644); err != nil {
		p.t.Fatal(err)
	}
	if err := p.Publish(p.t.Context(), release, version, artifact, []string{model}); err != nil {
		p.t.Fatal(err)
	}
}

// rollout starts a rollout to everybody that nothing the devices say can stop.
func (p *platform) rollout() *stack.Rollout {
	p.t.Helper()
	p.publish(version)
	r, err := p.CreateRollout(p.t.Context(), map[string]any{
		"release": map[string]string{"name": release, "version": version}, "cohorts": []string{cohort},
		"policy": map[string]any{"waves": []map[string]any{{"percent": 100, "spread": "1h", "soak": "1h"}}, "breaker": map[string]any{"percent": 100}},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// connect checks a device in, however long the platform takes to be there.
func (p *platform) connect(d *simulated.Device) {
	p.t.Helper()
	devtest.Eventually(p.t, time.Minute, d.ID+" to check in", func() error {
		ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
		defer cancel()
		_, err := d.CheckIn(ctx)
		return err
	})
}

// status is a device's step in a rollout.
func status(r *stack.Rollout, state topics.State) topics.Status {
	return topics.Status{Rollout: r.ID, Revision: r.Revision, Cohort: cohort, Release: release, State: state, From: before, Target: version}
}

// stored returns the sequence numbers of a device's reports in PostgreSQL.
func (p *platform) stored(device string) ([]int64, error) {
	out, err := p.Postgres.Query(p.t.Context(), "groundswell", "SELECT sequence FROM report WHERE device = '"+device+"' ORDER BY sequence")
	if err != nil {
		return nil, err
	}
	var all []int64
	for _, line := range strings.Fields(out) {
		n, err := strconv.ParseInt(line, 10, 64)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// mustHold waits until PostgreSQL holds each of the acknowledged reports.
func (p *platform) mustHold(device string, acked []int64) {
	p.t.Helper()
	devtest.Eventually(p.t, time.Minute, "the acknowledged reports of "+device, func() error {
		have, err := p.stored(device)
		if err != nil {
			return err
		}
		var lost []int64
		for _, n := range acked {
			if !slices.Contains(have, n) {
				lost = append(lost, n)
			}
		}
		if len(lost) > 0 {
			return fmt.Errorf("%d of %d are not stored: %v", len(lost), len(acked), lost[:min(len(lost), 10)])
		}
		return nil
	})
}
