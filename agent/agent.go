package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"groundswell/agent/clock"
	"groundswell/agent/deploy"
	"groundswell/agent/fetch"
	"groundswell/agent/health"
	"groundswell/agent/journal"
	"groundswell/agent/link"
	"groundswell/agent/slot"
	"groundswell/agent/telemetry"
	"groundswell/agent/verify"
	"groundswell/agent/wake"
	"groundswell/agent/watchdog"
	"groundswell/certs"
	"groundswell/internal/ops"
	"groundswell/topics"

	"golang.org/x/sync/errgroup"
)

// faults is called at named points of a deployment. Tests kill the process
// there.
var faults func(point string)

// machineClock is the machine's clock. Tests put it wrong.
var machineClock = time.Now

// errNotConnected is why the agent is not ready.
var errNotConnected = errors.New("no connection now")

// run is the agent: it keeps the component running, whatever else is wrong, and
// manages it.
func run(ctx context.Context, cfg Config, log *slog.Logger) error {
	tail := telemetry.NewTail(32 << 10)
	log = slog.New(slog.NewMultiHandler(log.Handler(), slog.NewJSONHandler(tail, nil)))

	unlock, err := lock(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	firmware, err := openComponent(ctx, cfg, log)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return firmware.Run(ctx) })
	var alive vitals
	alive.add(func() { firmware.Running() })
	g.Go(func() error {
		watchdog.Run(ctx, cfg.Watchdog, alive.ask, log)
		return nil
	})
	g.Go(func() error {
		// A certificate that the flash has lost, or a port that is taken, is no
		// reason for a camera to be dark.
		for n := 1; ; n++ {
			began := time.Now()
			err := manage(ctx, cfg, firmware, &alive, tail, nil, log)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			// Whoever sets a device up is told at once; in service it has work to do.
			if errors.Is(err, errIdentity) && !inService(cfg) {
				return err
			}
			if time.Since(began) > cfg.Retry.Max {
				n = 1
			}
			log.Error("device is not managed, trying again; its component runs on", "err", err)
			if pause(ctx, cfg.Retry, n) != nil {
				return nil
			}
		}
	})
	return g.Wait()
}

// component is what the agent keeps up to date.
type component interface {
	deploy.Slots
	Run(ctx context.Context) error
}

// openComponent opens a process, the whole system, or what a module updates.
func openComponent(ctx context.Context, cfg Config, log *slog.Logger) (component, error) {
	if cfg.Machine.Bootloader != "" {
		m, err := openMachine(ctx, cfg, log)
		if err != nil {
			return nil, err
		}
		// What runs, runs; that it is to run the next time as well can be written later.
		if err := m.Adopt(ctx); err != nil {
			log.Error("bootloader", "err", err)
		}
		return m, nil
	}
	if cfg.Module.Steps != "" {
		return openModule(cfg, log)
	}
	dir, err := slots(cfg)
	if err != nil {
		return nil, err
	}
	return slot.New(dir, slot.Config{
		Args: cfg.Firmware.Args, Env: cfg.Firmware.Env, Addr: cfg.Firmware.Addr, Tries: cfg.Firmware.Tries,
		Grace: cfg.Firmware.Grace, BackoffMin: cfg.Firmware.Backoff.Min, BackoffMax: cfg.Firmware.Backoff.Max, Log: log,
	}), nil
}

// inService reports whether the device was managed before.
func inService(cfg Config) bool {
	_, err := journal.Read(cfg.DataDir)
	return !errors.Is(err, os.ErrNotExist)
}

