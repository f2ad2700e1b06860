package rauc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"groundswell/agent/journal"
	"groundswell/agent/slot"
	"groundswell/agent/telemetry"
	"groundswell/topics"
)

// ErrOnTrial: the version on trial runs, and beside it there is only the one to fall
// back to: nothing can be installed.
var ErrOnTrial = errors.New("the version on trial runs, no slot is idle")

// Config says how the system is kept. Dir, Running, BootID and Restart are required.
type Config struct {
	// Dir is on a partition that both systems mount.
	Dir string
	// Bus is the D-Bus address of the system's bus. Empty: where it usually is.
	Bus string
	// Running is the bootname of the slot that runs, and BootID differs from boot to boot.
	Running, BootID string
	// Version is what the running system says that it is; nil, or "": nothing, and what
	// was installed there is believed.
	Version func() string
	// Addr is where the system answers for its health; may be empty.
	Addr string
	// CallTime is how long RAUC may take to answer, and InstallTime to install. Default
	// 1 min, 1 h.
	CallTime, InstallTime time.Duration
	// Again bounds the pause before RAUC is asked again that did not answer when the agent
	// began; it grows up to that. Default 1 min.
	Again time.Duration
	// Restart boots the machine. It may return before that happens.
	Restart func(ctx context.Context) error
	Log     *slog.Logger
}

// Slots are those of a system that RAUC updates. They are safe for concurrent use.
type Slots struct {
	cfg     Config
	service service
	output  *telemetry.Tail
	at      func() // called before each step that outlives a power cut. Tests cut it there

	busy   sync.Mutex // held, for long perhaps, while RAUC works or the record is written
	file   *journal.File
	unread bool // what is written down could not be read
	reads  int  // how often it was tried again

	mu     sync.Mutex // guards what follows; held for a moment only; after busy
	record record
	system *system // what RAUC said last; nil: nothing since the agent began
	trial  bool    // what runs was booted on trial
}

// Open reads what is written down. It asks and changes nothing.
func Open(cfg Config) (*Slots, error) {
	if cfg.Running == "" {
		return nil, errors.New("the kernel's command line does not say which slot runs: there is no rauc.slot=")
	}
	if cfg.CallTime <= 0 {
		cfg.CallTime = time.Minute
	}
	if cfg.InstallTime <= 0 {
		cfg.InstallTime = time.Hour
	}
	if cfg.Again <= 0 {
		cfg.Again = time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Slots{
		cfg: cfg, service: service{address: cfg.Bus, callTime: cfg.CallTime, installTime: cfg.InstallTime},
		output: telemetry.NewTail(32 << 10), at: func() {}, file: journal.NewFile(filepath.Join(cfg.Dir, "rauc.json")),
	}
	s.read()
	return s, nil
}

// read reads what is written down, and finds out by it whether what runs is on trial.
func (s *Slots) read() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unread = !s.load()
	r := s.record
	switch held := r.Slots[s.cfg.Running]; {
	case r.Active == s.cfg.Running || r.Active == "" && r.Trial == nil:
		s.trial = false
	case r.Trial != nil && r.Trial.Slot == s.cfg.Running:
		// Over, told, and in another boot: the machine was to boot the other slot, and
		// could not. Else it still has to restart.
		t := r.Trial
		s.trial = !t.Over || !t.Told || t.OverIn == s.cfg.BootID
	default:
		// The bootloader has chosen by itself. What was never confirmed is still to be
		// proven.
		if s.trial = held.Length > 0 && !held.Good; s.trial {
			s.cfg.Log.Warn("what was never confirmed was booted without a trial", "slot", s.cfg.Running)
		}
	}
}

// maxUnread is how often what is written down is read again before it is given up. Until
// then nothing is marked good: what runs may be on trial.
const maxUnread = 10

var errUnread = errors.New("what is written down of the slots cannot be read")

// Run has what runs boot again, and returns when ctx ends: the system runs by itself.
func (s *Slots) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := time.Second; ; pause = min(2*pause, s.cfg.Again) {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		err := s.Adopt(ctx)
		if err == nil {
			break
		}
		if ctx.Err() == nil {
			s.cfg.Log.Error("what runs is not marked good, trying again", "slot", s.cfg.Running, "err", err)
		}
		timer.Reset(min(pause, s.cfg.Again))
	}
	<-ctx.Done()
	return nil
}

// Ready returns at once: what runs has booted.
func (s *Slots) Ready(context.Context) error { return nil }

