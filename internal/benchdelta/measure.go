package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// result is what a tool needed for a pair.
type result struct {
	tool           tool
	bytes          int64
	encode, decode usage
	gaveUp         time.Duration // how long it was waited for, if it did not end
}

// usage is what a process needed.
type usage struct {
	wall   time.Duration
	cpu    time.Duration
	memory int64 // most that was resident, in bytes
}

func measure(ctx context.Context, t tool, p pair, work string, patience time.Duration) (result, error) {
	r := result{tool: t}
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	j := job{pair: p, dir: filepath.Join(work, "job"), self: self}
	if err := os.Mkdir(j.dir, 0o700); err != nil {
		return r, err
	}
	defer os.RemoveAll(j.dir)
	if t.prepare != nil {
		if _, _, err := command(ctx, j, t.prepare(j)); err != nil {
			return r, err
		}
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var said string
	r.encode, said, err = command(limited, j, t.encode(j))
	if ctx.Err() == nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
		r.gaveUp = patience
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if t.size != nil {
		r.bytes, err = t.size(j, said)
	} else {
		r.bytes, err = length(j.delta())
	}
	if err != nil {
		return r, err
	}
	if r.bytes == 0 {
		return r, nil // it has nothing for such a pair
	}
	r.decode, _, err = command(ctx, j, t.decode(j))
	if err != nil {
		return r, err
	}
	made := j.out()
	if _, err := os.Stat(made); os.IsNotExist(err) {
		made = j.in("new") // unzck chooses the name
	}
	return r, same(made, p.new)
}

// command runs one, in the job's folder, and says what it needed.
func command(ctx context.Context, j job, args []string) (usage, string, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = j.dir, &out, &out
	// casync and xdelta3 look at these; all else is the same for every tool.
	cmd.Env = append(os.Environ(), "LC_ALL=C", "XDELTA=")
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return usage{}, "", fmt.Errorf("%s: %w: %s", args[0], err, strings.TrimSpace(out.String()))
	}
	u := usage{wall: time.Since(began), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		u.memory = int64(r.Maxrss) << 10
	}
	return u, out.String(), nil
}

func output(j job, args ...string) (string, error) {
	_, out, err := command(context.Background(), j, args)
	return out, err
}

// same compares two files.
func same(a, b string) error {
	x, err := os.Open(a)
	if err != nil {
		return err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return err
	}
	defer y.Close()
	one, two := make([]byte, 1<<16), make([]byte, 1<<16)
	for {
		n, errX := io.ReadFull(x, one)
		m, errY := io.ReadFull(y, two)
		if !bytes.Equal(one[:n], two[:m]) {
			return fmt.Errorf("what was decoded differs from %s", b)
		}
		if errX != nil || errY != nil {
			return nil // both ended: else one read would have been shorter
		}
	}
}

// print prints the table of a pair.
func print(p pair, results []result) error {
	old, err := length(p.old)
	if err != nil {
		return err
	}
	size, err := length(p.new)
	if err != nil {
		return err
	}
	best := int64(0) // of the others
	for _, r := range results {
		if !strings.HasPrefix(r.tool.name, "ours-") && r.gaveUp == 0 && r.bytes > 0 && (best == 0 || r.bytes < best) {
			best = r.bytes
		}
	}
	fmt.Printf("\n%s: %.1f MB -> %.1f MB\n\n", p.name, mb(old), mb(size))
	fmt.Print("| | bytes | of the best other | encode s | CPU s | MB | decode s | CPU s | MB/s of CPU | MB |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, r := range results {
		if r.gaveUp > 0 {
			fmt.Printf("| %s | gave up | | > %.0f | | | | | | |\n", r.tool.label, r.gaveUp.Seconds())
			continue
		}
		if r.bytes == 0 {
			fmt.Printf("| %s | nothing to look through | | | | | | | | |\n", r.tool.label)
			continue
		}
		share := "-"
		if best > 0 {
			share = fmt.Sprintf("%.2f", float64(r.bytes)/float64(best))
		}
		fmt.Printf("| %s | %d | %s | %.1f | %.1f | %.0f | %.2f | %.2f | %.0f | %.1f |\n", r.tool.label, r.bytes, share,
			r.encode.wall.Seconds(), r.encode.cpu.Seconds(), mb(r.encode.memory), r.decode.wall.Seconds(), r.decode.cpu.Seconds(),
			mb(size)/max(r.decode.cpu.Seconds(), 0.01), mb(r.decode.memory))
	}
	return nil
}

func mb(bytes int64) float64 { return float64(bytes) / 1e6 }
