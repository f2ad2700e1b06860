package simulation

import (
	"context"
	"math/rand/v2"
	"syscall"
	"time"

	"groundswell/agent/disk/simdisk"
	"groundswell/agent/update"
)

// faults is what goes wrong. After the rest nothing does.
type faults struct {
	run    *run
	random *rand.Rand
	// left is how many more there may be in this update.
	left int
	// oneIn is how rare they are, at each change of the disk.
	oneIn int

	// script, if set, decides about each change of the disk instead of chance.
	script func(simdisk.Change) simdisk.Verdict
	point  string // to kill at, once; "" for none

	diskError error // of each change until then
	diskUntil time.Time
	netUntil  time.Time
	srvUntil  time.Time
}

// spend uses up one, if there is one left.
func (f *faults) spend(what string, args ...any) bool {
	if f.left <= 0 {
		return false
	}
	f.left--
	f.run.count(what)
	f.run.event("fault: "+what, args...)
	return true
}

// ask decides about a change of the disk.
func (f *faults) ask(c simdisk.Change) simdisk.Verdict {
	f.run.event("%s %s", c.Op, c.Path)
	if f.script != nil {
		v := f.script(c)
		if v.CutBefore || v.CutAfter {
			f.run.event("cut off")
		}
		return v
	}
	if time.Now().Before(f.diskUntil) {
		switch c.Op {
		case "remove", "rename", "sync", "sync-dir":
			if f.diskError == syscall.ENOSPC { // which these do not need
				return simdisk.Verdict{}
			}
		}
		return simdisk.Verdict{Err: f.diskError, Half: f.random.IntN(2) == 0}
	}
	if f.oneIn == 0 || f.random.IntN(f.oneIn) != 0 {
		return simdisk.Verdict{}
	}
	switch f.random.IntN(8) {
	case 0, 1:
		if f.spend("power cut") {
			return f.cut(true)
		}
	case 2, 3:
		if f.spend("kill") {
			return f.cut(false)
		}
	case 4:
		if f.spend("I/O error") {
			return simdisk.Verdict{Err: syscall.EIO, Half: f.random.IntN(2) == 0}
		}
	case 5:
		if f.spend("disk full") {
			f.diskError, f.diskUntil = syscall.ENOSPC, time.Now().Add(f.upTo(20*time.Minute))
			return simdisk.Verdict{Err: f.diskError, Half: true}
		}
	case 6:
		if f.spend("disk read-only") {
			f.diskError, f.diskUntil = syscall.EROFS, time.Now().Add(f.upTo(20*time.Minute))
			return simdisk.Verdict{Err: f.diskError}
		}
	case 7:
		if f.spend("disk failing") {
			f.diskError, f.diskUntil = syscall.EIO, time.Now().Add(f.upTo(5*time.Minute))
			return simdisk.Verdict{Err: f.diskError, Half: true}
		}
	}
	return simdisk.Verdict{}
}

func (f *faults) upTo(limit time.Duration) time.Duration {
	return time.Duration(f.random.Int64N(int64(limit)))
}

func (f *faults) cut(power bool) simdisk.Verdict {
	d := f.run.device
	if power || d.alive == nil {
		d.reset, d.powered = true, false
	}
	before := f.random.IntN(2) == 0
	return simdisk.Verdict{CutBefore: before, CutAfter: !before}
}

// killAt decides at a named point of the driver.
func (f *faults) killAt(point string) bool {
	if f.script != nil {
		if point != f.point {
			return false
		}
		f.point = ""
		return true
	}
	return f.oneIn > 0 && f.random.IntN(25) == 0 && f.spend("kill")
}

// between is what goes wrong between two changes of the disk.
func (f *faults) between() {
	d := f.run.device
	defer func() { _ = f.run.sleep(context.Background(), time.Millisecond) }() // let it come to pass
	switch f.random.IntN(9) {
	case 0:
		if d.slot != "" && f.spend("power cut") {
			d.cut()
		}
	case 1:
		if d.alive != nil && f.spend("kill") {
			d.disk.PowerOff()
		}
	case 2:
		if f.spend("network down") {
			f.netUntil = time.Now().Add(f.upTo(3 * time.Hour))
		}
	case 3:
		if f.spend("server down") {
			f.srvUntil = time.Now().Add(f.upTo(3 * time.Hour))
		}
	case 4:
		if f.spend("clock ahead") {
			d.skew = f.upTo(60 * 365 * 24 * time.Hour)
		}
	case 5:
		if f.spend("clock behind") {
			d.skew = -f.upTo(30 * 365 * 24 * time.Hour)
		}
	case 6:
		d.skew = 0
	case 7, 8:
		f.rot()
	}
}

// rot flips a bit of what lies about: a download, what the slot beside holds as long as
// nothing hangs on it, or, where the whole run is of that kind, the device's memory.
func (f *faults) rot() {
	d := f.run.device
	if d.alive == nil || d.disk.Off() {
		return
	}
	switch d.records.Snapshot().Deployments[component].State {
	case update.Trying, update.Committed, update.RolledBack: // what it would fall back to
		return
	}
	files := []string{pathA, "/data/slots/a/artifact"}
	if d.slot == "a" {
		files = []string{pathB, "/data/slots/b/artifact"}
	}
	for _, pattern := range []string{"/data/staging-*", "/data/slots/a/staging-*", "/data/slots/b/staging-*"} {
		found, _ := d.disk.Glob(pattern) // the pattern is right
		files = append(files, found...)
	}
	if f.run.forgetful {
		files = append(files, "/data/journal", "/data/journal.old", "/data/trust", "/data/epoch", "/data/floors")
	}
	if file := files[f.random.IntN(len(files))]; f.left > 0 && d.disk.Flip(file, f.random) {
		f.spend("flipped bit")
		f.run.event("in %s", file)
	}
}

// rest ends all that is wrong.
func (f *faults) rest() {
	f.left = 0
	f.diskUntil, f.netUntil, f.srvUntil = time.Time{}, time.Time{}, time.Time{}
	f.run.device.skew = 0
}

func (f *faults) networkUp() bool  { return !time.Now().Before(f.netUntil) }
func (f *faults) serverDown() bool { return time.Now().Before(f.srvUntil) }
func (f *faults) wrongBytes() bool {
	return f.script == nil && f.oneIn > 0 && f.random.IntN(12) == 0 && f.spend("wrong bytes")
}