// Adopt tells RAUC that what runs is good, if it is not on trial: every boot is counted.
// If it is not the slot that was confirmed last, the bootloader could not boot that, and
// what runs takes its place. It may be repeated.
func (s *Slots) Adopt(ctx context.Context) error {
	s.busy.Lock()
	defer s.busy.Unlock()
	sys, err := s.ask(ctx)
	if err != nil {
		return err
	}
	if s.unread && s.reads < maxUnread {
		s.reads++
		if s.read(); s.unread {
			return errUnread
		}
	}
	r, on := s.written()
	running := s.cfg.Running
	switch {
	case on:
		return nil
	case r.Trial != nil && r.Trial.Slot != running:
		// Something has fallen back, and whoever asks for it is still to hear that; or it
		// is to be booted next, and nothing may come between.
		if r.Trial.Boot == s.cfg.BootID {
			return nil
		}
		return s.mark(ctx, "good", sys.running.name)
	}
	if r.Active == running && r.Trial == nil {
		return s.keep(ctx, sys)
	}
	if r.Active != "" {
		s.cfg.Log.Error("the slot that was confirmed could not be booted, the other one runs and takes its place", "was", r.Active, "runs", running)
	}
	if err := s.prefer(ctx, sys); err != nil {
		return err
	}
	r.Active = running
	return s.save(r.without())
}

// mark is the service's.
func (s *Slots) mark(ctx context.Context, state, name string) error {
	s.at()
	return s.service.mark(ctx, state, name)
}

// prefer makes the slot that runs the one that boots by itself.
func (s *Slots) prefer(ctx context.Context, sys *system) error {
	if err := s.mark(ctx, "active", sys.running.name); err != nil {
		return err
	}
	return s.mark(ctx, "good", sys.running.name)
}

// keep gives the slot that runs all its tries again, and prefers it if RAUC does not.
// Before, RAUC may have taken it for one that has no tries left.
func (s *Slots) keep(ctx context.Context, sys *system) error {
	if err := s.mark(ctx, "good", sys.running.name); err != nil {
		return err
	}
	sys, err := s.ask(ctx)
	if err != nil || sys.primary == sys.running.bootname {
		return err
	}
	return s.prefer(ctx, sys)
}

// Ask asks RAUC what is in the slots, and changes nothing.
func (s *Slots) Ask(ctx context.Context) error {
	s.busy.Lock()
	defer s.busy.Unlock()
	_, err := s.ask(ctx)
	return err
}

// ask asks RAUC about its slots, and keeps the answer. The caller holds busy.
func (s *Slots) ask(ctx context.Context) (*system, error) {
	sys, err := s.service.system(ctx)
	if err == nil && sys.running.bootname != s.cfg.Running {
		err = fmt.Errorf("%w: it takes %s for the slot that runs, the kernel's command line says %s", ErrRefused, sys.running.bootname, s.cfg.Running)
	}
	if err != nil {
		return nil, err
	}
	r, on := s.written()
	if held := r.Slots[s.cfg.Running]; held.Length > 0 && !held.agrees(sys.groups[s.cfg.Running]) {
		s.cfg.Log.Error("RAUC does not say of the slot that runs what it said when it had installed it; is statusfile= on a partition that both systems mount?", "slot", s.cfg.Running, "trial", on)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.system = sys
	return sys, nil
}

// written is the record, and whether what runs is on trial.
func (s *Slots) written() (record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record, s.trial
}

// Running is what runs. On trial it is not up as long as RAUC does not say that it is
// what was installed: what RAUC does not work in can never be updated again.
func (s *Slots) Running() slot.Running {
	s.mu.Lock()
	held, sys, on := s.record.Slots[s.cfg.Running], s.system, s.trial
	s.mu.Unlock()
	var image slot.Image
	known := sys != nil && held.agrees(sys.groups[s.cfg.Running])
	if known {
		image = held.Image
	} else if sys != nil && topics.CheckVersion("version", sys.running.holds.Version) == nil {
		image.Version = sys.running.holds.Version // by other hands
	}
	if s.cfg.Version != nil {
		// The system itself knows best: somebody may have flashed it by hand.
		if version := s.cfg.Version(); version != "" && version != image.Version {
			image = slot.Image{Version: version}
		}
	}
	return slot.Running{Slot: s.cfg.Running, Image: image, BootID: s.cfg.BootID, Addr: s.cfg.Addr, Up: known || !on, Trial: on}
}

// Output is the end of what RAUC has said about its installations.
func (s *Slots) Output() string { return s.output.String() }