// pause waits before attempt n+1: full jitter.
func pause(ctx context.Context, b Backoff, n int) error {
	limit := b.Min << min(n-1, 30)
	if limit <= 0 || limit > b.Max {
		limit = b.Max
	}
	timer := time.NewTimer(rand.N(limit + 1))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// manage connects the device and drives its component, until ctx or the turn ends or
// something is wrong that may not be later.
func manage(ctx context.Context, cfg Config, firmware component, alive *vitals, tail *telemetry.Tail, t *turn, log *slog.Logger) error {
	clk := clock.NewFrom(clock.Built(), machineClock, nil)
	credential, id, authority, err := identity(cfg)
	if err != nil {
		return err
	}
	log = log.With("device", id.Name)
	current := newRenewed(cfg, id, credential, log)
	brokerTLS, err := current.client(authority, clk.Now, certs.ServiceBroker)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	sourceTLS, err := current.client(authority, clk.Now, certs.ServiceFleetd)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	var session *link.Link // sources may be assigned
	var driver *deploy.Driver
	awake := wake.New(cfg.Polling.limits())
	fetcher := fetch.New(fetch.Config{
		Sources: func() []string {
			if assigned := session.Sources(); len(assigned) > 0 {
				return assigned
			}
			return cfg.Sources
		},
		TLS: sourceTLS, BackoffMin: cfg.Backoff.Min, BackoffMax: cfg.Backoff.Max, Wake: awake, Log: log,
	})
	defer fetcher.Close()
	roots, err := readRoots(cfg)
	if err != nil {
		return err
	}
	verifier, err := verify.Open(cfg.DataDir, id.TrustDomain, id.Name, roots, clk, clock.Built(), fetcher, log)
	if err != nil {
		return err
	}
	// After the verifier, which has told the clock what time it is at least: a new
	// epoch is numbered by it.
	records, err := journal.Open(cfg.DataDir, clk.Floor(), log)
	if err != nil {
		return err
	}
	registry := ops.NewRegistry()
	session = link.New(link.Config{
		Device: id.Name, Servers: cfg.MQTT.Servers, TLS: brokerTLS, KeepAlive: cfg.MQTT.KeepAlive,
		SessionExpiry: cfg.MQTT.SessionExpiry, CheckInTimeout: cfg.MQTT.CheckInTimeout,
		BackoffMin: cfg.Backoff.Min, BackoffMax: cfg.Backoff.Max,
		Mode: cfg.Mode, Interval: cfg.Polling.Interval, Jitter: cfg.Polling.Jitter,
		Heartbeat: cfg.Heartbeat, TimeZone: cfg.TimeZone, Saving: cfg.Polling.saving(), Wake: awake, Dir: cfg.DataDir,
		Once: t != nil,
		Decided: func(ctx context.Context) {
			t.begin()
			driver.Look(ctx)
		},
	}, verifier, records, clk, telemetry.Machine{Root: machineRoot, Disk: cfg.DataDir}, func(logs bool) link.Facts {
		f := link.Facts{Versions: deploy.Versions(cfg.Component, firmware), BootID: deploy.BootID(firmware)}
		if logs {
			f.Logs = map[string]string{"agent": tail.String(), cfg.Component: firmware.Output()}
		}
		return f
	}, link.NewMetrics(registry), log)
	location, err := time.LoadLocation(cfg.TimeZone)
	if err != nil {
		return fmt.Errorf("time_zone: %w", err)
	}
	driver = deploy.New(deploy.Config{
		Component: cfg.Component, Device: id.Name, Model: id.Model, Hardware: id.Hardware, Location: location,
		Health: healthConfig(cfg), Conditions: cfg.Conditions, Wake: awake, RetryMin: cfg.Retry.Min, RetryMax: cfg.Retry.Max, At: faults,
	}, firmware, verifier, fetcher, session, records, clk, log)

	server := ops.NewServer(cfg.Ops, registry, log)
	server.Ready("broker", func(context.Context) error {
		if cfg.Mode == topics.ModeConnected && !session.Connected() {
			return errNotConnected
		}
		return nil
	})
	server.Ready("journal", func(context.Context) error { return records.Broken() })
	if err := server.Listen(); err != nil {
		return err
	}
	if err := ops.WriteAddresses(cfg.AddressesFile, map[string]string{"ops": server.Addr()}); err != nil {
		// A disk that takes no writes must not keep the device from being managed.
		log.Error("addresses cannot be written", "err", err)
	}
	log.Info("agent runs", "model", id.Model, "hardware", id.Hardware, "mode", string(cfg.Mode), "component", cfg.Component)
	defer alive.add(func() { session.World(); records.Snapshot() })()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error {
		// The first heartbeat tells what runs, so something has to.
		if firmware.Ready(ctx) != nil {
			return nil
		}
		return session.Run(ctx)
	})
	g.Go(func() error {
		t.await(ctx, records)
		return driver.Run(ctx)
	})
	g.Go(func() error { return t.watch(ctx, session, driver, records) })
	return g.Wait()
}

