package slot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"groundswell/agent/telemetry"
	"groundswell/agent/update"
	"groundswell/internal/backoff"
)

// Config says how the component is run. Zero durations mean the defaults.
type Config struct {
	Args []string
	// Env is added to PATH, FIRMWARE_ADDR, FIRMWARE_BOOT_ID, FIRMWARE_SLOT,
	// FIRMWARE_VERSION and GROUNDSWELL_SLOTS, which is all that it gets. By the
	// last of them its children are known.
	Env map[string]string
	// Addr is where it is to listen; with port 0 a free one is chosen for each
	// launch. It gets it as FIRMWARE_ADDR.
	Addr string
	// Tries is how often a new version is launched on trial before the old one
	// is booted again. Default 3.
	Tries int
	// Grace is how long it may take to end after SIGTERM. Default 5 s.
	Grace time.Duration
	// BackoffMin and BackoffMax bound the pause before a launch after it ended
	// by itself. Default 0.5 s to 30 s.
	BackoffMin, BackoffMax time.Duration
	Log                    *slog.Logger
	// Launcher launches it. Nil: as a process of this machine.
	Launcher Launcher
	// Jitter draws a pause from [0, limit]. Nil: at random.
	Jitter func(limit time.Duration) time.Duration
}

// Launch is what is launched, and how.
type Launch struct {
	Slot         string
	Path         string // of the executable
	Image        Image
	BootID, Addr string
}

// Launcher launches what is in the slots, one launch at a time.
type Launcher interface {
	Launch(l Launch) (Launched, error)
	// Clear ends what is left of earlier launches; nil means that nothing is.
	Clear() error
}

// Launched is one launch.
type Launched interface {
	// Done is closed when it has ended, with what Status says.
	Done() <-chan struct{}
	Status() string
	// Stop asks it to end, and insists after grace. It has ended when Stop returns.
	Stop(grace time.Duration)
}

// Running is what runs now. It is zero while no slot holds anything that may.
type Running struct {
	Slot   string
	Image  Image
	BootID string // of the newest launch
	Addr   string
	Up     bool // false between a crash and the next launch
	Busy   bool // it is still being installed: it cannot be up yet
	Trial  bool
}

// Supervised runs one of two slots. Run must be running for anything but
// Running, Staging, Stage and Discard to have an effect.
type Supervised struct {
	dir    *Dir
	cfg    Config
	output *telemetry.Tail
	wake   chan struct{} // a launch was asked for

	mu      sync.Mutex // guards what follows
	running Running
	asked   int           // launches asked for
	tried   int           // the highest of them that was served
	served  chan struct{} // closed and replaced when tried grows
}

// New does no I/O.
func New(dir *Dir, cfg Config) *Supervised {
	or := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	or(&cfg.Grace, 5*time.Second)
	or(&cfg.BackoffMin, 500*time.Millisecond)
	or(&cfg.BackoffMax, 30*time.Second)
	if cfg.Tries <= 0 {
		cfg.Tries = 3
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Jitter == nil {
		cfg.Jitter = backoff.Jitter
	}
	output := telemetry.NewTail(32 << 10)
	if cfg.Launcher == nil {
		cfg.Launcher = &processes{dir: dir, cfg: cfg, output: output}
	}
	// The first launch counts as asked for: Ready waits for it.
	return &Supervised{dir: dir, cfg: cfg, output: output, wake: make(chan struct{}, 1), asked: 1, served: make(chan struct{})}
}

// Run keeps the component running until ctx ends, and stops it then.
func (s *Supervised) Run(ctx context.Context) error {
	for crashes := 0; ctx.Err() == nil; {
		p, err := s.bootOnce()
		if err != nil {
			s.cfg.Log.Error("component cannot be launched", "err", err)
			crashes++
			s.pause(ctx, crashes)
			continue
		}
		began := time.Now()
		select {
		case <-p.Done():
			s.down()
			s.cfg.Log.Warn("component ended by itself", "status", p.Status())
			if crashes++; time.Since(began) > 2*s.cfg.BackoffMax {
				crashes = 1
			}
			s.pause(ctx, crashes)
		case <-s.wake:
			p.Stop(s.cfg.Grace)
			s.down()
			crashes = 0
		case <-ctx.Done():
			p.Stop(s.cfg.Grace)
			s.down()
		}
	}
	if err := s.cfg.Launcher.Clear(); err != nil {
		s.cfg.Log.Error("something of the component outlives its end", "err", err)
	}
	return nil
}

// bootOnce launches what is to boot now.
func (s *Supervised) bootOnce() (Launched, error) {
	s.mu.Lock()
	serving := s.asked
	select {
	case <-s.wake: // whatever was asked for until now is served by this launch
	default:
	}
	s.mu.Unlock()
	remains := s.cfg.Launcher.Clear()
	slot, image, onTrial, err := s.dir.Boot()
	if remains != nil {
		s.cfg.Log.Error("something of the component outlives its end", "err", remains)
		// It might answer for a version that is to be proven; who needs no proof is
		// better launched than not.
		if onTrial && err == nil {
			err = remains
		}
	}
	running := Running{Slot: slot, Image: image, BootID: NewBootID(), Trial: onTrial}
	var p Launched
	if err == nil {
		if running.Addr, err = resolve(s.cfg.Addr); err == nil {
			p, err = s.cfg.Launcher.Launch(Launch{slot, s.dir.file(slot, "artifact"), image, running.BootID, running.Addr})
		}
	}
	running.Up = err == nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot != "" {
		s.running = running
	} else {
		s.running = Running{}
	}
	s.tried = serving
	close(s.served)
	s.served = make(chan struct{})
	if err == nil {
		s.cfg.Log.Info("component launched", "slot", slot, "version", image.Version, "trial", onTrial, "boot", running.BootID)
	}
	return p, err
}

func (s *Supervised) down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running.Up = false
}

