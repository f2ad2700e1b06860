package simulation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"groundswell/agent/clock"
	"groundswell/agent/condition"
	"groundswell/agent/deploy"
	"groundswell/agent/disk/simdisk"
	"groundswell/agent/health"
	"groundswell/agent/journal"
	"groundswell/agent/verify"
)

// device is one, with everything that a power cut does not change.
type device struct {
	run    *run
	disk   *simdisk.Disk
	random *rand.Rand

	boots    int
	bootID   string
	slot     string // that runs; "" between two boots
	runs     int    // number of its version
	bootedAt time.Time
	skew     time.Duration // of its clock
	reset    bool          // the machine is about to boot
	powered  bool          // false: by a power cut
	alive    *session      // of the agent that runs, if any
	records  *journal.Journal
	share    int // of what was not synced that a power cut leaves, in percent; -1: as chance will have it
}

func newDevice(r *run, random *rand.Rand) *device {
	d := &device{run: r, disk: simdisk.New(), random: random, powered: true, share: -1}
	d.disk.Put(pathData+"/.keep", nil)
	return d
}

// live is the device from its first boot to the end of ctx.
func (d *device) live(ctx context.Context) {
	for ctx.Err() == nil && d.run.failed == nil {
		d.boot()
		if d.slot == "" { // cut off while it booted
			continue
		}
		d.system(ctx)
		d.slot = ""
		if d.run.sleep(ctx, 20*time.Second+d.jitter(10*time.Second)) != nil {
			return
		}
	}
}

func (d *device) jitter(limit time.Duration) time.Duration {
	return time.Duration(d.random.Int64N(int64(limit) + 1))
}

// restarts makes the disk work again after a cut, or a reset.
func (d *device) restarts() {
	power := !d.powered
	d.powered, d.reset = true, false
	share := d.share
	if share < 0 {
		share = []int{0, 50, 90, 100}[d.random.IntN(4)]
	}
	d.disk.Restart(power, func() bool { return d.random.IntN(100) < share })
}

// boot is from the reset to the first process.
func (d *device) boot() {
	d.restarts()
	d.boots++
	d.bootID, d.bootedAt = fmt.Sprint("boot-", d.boots), time.Now()
	d.run.kind.boot(d)
}

func (d *device) read(path string) []byte {
	file, err := d.disk.OpenFile(path, 0, 0)
	if err != nil {
		return nil
	}
	data := make([]byte, partition)
	n, _ := file.ReadAt(data, 0) // what is there
	return data[:n]
}

// execute is the moment at which nothing may be wrong any more.
func (d *device) execute(slot string, data []byte) {
	for n, image := range d.run.catalogue.images {
		if len(data) >= len(image) && bytes.Equal(data[:len(image)], image) {
			d.slot, d.runs = slot, n
			d.run.event("boot %s %s", slot, version(n))
			return
		}
	}
	sum := sha256.Sum256(data)
	d.run.fail("slot %s is executed, and holds nothing that was signed: %.60q %s", slot, data, hex.EncodeToString(sum[:4]))
}

// cut is a power cut, a reset by the watchdog, or a panic.
func (d *device) cut() {
	d.reset, d.powered = true, false
	d.disk.PowerOff()
}

// system is the running system, until it is reset.
func (d *device) system(ctx context.Context) {
	kind := d.run.natures[d.runs]
	switch {
	case kind == panics, kind == flaky && d.random.IntN(2) == 0:
		_ = d.run.sleep(ctx, 10*time.Second) // panic=10
		d.powered = false
		return
	case kind == hangs:
		_ = d.run.sleep(ctx, 2*time.Minute)
		d.powered = false
		return
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	if kind == crashes {
		done := make(chan struct{})
		defer func() { end(); <-done }()
		after := 5*time.Second + d.jitter(40*time.Second)
		go func() {
			defer close(done)
			if d.run.sleep(ctx, after) == nil {
				d.cut()
			}
		}()
	}
	for ctx.Err() == nil && !d.reset && d.run.failed == nil {
		err := d.agent(ctx)
		if d.reset || ctx.Err() != nil {
			return
		}
		if err != nil {
			d.run.event("agent: %v", err)
		}
		// Killed, or it gave up for a while: it is started again.
		d.restarts()
		if d.run.sleep(ctx, time.Second+d.jitter(10*time.Second)) != nil {
			return
		}
	}
}

// agent is one process of the agent.
func (d *device) agent(ctx context.Context) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	d.disk.Cut = end
	log := slog.New(slog.DiscardHandler)
	booted := d.bootedAt
	clk := clock.NewFrom(epoch, func() time.Time { return time.Now().Add(d.skew) }, func() time.Duration { return time.Since(booted) })
	verifier, err := verify.OpenOn(d.disk, pathData, domain, deviceID, d.run.catalogue.roots, clk, epoch, source{d.run}, log)
	if err != nil {
		return err
	}
	records, err := journal.OpenOn(d.disk, pathData, clk.Floor(), log)
	if err != nil {
		return err
	}
	slots, runSlots, err := d.run.kind.open(ctx, d, end)
	if err != nil {
		return err
	}
	s := newSession(d, verifier, records, clk)
	shared := deploy.NewDevice(s, condition.Config{})
	driver := deploy.New(deploy.Config{
		Component: component, Device: deviceID, Model: model, Hardware: "r1",
		Health: health.Config{
			Checks: []health.Check{{Broker: true, Offline: 4 * time.Minute}}, Interval: 5 * time.Second, Settle: time.Minute, Total: 10 * time.Minute,
		},
		RetryMin: time.Minute, RetryMax: time.Hour, PenaltyMin: time.Hour, PenaltyMax: 7 * 24 * time.Hour, Jitter: d.jitter,
		At: func(point string) { d.at(point, records) },
	}, shared, slots, verifier, s, records, clk, log)
	d.alive, d.records = s, records
	var beside sync.WaitGroup
	beside.Go(func() { _ = runSlots(ctx) })   // ends with ctx
	beside.Go(func() { _ = shared.Run(ctx) }) // never an error
	beside.Go(func() { s.serve(ctx) })
	err = driver.Run(ctx)
	end()
	beside.Wait()
	d.alive = nil
	return err
}

// at sees each state, and may kill there.
func (d *device) at(point string, records *journal.Journal) {
	dep := records.Snapshot().Deployments[component]
	d.run.event("at %s %s %d", point, dep.Entry.Rollout, dep.Attempt)
	if kind := d.run.natures[d.runs]; point == "confirmed" && !kind.may() {
		d.run.fail("%s was confirmed, which %s", version(d.runs), kind)
	}
	if d.run.faults.killAt(point) {
		d.run.event("killed at %s", point)
		d.disk.PowerOff()
	}
}