func healthConfig(cfg Config) health.Config {
	h := health.Config{
		URL: cfg.Health.URL, Interval: cfg.Health.Interval, Timeout: cfg.Health.Timeout,
		Settle: cfg.Health.Settle, Total: cfg.Health.Total, Checks: cfg.Health.Checks,
	}
	if h.URL == "none" || h.URL == defaultHealthURL && !cfg.addressed() {
		h.URL = ""
	}
	return h
}

// lock keeps a second agent away from the data directory. It is gone with the
// process, however that ends.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	path := filepath.Join(dir, "lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		// A disk that was mounted read-only because it fails has the file.
		if file, err = os.Open(path); err != nil {
			return nil, fmt.Errorf("data_dir: %w", err)
		}
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("data_dir: another agent uses it: %w", err)
	}
	return func() { file.Close() }, nil
}

func readRoots(cfg Config) (verify.Roots, error) {
	image, err := os.ReadFile(cfg.Trust.ImageRoot)
	if err != nil {
		return verify.Roots{}, fmt.Errorf("trust.image_root: %w", err)
	}
	director, err := os.ReadFile(cfg.Trust.DirectorRoot)
	if err != nil {
		return verify.Roots{}, fmt.Errorf("trust.director_root: %w", err)
	}
	return verify.Roots{Image: image, Director: director}, nil
}

// slots opens the slots, with the initial version in the first if there is
// nothing in them.
func slots(cfg Config) (*slot.Dir, error) {
	dir, err := slot.OpenDir(filepath.Join(cfg.DataDir, "slots"))
	if err != nil {
		return nil, err
	}
	if cfg.Initial.Artifact != "" {
		if err := dir.Provision(cfg.Initial.Artifact, cfg.Initial.Version); err != nil {
			return nil, err
		}
	}
	return dir, nil
}

// provision puts the initial version into the first slot.
func provision(_ context.Context, cfg Config, log *slog.Logger) error {
	if cfg.Initial.Artifact == "" {
		return errors.New("initial: is missing")
	}
	unlock, err := lock(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	dir, err := slots(cfg)
	if err != nil {
		return err
	}
	name, image, err := dir.Active()
	if err != nil {
		return err
	}
	log.Info("provisioned", "slot", name, "version", image.Version)
	return nil
}

// status prints what a device's directory says; the agent may be running.
func status(ctx context.Context, cfg Config, _ *slog.Logger) error {
	record, err := journal.Read(cfg.DataDir)
	if err != nil {
		return err
	}
	report := struct {
		Slot    string         `json:"slot"`
		Active  slot.Image     `json:"active"`
		Problem string         `json:"problem,omitempty"`
		Journal journal.Record `json:"journal"`
	}{Journal: record}
	if report.Slot, report.Active, err = activeSlot(ctx, cfg); err != nil {
		report.Problem = err.Error()
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(report)
}

// activeSlot is the slot that boots by itself, and what it holds.
func activeSlot(ctx context.Context, cfg Config) (name string, image slot.Image, err error) {
	if cfg.Machine.Bootloader != "" {
		m, err := openMachine(ctx, cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			return "", slot.Image{}, err
		}
		r := m.Running()
		return r.Slot, r.Image, nil
	}
	if cfg.Module.Steps != "" {
		m, err := openModule(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			return "", slot.Image{}, err
		}
		r := m.Running()
		return r.Slot, r.Image, nil
	}
	dir, err := slot.OpenDir(filepath.Join(cfg.DataDir, "slots"))
	if err != nil {
		return "", slot.Image{}, err
	}
	return dir.Active()
}
