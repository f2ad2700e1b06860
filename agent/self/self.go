package self

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"groundswell/agent/slot"
	"groundswell/agent/update"
)

var (
	// ErrNotLaunched: this agent was not started by the launcher of its slots, so
	// nothing that it stages would ever run.
	ErrNotLaunched = errors.New("the agent was not started by its launcher")
	// ErrOnTrial: what runs is on trial, and beside it there is only the one to fall
	// back to.
	ErrOnTrial = errors.New("the agent on trial runs, no slot is idle")
)

// Config says how the agent is replaced. Dir, Tries and Restart are required.
type Config struct {
	Dir      string // of the slots, the same as the launcher's
	Launched Launched
	// Version is what this program says that it is. Empty: nothing, and what was
	// staged is believed.
	Version string
	// Tries is how often a new agent is started on trial before the old one is again.
	Tries int
	// Alive is how long an agent on trial may give no sign of life. 0: DefaultAlive.
	Alive time.Duration
	// Restart has the agent stop in an orderly way, by which the context of what was
	// called ends, and then Leave be called.
	Restart func()
	// At is called at named points: "launching", after the trial was armed. May be nil.
	At  func(point string)
	Log *slog.Logger // nil: silent
}

// Slots are the agent's own. They are safe for concurrent use.
type Slots struct {
	cfg   Config
	dir   *slot.Dir
	image slot.Image // what runs

	mu      sync.Mutex // guards what follows
	decided time.Duration
	trial   bool // what runs is on trial
}

// Open opens the slots of this agent. One that was launched for other slots, or not at
// all, can say what it is, and no more: see ErrNotLaunched.
func Open(cfg Config) (*Slots, error) {
	dir, err := slot.OpenDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.At == nil {
		cfg.At = func(string) {}
	}
	if cfg.Alive <= 0 {
		cfg.Alive = DefaultAlive
	}
	if cfg.Launched.Launcher != "" && !same(cfg.Launched.Dir, cfg.Dir) {
		cfg.Log.Error("the agent was launched from other slots than its own", "launcher", cfg.Launched.Dir, "own", cfg.Dir)
		cfg.Launched = Launched{}
	}
	if cfg.Launched.Launcher == "" {
		cfg.Launched = Launched{Boot: slot.NewBootID()}
	}
	dir.Booted(cfg.Launched.Slot)
	s := &Slots{cfg: cfg, dir: dir, decided: defaultDecided, trial: cfg.Launched.Trial}
	if cfg.Launched.Slot != "" {
		// It was verified a moment before it ran, and nothing writes to its slot.
		if s.image, err = dir.Image(cfg.Launched.Slot); err != nil {
			cfg.Log.Warn("what runs is not what its slot says any more", "slot", cfg.Launched.Slot, "err", err)
		}
	}
	if cfg.Version != "" && cfg.Version != s.image.Version {
		s.image = slot.Image{Version: cfg.Version} // it knows best
	}
	return s, nil
}

// same reports whether two paths are one directory.
func same(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

// Run returns when ctx ends: the agent runs by itself.
func (s *Slots) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Ready returns at once.
func (s *Slots) Ready(context.Context) error { return nil }

// Running is this agent.
func (s *Slots) Running() slot.Running {
	return slot.Running{Slot: s.cfg.Launched.Slot, Image: s.image, BootID: s.cfg.Launched.Boot, Up: true, Trial: s.OnTrial()}
}

// OnTrial reports whether this agent is on trial.
func (s *Slots) OnTrial() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trial
}

// maxOutput is how much is kept of what an agent on trial prints.
const maxOutput = 32 << 10

func outputFile(dir string) string { return filepath.Join(dir, "output") }

// Output is the end of what the newest agent on trial has printed. While that runs, it is
// what the one before it has printed, if any.
func (s *Slots) Output() string {
	file, err := os.Open(outputFile(s.cfg.Dir))
	if err != nil {
		return ""
	}
	defer file.Close()
	data, _ := io.ReadAll(io.LimitReader(file, maxOutput)) // what could be read
	return string(data)
}

// Staging is the file that an artifact is downloaded into. Parts of others are removed.
func (s *Slots) Staging(sha256 string) (path string, err error) { return s.dir.Staging(sha256) }

