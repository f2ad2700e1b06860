package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/assemble"
	"groundswell/agent/clock"
	"groundswell/agent/decide"
	"groundswell/agent/deploy"
	"groundswell/agent/fetch"
	"groundswell/agent/journal"
	"groundswell/agent/link"
	"groundswell/agent/slot"
	"groundswell/agent/telemetry"
	"groundswell/agent/verify"
	"groundswell/agent/wake"
	"groundswell/agent/watchdog"
	"groundswell/certs"
	"groundswell/internal/backoff"
	"groundswell/internal/ops"
	"groundswell/topics"

	"golang.org/x/sync/errgroup"
)

// faults is called at named points of a deployment. Tests kill the process
// there.
var faults func(point string)

// faultsOf is faults for a component: each point is called with its name as well.
func faultsOf(component string) func(point string) {
	if faults == nil {
		return nil
	}
	return func(point string) {
		faults(point)
		faults(component + " " + point)
	}
}

// machineClock is the machine's clock. Tests put it wrong.
var machineClock = time.Now

// errNotConnected is why the agent is not ready.
var errNotConnected = errors.New("no connection now")

// run is the agent: it keeps the components running, whatever else is wrong, and
// manages them.
func run(ctx context.Context, cfg Config, log *slog.Logger) error {
	tail := telemetry.NewTail(32 << 10)
	log = slog.New(slog.NewMultiHandler(log.Handler(), slog.NewJSONHandler(tail, nil)))

	unlock, err := lock(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	told := ctx
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	parts, err := openParts(ctx, cfg, log)
	if err != nil {
		return err
	}
	own, err := openItself(cfg, leave, log)
	if err != nil {
		// No reason for a camera to be dark. On trial, the launcher ends what does not decide.
		log.Error("the agent cannot be replaced", "err", err)
	}
	if err == nil && own != nil {
		parts = append(parts, itself(cfg, own))
		leaveInTime(ctx, cfg, own, log)
	}
	stopped := ctx
	g, ctx := errgroup.WithContext(ctx)
	var alive vitals
	var judged driven
	for _, p := range parts {
		g.Go(func() error { return p.slots.Run(ctx) })
		g.Go(func() error {
			guard(ctx, p.Name, p.slots, &judged, cfg.Unmanaged, log)
			return nil
		})
		alive.add(func() { p.slots.Running() })
	}
	g.Go(func() error {
		watchdog.Run(ctx, cfg.Watchdog, alive.ask, log)
		return nil
	})
	g.Go(func() error {
		// A certificate that the flash has lost, or a port that is taken, is no
		// reason for a camera to be dark.
		for n := 1; ; n++ {
			began := time.Now()
			err := manage(ctx, cfg, parts, &alive, &judged, tail, nil, log)
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
			log.Error("device is not managed, trying again; its components run on", "err", err)
			if backoff.Range(cfg.Retry).Pause(ctx, n) != nil {
				return nil
			}
		}
	})
	err = g.Wait()
	if err == nil && told.Err() == nil && errors.Is(context.Cause(stopped), watchdog.ErrGoesOn) {
		return own.Leave()
	}
	return err
}

// inService reports whether the device was managed before.
func inService(cfg Config) bool {
	_, err := journal.Read(cfg.DataDir)
	return !errors.Is(err, os.ErrNotExist)
}

// manage connects the device and drives its components, until ctx or the turn ends or
// something is wrong that may not be later.
func manage(ctx context.Context, cfg Config, parts []part, alive *vitals, judged *driven, tail *telemetry.Tail, t *turn, log *slog.Logger) error {
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
	public, err := cfg.Fetch.public()
	if err != nil {
		// A file that is lost must not keep the device from being managed.
		log.Error("sources that are not of the fleet are not believed", "err", err)
	}
	sourceTLS, err := current.source(authority, public, clk.Now)
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	var session *link.Link // sources may be assigned
	var drivers []*deploy.Driver
	awake := wake.New(cfg.Polling.limits())
	allowed := allowance.New(cfg.Download, id.Name, clk, log)
	fetcher := fetch.New(fetch.Config{
		Sources: func() []string {
			if assigned := session.Sources(); len(assigned) > 0 {
				return assigned
			}
			return cfg.Sources
		},
		TLS: sourceTLS, Stall: cfg.Fetch.Stall, MinRate: cfg.Fetch.MinRate, BackoffMin: cfg.Backoff.Min, BackoffMax: cfg.Backoff.Max, Wake: awake, Allowance: allowed, Log: log,
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
	site, err := newSite(cfg, id, current, authority, clk, parts, verifier, awake, registry, log)
	if err != nil {
		return err
	}
	downloads := assemble.Downloads{Client: fetcher, Peers: site, Log: log, Battery: func() bool { return usesBattery(awake) }, Energy: cfg.Energy}
	session = link.New(link.Config{
		Device: id.Name, Servers: cfg.MQTT.Servers, TLS: brokerTLS, KeepAlive: cfg.MQTT.KeepAlive,
		SessionExpiry: cfg.MQTT.SessionExpiry, CheckInTimeout: cfg.MQTT.CheckInTimeout,
		BackoffMin: cfg.Backoff.Min, BackoffMax: cfg.Backoff.Max,
		Mode: cfg.Mode, Interval: cfg.Polling.Interval, Jitter: cfg.Polling.Jitter,
		Heartbeat: cfg.Heartbeat, TimeZone: cfg.TimeZone, Saving: cfg.Polling.saving(), Wake: awake, Dir: cfg.DataDir,
		Once: t != nil,
		Decided: func(ctx context.Context) {
			t.begin()
			for _, driver := range drivers {
				driver.Look(ctx)
			}
		},
	}, verifier, records, clk, telemetry.Machine{Root: machineRoot, Disk: cfg.DataDir}, func(logs bool) link.Facts {
		var f link.Facts
		f.Versions, f.BootID, f.Logs = facts(parts, tail.String(), logs)
		return f
	}, link.NewMetrics(registry), log)
	renewals, err := newRenewer(cfg, current, authority, clk, session.Heard, log)
	if err != nil {
		return err
	}
	location, err := time.LoadLocation(cfg.TimeZone)
	if err != nil {
		return fmt.Errorf("time_zone: %w", err)
	}
	allowed.Remember(records, func() *time.Location { return decide.Location(session.World().Assignment, location) })
	defer allowed.Close()
	device := deploy.NewDevice(session, cfg.Conditions)
	well := wellItself(session, records, func() []*deploy.Driver { return drivers })
	for _, p := range parts {
		examine := p.healthConfig()
		if p.itself {
			examine.Own = well
		}
		drivers = append(drivers, deploy.New(deploy.Config{
			Component: p.Name, Itself: p.itself, Device: id.Name, Model: id.Model, Hardware: id.Hardware, Location: location,
			Health: examine, Conditions: p.Conditions, Wake: awake, Allowance: allowed, Peers: &assemble.Nearby{Downloads: downloads}, RetryMin: cfg.Retry.Min, RetryMax: cfg.Retry.Max,
			PenaltyMin: cfg.Penalty.Min, PenaltyMax: cfg.Penalty.Max, Log: tail.String, At: faultsOf(p.Name),
		}, device, p.slots, verifier, downloads, records, clk, log.With("component", p.Name)))
	}

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
	addresses := map[string]string{"ops": server.Addr()}
	if site != nil && site.Listen() == nil { // else it says so, and tries again, when it runs
		addresses["peers"] = site.Addr()
	}
	if err := ops.WriteAddresses(cfg.AddressesFile, addresses); err != nil {
		// A disk that takes no writes must not keep the device from being managed.
		log.Error("addresses cannot be written", "err", err)
	}
	log.Info("agent runs", "model", id.Model, "hardware", id.Hardware, "mode", string(cfg.Mode), "components", names(parts))
	defer alive.add(func() { session.World(); records.Snapshot() })()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx) })
	g.Go(func() error {
		runSite(ctx, site, log)
		return nil
	})
	g.Go(func() error {
		// The first heartbeat tells what runs, so something has to.
		for _, p := range parts {
			if p.slots.Ready(ctx) != nil {
				return nil
			}
		}
		return session.Run(ctx)
	})
	g.Go(func() error { return device.Run(ctx) })
	judged.drivers.Store(true)
	defer judged.drivers.Store(false)
	for _, driver := range drivers {
		g.Go(func() error {
			t.await(ctx, records)
			return driver.Run(ctx)
		})
	}
	g.Go(func() error {
		renewals.run(ctx)
		return nil
	})
	g.Go(func() error { return t.watch(ctx, session, drivers, records) })
	return g.Wait()
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
	// What an agent was about to launch when it was killed holds the lock until it runs.
	for deadline := time.Now().Add(lockTime); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if time.Now().After(deadline) {
			file.Close()
			return nil, fmt.Errorf("data_dir: another agent uses it: %w", err)
		}
	}
}

