package simulation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"groundswell/agent/boot"
	"groundswell/agent/deploy"
	"groundswell/agent/machine"
	"groundswell/agent/slot"
)

// kind is what is updated, and how it boots.
type kind interface {
	// factory puts the first version where it boots.
	factory(d *device)
	// boot does what comes before any agent. d.slot is empty after a power cut meanwhile.
	boot(d *device)
	// open opens the slots for an agent; run is to run beside it until ctx ends.
	open(ctx context.Context, d *device, end func()) (slots deploy.Slots, run func(context.Context) error, err error)
	// rest is nil when nothing is left of a trial.
	rest(ctx context.Context, d *device) error
	// natures are those that versions may have.
	natures() []nature
}

const (
	pathA, pathB = "/dev/a", "/dev/b"
	pathEnv      = "/boot/grubenv"
	pathData     = "/data"
	pathSlots    = "/data/slots"
)

// whole is the whole system, behind GRUB.
type whole struct{}

func (whole) natures() []nature {
	return []nature{good, panics, hangs, crashes, deaf, another, flaky}
}

func chain(d *device) boot.GRUB { return boot.GRUB{Path: pathEnv, On: d.disk} }

func (whole) factory(d *device) {
	d.disk.Put(pathA, append(bytes.Clone(d.run.catalogue.images[0]), make([]byte, partition)...)[:partition])
	d.disk.Put(pathB, make([]byte, partition))
	env := []byte("# GRUB Environment Block\n")
	d.disk.Put(pathEnv, append(env, bytes.Repeat([]byte("#"), 1024-len(env))...))
}

func partitionOf(slot string) string {
	if slot == "a" {
		return pathA
	}
	return pathB
}

// boot is the model of boot.ScriptGRUB.
func (whole) boot(d *device) {
	s, err := chain(d).Load(context.Background())
	if err != nil {
		d.run.fail("the bootloader cannot read its environment: %v", err)
		return
	}
	first := choose(&s, func(s boot.State) error { return chain(d).Store(context.Background(), s) })
	if d.disk.Off() {
		return // a power cut in the middle of this
	}
	for _, name := range []string{first, boot.Other(first)} {
		data := d.read(partitionOf(name))
		if !bytes.HasPrefix(data, []byte(magic)) {
			continue
		}
		d.execute(name, data)
		if d.slot != "" && name != s.Trial && !d.run.natures[d.runs].may() {
			d.run.brick("%s boots by itself, which %s: %+v", version(d.runs), d.run.natures[d.runs], s)
		}
		return
	}
	d.run.brick("neither slot can be loaded: %+v", s)
}

// choose is which slot boots first, counted before by store if it is on trial.
func choose(s *boot.State, store func(boot.State) error) string {
	if s.Trial == "" || s.Tries == 0 {
		return s.Active
	}
	counted := *s
	counted.Tries--
	if store(counted) != nil {
		return s.Active
	}
	*s = counted
	return s.Trial
}

func (whole) open(ctx context.Context, d *device, end func()) (deploy.Slots, func(context.Context) error, error) {
	m, err := machine.Open(ctx, machine.Config{
		Disk: d.disk, Partitions: map[string]string{"a": pathA, "b": pathB}, Dir: pathData, Chain: chain(d), Chunk: 2 << 10,
		Running: d.slot, BootID: d.bootID, Tries: 3,
		Version: func() string {
			if d.run.natures[d.runs] == another {
				return "9.9.9"
			}
			return version(d.runs)
		},
		Restart: func(context.Context) error {
			d.reset = true
			d.powered = d.random.IntN(2) == 0 // or everything is synced first
			end()
			return nil
		},
	})
	if err != nil {
		return nil, nil, err
	}
	if err := m.Adopt(ctx); err != nil {
		d.run.event("adopt: %v", err)
	}
	return m, m.Run, nil
}

func (whole) rest(ctx context.Context, d *device) error {
	s, err := chain(d).Load(ctx)
	if err == nil && s != (boot.State{Active: d.slot, Boot: s.Boot}) {
		err = fmt.Errorf("in slot %s the bootloader's memory is %+v", d.slot, s)
	}
	return err
}

// supervised is a process that the agent keeps running.
type supervised struct{}

func (supervised) natures() []nature { return []nature{good, panics, crashes, deaf, flaky} }

func (supervised) factory(d *device) {
	d.disk.Put("/factory/artifact", d.run.catalogue.images[0])
	dir, err := slot.OpenDirOn(d.disk, pathSlots)
	if err == nil {
		err = dir.Provision("/factory/artifact", version(0))
	}
	if err != nil {
		d.run.fail("factory: %v", err)
	}
	d.disk.Settle()
}

func (supervised) boot(d *device) { d.slot, d.runs = "system", 0 }

func (supervised) open(_ context.Context, d *device, _ func()) (deploy.Slots, func(context.Context) error, error) {
	dir, err := slot.OpenDirOn(d.disk, pathSlots)
	if err != nil {
		return nil, nil, err
	}
	s := slot.New(dir, slot.Config{
		Addr: "camera", Tries: 3, BackoffMin: time.Second, BackoffMax: time.Minute,
		Launcher: launcher{d}, Jitter: d.jitter, Log: slog.New(slog.DiscardHandler),
	})
	return s, s.Run, nil
}

func (supervised) rest(_ context.Context, d *device) error {
	dir, err := slot.OpenDirOn(d.disk, pathSlots)
	if err != nil {
		return err
	}
	_, image, err := dir.Active()
	switch {
	case err != nil:
		return err
	case dir.Armed():
		return errors.New("something is on trial still")
	case image.Version != version(d.runs) || !image.Good:
		return fmt.Errorf("%s runs, and %+v is the one to boot", version(d.runs), image)
	}
	return nil
}

// launcher launches what behaves as versions do.
type launcher struct{ device *device }

func (launcher) Clear() error { return nil }

func (l launcher) Launch(of slot.Launch) (slot.Launched, error) {
	d := l.device
	data := d.read(of.Path)
	if d.disk.Off() {
		return nil, errors.New("killed")
	}
	if len(data) > 0 {
		d.execute(of.Slot, data)
	}
	if version(d.runs) != of.Image.Version {
		d.run.fail("%s is launched as %s", version(d.runs), of.Image.Version)
	}
	p := &launched{device: d, done: make(chan struct{})}
	life := time.Duration(-1)
	switch d.run.natures[d.runs] {
	case panics:
		life = 0
	case flaky:
		if d.random.IntN(2) == 0 {
			life = time.Second
		}
	case crashes:
		life = 5*time.Second + d.jitter(40*time.Second)
	}
	if life >= 0 {
		p.timer = time.AfterFunc(life+time.Duration(d.run.ticks.Add(1)), p.end)
	}
	return p, nil
}

// launched is a process.
type launched struct {
	device *device
	timer  *time.Timer
	once   sync.Once
	done   chan struct{}
}

func (p *launched) end() { p.once.Do(func() { close(p.done) }) }

func (p *launched) Done() <-chan struct{} { return p.done }
func (p *launched) Status() string        { return "exit status 2" }
func (p *launched) Stop(time.Duration) {
	if p.timer != nil {
		p.timer.Stop()
	}
	p.end()
}
