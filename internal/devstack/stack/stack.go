// Package stack brings up the whole platform on one machine: PostgreSQL,
// InfluxDB, a broker, fleetd and any number of agents, each a process of its
// own, with keys made by the real fleetctl. The demo, the end-to-end tests and
// the benchmark stand on it.
//
// Everything lives in one directory and listens on 127.0.0.1. Broker and fleetd
// are given free ports before their first start and keep them, so that they can be
// killed and started again below their clients.
package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"groundswell/internal/devstack"
)

// Options shape a stack. The zero value suits tests.
type Options struct {
	// Dir holds everything; when empty, a temporary directory is made and removed
	// by Stop.
	Dir string
	// TrustDomain defaults to "fleet.test".
	TrustDomain string
	// WithoutInflux leaves InfluxDB out; fleetd then runs without telemetry.
	WithoutInflux bool
	// Deltas lets fleetd make deltas, for which a rollout's first wave waits.
	Deltas bool
	// PostgresFsync makes commits survive a power cut, as in production.
	PostgresFsync bool
	// BrokerConfig and FleetdConfig may change the configuration before it is
	// written. Keys are those of the YAML files.
	BrokerConfig, FleetdConfig func(Config)
	// Log gets the steps. nil discards them.
	Log *slog.Logger
}

// Config is a configuration file as nested maps.
type Config map[string]any

// Set sets the value at a path of keys, making the sections on the way.
func (c Config) Set(value any, path ...string) {
	for ; len(path) > 1; path = path[1:] {
		next, ok := c[path[0]].(Config)
		if !ok {
			next = Config{}
			c[path[0]] = next
		}
		c = next
	}
	c[path[0]] = value
}

// fix gives each of the listeners at these paths an address that nobody else is given
// while the program is down: a port that the kernel chose may be somebody else's by then.
func (c Config) fix(paths ...[]string) error {
	for _, path := range paths {
		addr, err := devstack.FreeAddr()
		if err != nil {
			return err
		}
		c.Set(addr, path...)
	}
	return nil
}

// database is the name of fleetd's database, in PostgreSQL and in InfluxDB.
const database = "groundswell"

// Stack is a running platform.
type Stack struct {
	Dir         string
	Keys        string // made by fleetctl keys init
	TrustDomain string
	Bins        devstack.Bins
	Postgres    *devstack.Postgres
	Influx      *devstack.Influx // nil without
	Broker      *devstack.Process
	Fleetd      *devstack.Process

	options      Options
	log          *slog.Logger
	brokerConfig Config
	fleetdConfig Config
	api          *api
	discard      func()

	mu     sync.Mutex // guards agents
	agents []*Agent
}