// lockTime is how long a second agent waits for the first one's end.
const lockTime = time.Second

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

// provision puts the initial versions into the first slots.
func provision(_ context.Context, cfg Config, log *slog.Logger) error {
	unlock, err := lock(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	n := 0
	for _, c := range cfg.listed() {
		if c.Initial.Artifact == "" {
			continue
		}
		dir, err := openDir(filepath.Join(cfg.DataDir, c.Dir), c.Initial)
		if err != nil {
			return fmt.Errorf("component %s: %w", c.Name, err)
		}
		name, image, err := dir.Active()
		if err != nil {
			return fmt.Errorf("component %s: %w", c.Name, err)
		}
		log.Info("provisioned", "component", c.Name, "slot", name, "version", image.Version)
		n++
	}
	if n == 0 {
		return errors.New("initial: is missing")
	}
	return nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// held is what the slots of a component say.
type held struct {
	Slot    string     `json:"slot"`
	Active  slot.Image `json:"active"`
	Problem string     `json:"problem,omitempty"`
}

// status prints what a device's directory says; the agent may be running.
func status(ctx context.Context, cfg Config, _ *slog.Logger) error {
	record, err := journal.Read(cfg.DataDir)
	if err != nil {
		return err
	}
	components := map[string]held{}
	for _, c := range cfg.listed() {
		var h held
		if h.Slot, h.Active, err = activeSlot(ctx, cfg.DataDir, c); err != nil {
			h.Problem = err.Error()
		}
		components[c.Name] = h
	}
	report := struct {
		*held                      // of the only one
		Components map[string]held `json:"components,omitempty"`
		Agent      *held           `json:"agent,omitempty"` // its own slots, where it has any
		Journal    journal.Record  `json:"journal"`
	}{Components: components, Journal: record}
	if own := filepath.Join(cfg.DataDir, ownDir); isDir(own) {
		report.Agent = &held{}
		if dir, err := slot.OpenDir(own); err != nil {
			report.Agent.Problem = err.Error()
		} else if report.Agent.Slot, report.Agent.Active, err = dir.Active(); errors.Is(err, slot.ErrEmpty) {
			report.Agent.Slot, report.Agent.Active.Version = "", telemetry.Version // the packaged one
		} else if err != nil {
			report.Agent.Problem = err.Error()
		}
	}
	if len(cfg.Components) == 0 {
		sole := components[cfg.Component]
		report.held, report.Components = &sole, nil
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(report)
}