// pause waits before the next launch, or until one is asked for.
func (s *Supervised) pause(ctx context.Context, crashes int) {
	limit := backoff.Range{Min: s.cfg.BackoffMin, Max: s.cfg.BackoffMax}.Limit(crashes)
	timer := time.NewTimer(limit/2 + s.cfg.Jitter(limit/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-s.wake:
	case <-timer.C:
	}
}

// ask numbers a wish for a launch and makes Run serve it.
func (s *Supervised) ask() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	select {
	case s.wake <- struct{}{}:
	default: // one is on its way, and serves this as well
	}
	return s.asked
}

// await waits until launch n was tried.
func (s *Supervised) await(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		done, served := s.tried >= n, s.served
		s.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-served:
		}
	}
}

// Ready waits until the first launch was tried.
func (s *Supervised) Ready(ctx context.Context) error { return s.await(ctx, 1) }

// Running is what runs now, or ran last.
func (s *Supervised) Running() Running {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// Output is the end of what the component has printed.
func (s *Supervised) Output() string { return s.output.String() }

// Staging is Dir.Staging.
func (s *Supervised) Staging(sha256 string) (path string, err error) { return s.dir.Staging(sha256) }

// Stage is Dir.Stage.
func (s *Supervised) Stage(image Image) (slot string, err error) { return s.dir.Stage(image) }

// Discard is Dir.Discard.
func (s *Supervised) Discard() error { return s.dir.Discard() }

// Trial says what became of the trial of a slot.
func (s *Supervised) Trial(slot string) update.Trial {
	return s.dir.Trial(slot, s.Running().Slot)
}

// Activate arms the fallback and boots the idle slot on trial. nil means that
// the launch was tried, not that it went well.
func (s *Supervised) Activate(ctx context.Context) error {
	if err := s.dir.Arm(s.cfg.Tries); err != nil {
		return err
	}
	return s.await(ctx, s.ask())
}

// Confirm makes the slot that is on trial the one that boots by itself. It may
// be repeated. ErrGivenUp means that another was booted since.
func (s *Supervised) Confirm(_ context.Context, slot string) error {
	if running := s.Running().Slot; running != slot {
		return fmt.Errorf("confirm slot %s: %w: %s", slot, ErrGivenUp, running)
	}
	return s.dir.Confirm(slot)
}

// FallBack ends the trial, makes sure that its slot never boots again without
// another, and waits until the launch of the active one was tried: nil does not
// mean that it went well. It may be repeated. On a disk that takes no writes it
// boots the active one nevertheless, if that is whole, and is an error.
func (s *Supervised) FallBack(ctx context.Context) error { return s.back(ctx, s.dir.FallBack) }

// PutBack is FallBack for when nothing else could tell yet that there was a trial: Trial
// and Armed go on saying so, also after a restart, until FallBack.
func (s *Supervised) PutBack(ctx context.Context) error { return s.back(ctx, s.dir.putBack) }

func (s *Supervised) back(ctx context.Context, end func() (over bool, err error)) error {
	over, err := end()
	if !over {
		return err
	}
	// What the active slot holds is for booting to judge.
	if active, _, _ := s.dir.Active(); s.Running().Slot == active {
		return err
	}
	return errors.Join(err, s.await(ctx, s.ask()))
}

// Revert takes back a Confirm: what ran before runs again, and the slot never boots
// without another trial. It may be repeated. ErrNoFallback means that what ran before is
// not there any more. Not after Stage.
func (s *Supervised) Revert(ctx context.Context, slot string) error {
	if err := s.dir.revert(slot); err != nil {
		return err
	}
	if s.Running().Slot != slot {
		return nil
	}
	return s.await(ctx, s.ask())
}

// Final: Confirm can be taken back.
func (s *Supervised) Final() bool { return false }

// Armed reports whether there is a trial that was not ended.
func (s *Supervised) Armed() bool { return s.dir.Armed() }
