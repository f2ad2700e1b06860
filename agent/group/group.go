package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"groundswell/agent/deploy"
	"groundswell/agent/disk"
	"groundswell/agent/journal"
	"groundswell/agent/slot"

	"golang.org/x/sync/errgroup"
)

// Slots are what the slots of a member have to be.
type Slots interface {
	deploy.Slots
	Run(ctx context.Context) error
	// Revert takes back the Confirm of a slot: what ran before runs again, and the slot
	// never boots without another trial. It may be repeated. slot.ErrNoFallback means
	// that what ran before is not there any more. It is not called after Stage.
	Revert(ctx context.Context, slot string) error
	// Final reports whether Confirm cannot be taken back.
	Final() bool
}

// Member is one component of a group.
type Member struct {
	Name  string // as in packs
	Slots Slots
}

// Config says what a group consists of. All but Version, At and Log is required.
type Config struct {
	// Members in the order in which they are activated. One that restarts the machine is
	// the last.
	Members []Member
	// Dir is the group's own.
	Dir string
	// Version is what runs on a device that nobody has updated yet; may be empty.
	Version string
	// At is called before and after each step that changes something, with its name.
	// Tests kill there. May be nil.
	At  func(point string)
	Log *slog.Logger
}

// Group is its members' slots. Run must be running.
type Group struct {
	cfg  Config
	file *journal.File

	busy  atomic.Bool // the members are being activated
	steps sync.Mutex  // held, for long perhaps, while members or files are changed

	mu    sync.Mutex // guards what follows; held for a moment only
	state state
}

// Open reads what is there. It changes nothing.
func Open(cfg Config) (*Group, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.At == nil {
		cfg.At = func(string) {}
	}
	if len(cfg.Members) == 0 {
		return nil, errors.New("group: it has no members")
	}
	final := ""
	for _, m := range cfg.Members {
		if m.Slots.Final() {
			if final != "" {
				return nil, fmt.Errorf("group: neither %s nor %s can be taken back once it is confirmed; only one member may be like that", final, m.Name)
			}
			final = m.Name
		}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("group: %w", err)
	}
	g := &Group{cfg: cfg, file: journal.NewFile(filepath.Join(cfg.Dir, fileName))}
	g.load()
	return g, nil
}

// Run keeps the members running until ctx ends.
func (g *Group) Run(ctx context.Context) error {
	all, ctx := errgroup.WithContext(ctx)
	for _, m := range g.cfg.Members {
		all.Go(func() error { return m.Slots.Run(ctx) })
	}
	return all.Wait()
}

// Ready waits until all members are.
func (g *Group) Ready(ctx context.Context) error {
	for _, m := range g.cfg.Members {
		if err := m.Slots.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// member is one by its name; nil if there is none.
func (g *Group) member(name string) *Member {
	for i, m := range g.cfg.Members {
		if m.Name == name {
			return &g.cfg.Members[i]
		}
	}
	return nil
}

// step does one step to a member.
func (g *Group) step(what string, m *Member, do func() error) error {
	g.cfg.At("before " + what + " " + m.Name)
	if err := do(); err != nil {
		return fmt.Errorf("%s %s: %w", what, m.Name, err)
	}
	g.cfg.At("after " + what + " " + m.Name)
	return nil
}

func (g *Group) downloads() slot.Downloads { return slot.Downloads{On: disk.OS, Dir: g.cfg.Dir} }