// Stage is slot.Dir's. Nothing is staged on trial: the slot that is not active is the one
// that runs.
func (s *Slots) Stage(image slot.Image) (name string, err error) {
	if s.OnTrial() {
		return "", fmt.Errorf("stage: %w", ErrOnTrial)
	}
	return s.dir.Stage(image)
}

// Discard is slot.Dir's.
func (s *Slots) Discard() error { return s.dir.Discard() }

// Trial says what became of the trial of a slot.
func (s *Slots) Trial(name string) update.Trial { return s.dir.Trial(name, s.cfg.Launched.Slot) }

// Armed reports whether there is a trial that was not ended.
func (s *Slots) Armed() bool { return s.dir.Armed() }

// Within says how long the next trial may take until its agent decides about itself. It
// gets twice that, and the time to start: the launcher ends only what does not decide.
func (s *Slots) Within(total time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decided = 2*total + 2*s.cfg.Alive
}

// Activate arms the trial, and has this agent make way for it. It returns only when that
// fails, or when ctx ends.
func (s *Slots) Activate(ctx context.Context) error {
	if s.cfg.Launched.Launcher == "" {
		return fmt.Errorf("activate: %w", ErrNotLaunched)
	}
	if s.OnTrial() {
		return fmt.Errorf("activate: %w", ErrOnTrial)
	}
	// A restart for something that will not be booted is one for nothing.
	if _, err := s.dir.Check(s.dir.Idle()); err != nil {
		return fmt.Errorf("activate: %w", err)
	}
	s.mu.Lock()
	w := watch{Alive: s.cfg.Alive.Milliseconds(), Decided: s.decided.Milliseconds()}
	s.mu.Unlock()
	if err := w.store(s.cfg.Dir); err != nil {
		return fmt.Errorf("activate: %w", err)
	}
	if err := s.dir.Arm(s.cfg.Tries); err != nil {
		return fmt.Errorf("activate: %w", err)
	}
	s.cfg.At("launching")
	return s.restart(ctx)
}

// restartTime is how long the agent may take to stop what it does.
const restartTime = 10 * time.Minute

// restart has the agent stop, and waits for it.
func (s *Slots) restart(ctx context.Context) error {
	s.cfg.Log.Info("the agent makes way for another")
	s.cfg.Restart()
	timer := time.NewTimer(restartTime)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return fmt.Errorf("restart: the agent still runs after %v", restartTime)
	}
}

// Confirm makes the agent on trial the one that is launched by itself. It may be
// repeated. slot.ErrGivenUp means that another one runs.
func (s *Slots) Confirm(_ context.Context, name string) error {
	if name == "" || name != s.cfg.Launched.Slot {
		return fmt.Errorf("confirm slot %q: %w: %q", name, slot.ErrGivenUp, s.cfg.Launched.Slot)
	}
	if err := packagedFile(s.cfg.Dir).Save([]byte(s.cfg.Launched.Packaged)); err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	if err := s.dir.Confirm(name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trial = false
	return nil
}

// FallBack ends the trial, and has this agent make way for the one before if it is the
// one on trial; then it returns only when that fails, or when ctx ends. It may be
// repeated. That the trial is over stays written until the one before runs, because the
// journal may not have it: on a full disk, for instance.
func (s *Slots) FallBack(ctx context.Context) error {
	if !s.OnTrial() {
		_, err := s.dir.FallBack()
		return err
	}
	err := s.dir.Exhaust()
	if err != nil {
		// It only removes files. Where not even that goes, the launcher cannot count
		// another try, and makes none.
		if _, errBack := s.dir.FallBack(); errBack != nil {
			err = errors.Join(err, errBack)
			s.cfg.Log.Error("the end of a trial cannot be written", "err", err)
		} else {
			err = nil
		}
	}
	return errors.Join(err, s.restart(ctx))
}

// Leave is the last thing that an agent does that makes way for another: what was
// launched on trial ends, and its launcher goes on; any other becomes the launcher again.
// It returns what is left to do: to end.
func (s *Slots) Leave() error {
	l := s.cfg.Launched
	if l.Trial {
		return nil
	}
	args := append([]string{l.Launcher, Command, l.Dir}, l.Args...)
	if err := syscall.Exec(l.Launcher, args, os.Environ()); err != nil {
		// Whoever starts the agent again starts the launcher.
		return fmt.Errorf("become the launcher %s: %w", l.Launcher, err)
	}
	return nil
}
