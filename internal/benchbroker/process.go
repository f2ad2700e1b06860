package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// resident is a process's memory in bytes, as the kernel counts it.
func resident(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no resident memory", pid)
}

// settled waits until the resident memory has stayed within one percent for
// the time given, and returns it. A process that never comes to rest is measured
// after ten times as long.
func settled(ctx context.Context, pid int, quiet time.Duration) (int64, error) {
	const every = 250 * time.Millisecond
	first, last := time.Now(), time.Now()
	low, high := int64(0), int64(0)
	for {
		now, err := resident(pid)
		if err != nil {
			return 0, err
		}
		low, high = min(low, now), max(high, now)
		if high-low > now/100 {
			low, high, last = now, now, time.Now()
		}
		if time.Since(last) >= quiet || time.Since(first) >= 10*quiet {
			return now, nil
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// processorTime is what a process has used so far.
func processorTime(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold spaces; what follows does not.
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("process %d: unexpected format of stat", pid)
	}
	var ticks int64
	for _, field := range fields[11:13] { // user and system
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100), nil // USER_HZ
}

// openFiles makes room for n connections, here and in the servers, which
// inherit the limit.
func openFiles(n int) error {
	need := uint64(n + 1000)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Cur >= need {
		need = limit.Cur // set again, or Go gives children the limit of before it raised it
	}
	want := syscall.Rlimit{Cur: need, Max: max(limit.Max, need)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil {
		return fmt.Errorf("%d connections need %d open files, and this user may have %d at most: raise the limit (ulimit -Hn %d) or pass fewer --sessions: %w",
			n, need, limit.Max, need, err)
	}
	return nil
}

// load is the number of processes that want a processor, over the last minute.
func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(data), " ")
	return one
}
