package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"groundswell/internal/devstack/simulated"
	"groundswell/internal/devstack/stack"
)

const (
	cohort  = "bench"
	model   = "cam-a"
	before  = "1.0.0"
	release = "camera"
	version = "1.1.0"
)

// fleet is a running platform with a release, a running rollout of one wave
// over all devices, and the devices, which are not yet connected.
type fleet struct {
	stack   *stack.Stack
	devices []*simulated.Device
	rollout *stack.Rollout
}

func prepare(ctx context.Context, devices int, log *slog.Logger) (f *fleet, err error) {
	s, err := stack.Start(ctx, stack.Options{WithoutInflux: true, PostgresFsync: true, Log: log})
	if err != nil {
		return nil, err
	}
	f = &fleet{stack: s}
	defer func() {
		if err != nil {
			_ = s.Stop() // the first error is the one to tell
		}
	}()
	log.Info("making devices", "devices", devices)
	if err := f.makeDevices(ctx, devices); err != nil {
		return nil, err
	}
	artifact := filepath.Join(s.Dir, "firmware.bin")
	if err := os.WriteFile(artifact, []byte("not run by anybody here"), 0o644); err != nil {
		return nil, err
	}
	if err := s.Publish(ctx, release, version, artifact, []string{model}); err != nil {
		return nil, err
	}
	f.rollout, err = s.CreateRollout(ctx, map[string]any{
		"release": map[string]string{"name": release, "version": version}, "cohorts": []string{cohort},
		// Nothing that the devices say here may stop the rollout.
		"policy": map[string]any{"waves": []map[string]any{{"percent": 100, "spread": "1h", "soak": "1h"}}, "breaker": map[string]any{"percent": 100}},
	})
	if err != nil {
		return nil, err
	}
	return f, f.settle(ctx)
}

func (f *fleet) makeDevices(ctx context.Context, n int) error {
	devices, err := simulated.NewFleet(f.stack)
	if err != nil {
		return err
	}
	for i := range n {
		device, err := devices.Device(fmt.Sprintf("bench-%05d", i), model, true)
		if err != nil {
			return err
		}
		f.devices = append(f.devices, device)
	}
	if err := devices.Register(ctx, cohort, f.devices); err != nil {
		return err
	}
	return f.settle(ctx)
}

// settle waits until fleetd has published all that it has to say.
func (f *fleet) settle(ctx context.Context) error {
	for {
		waiting, err := f.count(ctx, "outbox")
		if err != nil || waiting == 0 {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d messages are not published: %w", waiting, ctx.Err())
		}
	}
}

func (f *fleet) count(ctx context.Context, table string) (int, error) {
	out, err := f.stack.Postgres.Query(ctx, "groundswell", "SELECT count(*) FROM "+table)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// connectAll checks every device in and leaves it connected.
func (f *fleet) connectAll(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(50)
	for _, d := range f.devices {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if _, err := d.CheckIn(ctx); err != nil {
				return fmt.Errorf("connect %s: %w", d.ID, err)
			}
			return d.Beat(ctx, before)
		})
	}
	return g.Wait()
}
