package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"groundswell/agent/boot"
	"groundswell/agent/disk"
	"groundswell/agent/journal"
	"groundswell/agent/slot"
)

// ErrOnTrial: the version on trial runs, and beside it there is only the one to fall
// back to: nothing can be written.
var ErrOnTrial = errors.New("the version on trial runs, no slot is idle")

// Config says what the machine is made of. All but Version, Addr and Log is required.
type Config struct {
	// Partitions are devices, or files, by slot: "a" and "b".
	Partitions map[string]string
	// Dir is on neither of them, and is mounted by both systems.
	Dir string
	// Disk is where partitions and Dir are; nil: the machine's own file system.
	Disk disk.FS
	// Chain is the bootloader's memory.
	Chain boot.Chain
	// Running is the slot that runs, and BootID differs from boot to boot.
	Running, BootID string
	// Version is what the running system says that it is; nil, or "": nothing, and
	// what was written there is believed.
	Version func() string
	// Addr is where the system answers for its health; may be empty.
	Addr string
	// Tries is how often a new version is booted on trial, at most boot.MaxTries.
	Tries int
	// Restart boots the machine. It may return before that happens.
	Restart func(ctx context.Context) error
	// Chunk is how many bytes are copied at a time, and how many of the first are written
	// last. 0: 1 MiB, in which every file system has its superblock, and every disk its
	// boot sector.
	Chunk int64
	Log   *slog.Logger
}

// Machine is the two slots. It is safe for concurrent use.
type Machine struct {
	cfg Config

	busy  sync.Mutex // held, for long perhaps, while the disk is worked on
	files map[string]*journal.File
	told  bool // what the bootloader's environment says was made durable by this process

	mu     sync.Mutex // guards what follows; held for a moment only
	images map[string]slot.Image
	trial  bool // what runs was booted on trial
	judged bool // trial is by what the bootloader's environment says
}

