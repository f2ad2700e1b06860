package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"groundswell/agent/deploy"
	"groundswell/agent/health"
	"groundswell/agent/journal"
	"groundswell/agent/link"
	"groundswell/agent/self"
	"groundswell/agent/telemetry"
	"groundswell/agent/watchdog"
	"groundswell/topics"
)

// Self is how the agent replaces itself, where it was started by `agent launch`. See
// package self.
type Self struct {
	// Component is what releases of the agent are called. Default "agent".
	Component string `yaml:"component"`
	// Tries is how often a new agent is started on trial. Default 3.
	Tries int `yaml:"tries"`
	// Alive is how long an agent on trial may give no sign of life before it is ended.
	// Default 1 min.
	Alive time.Duration `yaml:"alive"`
	// Settle and Total are as for other components (see Health). Default 1 min and 10 min,
	// because a new agent has to reach the broker first.
	Settle time.Duration `yaml:"settle"`
	Total  time.Duration `yaml:"total"`
	// Checks must hold besides those that always have to: the broker was heard within
	// 5 min, and has said all that is for this device; the journal can be written; all
	// components are driven.
	Checks []health.Check `yaml:"checks"`
}

// ownDir holds the agent's own slots, below data_dir: the launcher's argument.
const ownDir = "agent"

func (s *Self) validate() error {
	if err := topics.CheckID("self.component", s.Component); err != nil {
		return err
	}
	switch {
	case s.Tries < 1:
		return errors.New("self.tries: must be at least 1")
	case s.Alive < time.Second:
		return errors.New("self.alive: must be at least 1s")
	case s.Settle <= 0:
		return errors.New("self.settle: must be above 0")
	case s.Total < s.Settle:
		return errors.New("self.total: must not be below self.settle")
	}
	if err := health.ValidateChecks("self.checks", s.Checks); err != nil {
		return err
	}
	return nil
}

// openItself opens the agent's own slots, if it was launched from them; otherwise it is
// replaced by whoever installed it, and is no component.
func openItself(cfg Config, leave context.CancelCauseFunc, log *slog.Logger) (*self.Slots, error) {
	launched, ok, err := self.TakeLaunched()
	if !ok || err != nil {
		return nil, err
	}
	return self.Open(self.Config{
		Dir: filepath.Join(cfg.DataDir, ownDir), Launched: launched, Version: telemetry.Version,
		Tries: cfg.Self.Tries, Alive: cfg.Self.Alive, At: faultsOf(cfg.Self.Component),
		Restart: func() { leave(watchdog.ErrGoesOn) },
		Log:     log.With("component", cfg.Self.Component),
	})
}

// itself is the agent as a component.
func itself(cfg Config, slots *self.Slots) part {
	c := Component{Name: cfg.Self.Component, Dir: ownDir, Health: cfg.Health}
	c.Health = Health{
		URL: "none", Checks: append([]health.Check{{Broker: true}}, cfg.Self.Checks...),
		Interval: DefaultConfig().Health.Interval, Timeout: DefaultConfig().Health.Timeout, Settle: cfg.Self.Settle, Total: cfg.Self.Total,
	}
	return part{Component: c, slots: slots, itself: true}
}

// patienceToLeave is how long the agent may take to stop what it does, besides what its
// components are given, before it leaves nevertheless.
const patienceToLeave = 30 * time.Second

// leaveInTime makes an agent leave that was to make way and hangs while it stops.
func leaveInTime(ctx context.Context, cfg Config, slots *self.Slots, log *slog.Logger) {
	patience := patienceToLeave
	for _, c := range cfg.components() {
		patience += c.Firmware.Grace
	}
	context.AfterFunc(ctx, func() {
		if !errors.Is(context.Cause(ctx), watchdog.ErrGoesOn) {
			return
		}
		time.AfterFunc(patience, func() {
			log.Error("the agent does not stop, and leaves as it is", "after", patience)
			if err := slots.Leave(); err != nil {
				log.Error("the agent cannot make way", "err", err)
			}
			os.Exit(1)
		})
	})
}

// errNotCheckedIn is why an agent on trial is not well.
var errNotCheckedIn = errors.New("not everything that is for this device was heard since the start")

// wellItself returns what must hold for an agent on trial: that it can be reached, and
// replaced again.
func wellItself(session *link.Link, records *journal.Journal, drivers func() []*deploy.Driver) func() error {
	return func() error {
		if session.World().View.Opened.IsZero() {
			return errNotCheckedIn
		}
		if err := records.Broken(); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		for _, d := range drivers() {
			if !d.Runs() {
				return fmt.Errorf("component %s is not driven", d.Component())
			}
		}
		return nil
	}
}
