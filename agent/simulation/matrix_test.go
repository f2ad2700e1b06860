//go:build !race

package simulation

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"groundswell/agent/disk/simdisk"
)

// cell is one of the matrix: what goes wrong, once, at one change of the disk.
type cell struct {
	name    string
	verdict simdisk.Verdict
	power   bool
	share   int // of what was not synced that is kept, in percent
}

var cells = []cell{
	{name: "killed before", verdict: simdisk.Verdict{CutBefore: true}},
	{name: "killed after", verdict: simdisk.Verdict{CutAfter: true}},
	{name: "power cut before, nothing kept", verdict: simdisk.Verdict{CutBefore: true}, power: true},
	{name: "power cut after, nothing kept", verdict: simdisk.Verdict{CutAfter: true}, power: true},
	{name: "power cut after, half kept", verdict: simdisk.Verdict{CutAfter: true}, power: true, share: 50},
	{name: "power cut after, all kept", verdict: simdisk.Verdict{CutAfter: true}, power: true, share: 100},
	{name: "I/O error", verdict: simdisk.Verdict{Err: syscall.EIO, Half: true}},
	{name: "disk full", verdict: simdisk.Verdict{Err: syscall.ENOSPC, Half: true}},
	{name: "killed, and a power cut next time", verdict: simdisk.Verdict{CutAfter: true}},
}

// scripted is one update of a nature, in which go wrong: each cell at its change.
func scripted(t *testing.T, of kind, kind nature, wrong map[int]cell, point string) (r *run) {
	synctest.Test(t, func(*testing.T) {
		r = newRun(1, of)
		r.faults.point, r.device.share = point, 0
		r.faults.script = func(c simdisk.Change) simdisk.Verdict {
			cell, ok := wrong[c.Number]
			if !ok {
				return simdisk.Verdict{}
			}
			r.device.share = cell.share
			if (cell.power || r.device.alive == nil) && cell.verdict.Err == nil {
				r.device.reset, r.device.powered = true, false
			}
			return cell.verdict
		}
		r.simulate(func(ctx context.Context) {
			r.natures[1] = kind
			r.update(ctx, 1)
		})
	})
	return r
}

// TestKillMatrix cuts an update off at each change of the disk that it makes.
func TestKillMatrix(t *testing.T) {
	type job struct {
		of    kind
		kind  nature
		wrong map[int]cell
		point string
		name  string
	}
	jobs := make(chan job)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for j := range jobs {
				r := scripted(t, j.of, j.kind, j.wrong, j.point)
				if r.failed != nil {
					t.Errorf("%T, %v, %s: %v", j.of, j.kind, j.name, r.failed)
				}
			}
		})
	}
	total := 0
	type pair struct {
		of   kind
		kind nature
	}
	pairs := []pair{{whole{}, good}, {whole{}, crashes}, {supervised{}, good}, {supervised{}, deaf}}
	if *all {
		pairs = nil
		for _, of := range []kind{whole{}, supervised{}} {
			for _, kind := range of.natures() {
				pairs = append(pairs, pair{of, kind})
			}
		}
	}
	for _, p := range pairs {
		of, kind := p.of, p.kind
		var changes, points []string
		synctest.Test(t, func(*testing.T) {
			r := newRun(1, of)
			r.faults.script = func(c simdisk.Change) simdisk.Verdict {
				changes = append(changes, c.Op+" "+c.Path)
				return simdisk.Verdict{}
			}
			r.keep = func(line string) {
				if _, at, ok := strings.Cut(line, " at "); ok {
					if point, _, _ := strings.Cut(at, " "); !slices.Contains(points, point) {
						points = append(points, point)
					}
				}
			}
			r.simulate(func(ctx context.Context) {
				r.natures[1] = kind
				r.update(ctx, 1)
			})
			if r.failed != nil {
				t.Fatalf("%T, %v, with nothing wrong: %v", of, kind, r.failed)
			}
		})
		for n, change := range changes {
			for _, c := range cells {
				wrong := map[int]cell{n + 1: c}
				if strings.HasSuffix(c.name, "next time") {
					// What comes after a kill is built on what was found, not on what is durable.
					wrong[n+1+7] = cell{verdict: simdisk.Verdict{CutAfter: true}, power: true}
				}
				total++
				jobs <- job{of, kind, wrong, "", fmt.Sprintf("%s change %d, %s", c.name, n+1, change)}
			}
		}
		for _, point := range points {
			total++
			jobs <- job{of, kind, nil, point, "killed at " + point}
		}
		t.Logf("%T, %v: %d changes of the disk, points %v", of, kind, len(changes), points)
	}
	close(jobs)
	workers.Wait()
	t.Logf("%d runs", total)
}

// TestTheSameSeedGivesTheSameRun: without that, no failure could be looked at again.
func TestTheSameSeedGivesTheSameRun(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		var lines [2][]string
		var digests [2]string
		for i := range lines {
			r := randomRun(t, seed, func(line string) { lines[i] = append(lines[i], line) })
			digests[i] = r.digest()
		}
		if digests[0] == digests[1] {
			continue
		}
		for i := range min(len(lines[0]), len(lines[1])) {
			if lines[0][i] != lines[1][i] {
				t.Fatalf("seed %d, line %d:\n%s\n%s", seed, i, lines[0][i], lines[1][i])
			}
		}
		t.Fatalf("seed %d: %d and %d lines", seed, len(lines[0]), len(lines[1]))
	}
}
