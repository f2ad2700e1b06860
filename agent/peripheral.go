package main

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"groundswell/agent/module"
	"groundswell/topics"
)

// Module says that the component is something that only its maker knows how to update,
// by a directory of executables. See package module.
type Module struct {
	// Steps is the directory. Empty: the component is a process (Firmware).
	Steps string `yaml:"steps"`
	// Version is what runs on a device that nobody has updated yet, when the module has
	// no step version.
	Version string `yaml:"version"`
	// Tries is how many starts of the agent a trial has. Default 3.
	Tries int `yaml:"tries"`
	// StepTime is how long a step may take. Default 30 min.
	StepTime time.Duration `yaml:"step_time"`
	// Again is the pause before a step is asked again that was not ready (exit status
	// 21); Patience is for how long it is asked. Default 1 min, 6 h.
	Again    time.Duration `yaml:"again"`
	Patience time.Duration `yaml:"patience"`
	// Interval is the time between two calls of verify. Default 5 s.
	Interval time.Duration `yaml:"interval"`
}

func (m *Module) validate() error {
	if m.Steps == "" {
		return nil
	}
	if !filepath.IsAbs(m.Steps) {
		return errors.New("module.steps: must be the absolute path of a directory")
	}
	if m.Version != "" {
		if err := topics.CheckVersion("module.version", m.Version); err != nil {
			return err
		}
	}
	if m.Tries < 1 {
		return errors.New("module.tries: must be at least 1")
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"step_time", m.StepTime}, {"again", m.Again}, {"patience", m.Patience}, {"interval", m.Interval}} {
		if d.value <= 0 {
			return fmt.Errorf("module.%s: must be above 0", d.key)
		}
	}
	return nil
}

func openModule(dir string, m Module, log *slog.Logger) (*module.Module, error) {
	return module.Open(module.Config{
		Scripts: m.Steps, Dir: dir, Initial: m.Version, Tries: m.Tries,
		StepTime: m.StepTime, Again: m.Again, Patience: m.Patience, Interval: m.Interval, Log: log,
	})
}