// Open reads what is in the slots. It changes nothing.
func Open(ctx context.Context, cfg Config) (*Machine, error) {
	if cfg.Running != "a" && cfg.Running != "b" {
		return nil, fmt.Errorf("the kernel's command line does not say which slot runs: groundswell.slot is %q, not a or b", cfg.Running)
	}
	if cfg.Tries < 1 || cfg.Tries > boot.MaxTries {
		return nil, fmt.Errorf("tries: must be from 1 to %d", boot.MaxTries)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Disk == nil {
		cfg.Disk = disk.OS
	}
	if cfg.Chunk == 0 {
		cfg.Chunk = 1 << 20
	}
	m := &Machine{cfg: cfg, images: map[string]slot.Image{}, files: map[string]*journal.File{}}
	for name, path := range cfg.Partitions {
		if _, err := cfg.Disk.Stat(path); err != nil {
			cfg.Log.Error("a slot is not there, nothing can be written to it", "slot", name, "err", err)
		}
		m.files[name] = journal.NewFileOn(cfg.Disk, filepath.Join(cfg.Dir, name+".json"))
		m.load(name)
	}
	s, err := cfg.Chain.Load(ctx)
	if err != nil {
		// What runs is managed all the same; that nothing can be activated is said when
		// it is tried. Until the environment can be read, what was never confirmed is
		// taken to be on trial: it is to be proven in any case.
		cfg.Log.Error("the bootloader's environment cannot be read", "err", err)
		m.trial = m.unproven()
		return m, nil
	}
	m.judge(s)
	return m, nil
}

// judge finds out whether what runs is on trial, by the first state that could be read of
// the bootloader's environment.
func (m *Machine) judge(s boot.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.judged {
		return
	}
	m.judged = true
	switch m.cfg.Running {
	case s.Active:
		m.trial = false
	case s.Trial:
		// Over, and in another boot: the machine was to boot the active slot, and could
		// not. Over in this one: it still has to restart.
		m.trial = !s.Over || s.Boot == m.boot()
	default:
		// The environment was lost, or the active slot could not be booted. What was
		// staged and never confirmed is still to be proven.
		m.trial = m.unproven()
	}
}

// unproven is whether what runs was staged and never confirmed.
func (m *Machine) unproven() bool {
	image := m.images[m.cfg.Running]
	return image.Length > 0 && !image.Good
}

// boot is what the bootloader's environment says of this boot.
func (m *Machine) boot() string {
	sum := sha256.Sum256([]byte(m.cfg.BootID))
	return hex.EncodeToString(sum[:4])
}

// Adopt makes what runs the slot that boots by itself, if it is neither that nor on
// trial: then the bootloader could not load the active one. The other one is what will
// be written next.
func (m *Machine) Adopt(ctx context.Context) error {
	m.busy.Lock()
	defer m.busy.Unlock()
	s, err := m.cfg.Chain.Load(ctx)
	if err == nil {
		m.judge(s)
	}
	switch trial := m.onTrial(); {
	case err != nil || m.cfg.Running == s.Active:
	case trial && s.Trial == "":
		m.cfg.Log.Warn("the bootloader does not know of this trial", "active", s.Active, "runs", m.cfg.Running)
		err = m.tell(ctx, s, boot.State{Active: s.Active, Trial: m.cfg.Running})
	case !trial:
		m.cfg.Log.Error("the active slot could not be booted, the other one runs and takes its place", "active", s.Active, "runs", m.cfg.Running)
		err = m.tell(ctx, s, boot.State{Active: m.cfg.Running})
	}
	if err != nil {
		return fmt.Errorf("adopt slot %s: %w", m.cfg.Running, err)
	}
	return nil
}

// tell has the bootloader's environment say next, where it says s now. That it says so
// already is not enough: the process that wrote it may have been killed, or have failed,
// before it was on the disk. Caller holds busy.
func (m *Machine) tell(ctx context.Context, s, next boot.State) error {
	if m.told && s == next {
		return nil
	}
	err := m.cfg.Chain.Store(ctx, next)
	m.told = err == nil
	return err
}

// load reads what is written down of a slot. What cannot be read is as if the slot
// were empty: it is never booted by itself, and is written anew when it is needed.
func (m *Machine) load(name string) {
	body, _, err := m.files[name].Load()
	var image slot.Image
	if err == nil {
		err = json.Unmarshal(body, &image)
	}
	if err == nil {
		m.images[name] = image
	} else if !errors.Is(err, os.ErrNotExist) {
		m.cfg.Log.Warn("what a slot holds is not known", "slot", name, "err", err)
	}
}

// note writes down what a slot holds; a zero image: nothing that is known.
func (m *Machine) note(name string, image slot.Image) error {
	body, err := json.Marshal(image)
	if err != nil {
		return err
	}
	if err := m.files[name].Save(body); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.images[name] = image
	return nil
}

// held is what is written down of a slot.
func (m *Machine) held(name string) slot.Image {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.images[name]
}

// Run returns when ctx ends: the system runs by itself.
func (m *Machine) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Ready returns at once: what runs has booted.
func (m *Machine) Ready(context.Context) error { return nil }

// Running is what runs.
func (m *Machine) Running() slot.Running {
	m.mu.Lock()
	image, trial := m.images[m.cfg.Running], m.trial
	m.mu.Unlock()
	if m.cfg.Version != nil {
		// The system itself knows best: somebody may have flashed it by hand.
		if version := m.cfg.Version(); version != "" && version != image.Version {
			image = slot.Image{Version: version}
		}
	}
	return slot.Running{Slot: m.cfg.Running, Image: image, BootID: m.cfg.BootID, Addr: m.cfg.Addr, Up: true, Trial: trial}
}

// Output is empty: the system keeps its logs by itself, and what its agent has logged is
// reported by that, before it has the machine restarted.
func (m *Machine) Output() string { return "" }

func (m *Machine) downloads() slot.Downloads { return slot.Downloads{On: m.cfg.Disk, Dir: m.cfg.Dir} }

// Staging is the file that an artifact is downloaded into. Parts of others are
// removed.
func (m *Machine) Staging(sha256 string) (path string, err error) {
	m.busy.Lock()
	defer m.busy.Unlock()
	path = m.downloads().Path(sha256)
	return path, m.downloads().Discard(path)
}

// Discard removes what was downloaded. What is in the idle slot stays, and never boots
// without a trial.
func (m *Machine) Discard() error {
	m.busy.Lock()
	defer m.busy.Unlock()
	return m.downloads().Discard("")
}

// Stage writes what was downloaded into the idle slot, reads it back, and returns the
// slot. It may be repeated, and finds what was staged before. slot.ErrNotStaged means
// that the bytes are not there, or no longer whole.
func (m *Machine) Stage(image slot.Image) (name string, err error) {
	m.busy.Lock()
	defer m.busy.Unlock()
	ctx := context.Background()
	s, err := m.cfg.Chain.Load(ctx)
	if err != nil {
		return "", fmt.Errorf("stage: %w", err)
	}
	if m.cfg.Running != s.Active {
		return "", fmt.Errorf("stage: %w", ErrOnTrial)
	}
	name, image.Good = boot.Other(s.Active), false
	// Whatever was on trial in this slot gives way: a trial is of one image.
	if err := m.tell(ctx, s, boot.State{Active: s.Active}); err != nil {
		return "", fmt.Errorf("stage: %w", err)
	}
	partition, staging := m.cfg.Partitions[name], m.downloads().Path(image.SHA256)
	held := m.held(name)
	held.Version, held.Release, held.Good = image.Version, image.Release, false
	if held == image && slot.VerifyBeginning(m.cfg.Disk, partition, image) == nil {
		return name, m.note(name, image)
	}
	if err := m.downloads().Check(image); err != nil {
		return "", err
	}
	if err := m.note(name, slot.Image{}); err != nil {
		return "", fmt.Errorf("stage: %w", err)
	}
	if err := write(m.cfg.Disk, partition, staging, image.Length, m.cfg.Chunk); err != nil {
		return "", fmt.Errorf("stage: slot %s: %w", name, err)
	}
	if err := slot.VerifyBeginning(m.cfg.Disk, partition, image); err != nil {
		return "", fmt.Errorf("stage: slot %s does not keep what is written to it: %w", name, err)
	}
	if err := m.note(name, image); err != nil {
		return "", fmt.Errorf("stage: %w", err)
	}
	return name, m.downloads().Discard("")
}