// Start brings everything up and returns when fleetd is ready. What was started
// before an error is stopped again.
func Start(ctx context.Context, options Options) (*Stack, error) {
	s := &Stack{options: options, Dir: options.Dir, TrustDomain: options.TrustDomain, log: options.Log, discard: func() {}}
	if s.TrustDomain == "" {
		s.TrustDomain = "fleet.test"
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start the platform: %w", err), s.Stop())
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context) (err error) {
	if s.Dir == "" {
		if s.Dir, s.discard, err = devstack.TempDir("groundswell-stack-"); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(s.path("log"), 0o755); err != nil {
		return err
	}
	s.log.Info("building the programs")
	if s.Bins, err = devstack.Binaries(ctx); err != nil {
		return err
	}
	s.log.Info("making the keys")
	if err := s.makeKeys(ctx); err != nil {
		return err
	}
	s.log.Info("starting PostgreSQL")
	if s.Postgres, err = devstack.StartPostgres(ctx, devstack.PostgresOptions{Durable: s.options.PostgresFsync}); err != nil {
		return err
	}
	if err := s.Postgres.CreateDatabase(ctx, database); err != nil {
		return err
	}
	if !s.options.WithoutInflux {
		s.log.Info("starting InfluxDB")
		if s.Influx, err = devstack.StartInflux(ctx, devstack.InfluxOptions{}); err != nil {
			return err
		}
		if err := s.Influx.CreateDatabase(ctx, database); err != nil {
			return err
		}
	}
	s.log.Info("starting the broker")
	if s.Broker, err = s.startBroker(ctx); err != nil {
		return err
	}
	s.log.Info("starting fleetd")
	if s.Fleetd, err = s.startFleetd(ctx); err != nil {
		return err
	}
	return s.AwaitReady(ctx)
}

// path is a path below the stack's directory.
func (s *Stack) path(elem ...string) string {
	return filepath.Join(append([]string{s.Dir}, elem...)...)
}

func (s *Stack) startBroker(ctx context.Context) (*devstack.Process, error) {
	if s.brokerConfig == nil {
		s.brokerConfig = s.defaultBrokerConfig()
		if err := s.brokerConfig.fix([]string{"listen"}, []string{"ops", "listen"}); err != nil {
			return nil, err
		}
		if s.options.BrokerConfig != nil {
			s.options.BrokerConfig(s.brokerConfig)
		}
	}
	p, err := s.daemon(ctx, "broker", s.Bins.Broker, s.brokerConfig)
	if err == nil {
		s.brokerConfig.Set(p.Addr("mqtt"), "listen")
		s.brokerConfig.Set(p.Addr("ops"), "ops", "listen")
	}
	return p, err
}

func (s *Stack) startFleetd(ctx context.Context) (*devstack.Process, error) {
	if s.fleetdConfig == nil {
		s.fleetdConfig = s.defaultFleetdConfig()
		if err := s.fleetdConfig.fix([]string{"api", "listen"}, []string{"downloads", "listen"}, []string{"ops", "listen"}); err != nil {
			return nil, err
		}
		if s.options.FleetdConfig != nil {
			s.options.FleetdConfig(s.fleetdConfig)
		}
	}
	p, err := s.daemon(ctx, "fleetd", s.Bins.Fleetd, s.fleetdConfig)
	if err == nil {
		s.fleetdConfig.Set(p.Addr("api"), "api", "listen")
		s.fleetdConfig.Set(p.Addr("downloads"), "downloads", "listen")
		s.fleetdConfig.Set(p.Addr("ops"), "ops", "listen")
	}
	return p, err
}

// daemon writes a configuration file and starts a program with it.
func (s *Stack) daemon(ctx context.Context, name, path string, cfg Config) (*devstack.Process, error) {
	addresses := s.path(name + ".addresses.json")
	cfg["addresses_file"] = addresses
	file, err := s.writeConfig(name, cfg)
	if err != nil {
		return nil, err
	}
	return devstack.Start(ctx, devstack.Spec{
		Name: name, Path: path, Args: []string{"--config", file}, Dir: s.Dir,
		LogFile: s.path("log", name+".log"), AddressesFile: addresses,
	})
}

// encode is the configuration as a file; JSON is YAML too.
func (c Config) encode() ([]byte, error) {
	data, err := json.MarshalIndent(c, "", "  ")
	return append(data, '\n'), err
}

// writeConfig writes a configuration file.
func (s *Stack) writeConfig(name string, cfg Config) (string, error) {
	data, err := cfg.encode()
	if err != nil {
		return "", err
	}
	file := s.path(name + ".yaml")
	return file, os.WriteFile(file, data, 0o600)
}

// RestartBroker starts the broker again, after Broker.Kill or Broker.Stop, with
// the same addresses and data.
func (s *Stack) RestartBroker(ctx context.Context) (err error) {
	s.Broker, err = s.startBroker(ctx)
	return err
}

// RestartFleetd starts fleetd again, after Fleetd.Kill or Fleetd.Stop, with the
// same addresses.
func (s *Stack) RestartFleetd(ctx context.Context) (err error) {
	s.Fleetd, err = s.startFleetd(ctx)
	return err
}

// SecondFleetd starts one more replica on addresses of its own.
func (s *Stack) SecondFleetd(ctx context.Context, change func(Config)) (*devstack.Process, error) {
	cfg := s.defaultFleetdConfig()
	if s.options.FleetdConfig != nil {
		s.options.FleetdConfig(cfg)
	}
	if change != nil {
		change(cfg)
	}
	return s.daemon(ctx, "fleetd-2", s.Bins.Fleetd, cfg)
}

// AwaitReady waits until broker and fleetd say that nothing is missing.
func (s *Stack) AwaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, p := range []*devstack.Process{s.Broker, s.Fleetd} {
		if err := awaitReady(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// Stop ends everything in reverse order and removes a temporary directory. It
// returns what did not stop as it should.
func (s *Stack) Stop() error {
	s.mu.Lock()
	agents := s.agents
	s.agents = nil
	s.mu.Unlock()
	var wg sync.WaitGroup
	failures := make([]error, len(agents))
	for i, a := range agents {
		wg.Go(func() { failures[i] = a.Stop() })
	}
	wg.Wait()
	if s.Fleetd != nil {
		failures = append(failures, s.Fleetd.Stop(20*time.Second))
	}
	if s.Broker != nil {
		failures = append(failures, s.Broker.Stop(20*time.Second))
	}
	if s.Influx != nil {
		failures = append(failures, s.Influx.Stop())
	}
	if s.Postgres != nil {
		failures = append(failures, s.Postgres.Stop())
	}
	s.discard()
	return errors.Join(failures...)
}

// WriteFile writes a file into the stack's directory and returns its path.
func (s *Stack) WriteFile(name, content string) (string, error) {
	return s.path(name), os.WriteFile(s.path(name), []byte(content), 0o600)
}
