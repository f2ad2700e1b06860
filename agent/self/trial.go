package self

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"groundswell/agent/child"
	"groundswell/agent/slot"
	"groundswell/agent/telemetry"
)

// try runs the agent on trial, and watches it, until it ends. An error means that it
// could not be started.
func (l Launched) try(dir *slot.Dir, told <-chan os.Signal, log *slog.Logger) (*ended, error) {
	env, err := l.environment()
	if err != nil {
		return nil, err
	}
	path, err := filepath.Abs(dir.Executable(l.Slot))
	if err != nil {
		return nil, err
	}
	alive, decided := loadWatch(l.Dir)
	every := alive // also for who watches the launcher
	if n, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && n > 0 {
		every = min(every, time.Duration(n)*time.Microsecond)
	}
	signs, err := listen(l.Dir, os.Getenv("NOTIFY_SOCKET"), log)
	if err != nil {
		return nil, err // what cannot be watched is not tried
	}
	defer signs.Close()
	output := telemetry.NewTail(maxOutput)
	cmd := exec.Command(path, l.Args...)
	cmd.Env = append(without(os.Environ(), "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"), env,
		"NOTIFY_SOCKET="+signs.path, "WATCHDOG_USEC="+strconv.FormatInt(every.Microseconds(), 10))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, io.MultiWriter(os.Stdout, output), io.MultiWriter(os.Stderr, output)
	cmd.WaitDelay = time.Second // for what it leaves behind that holds the pipe
	if err := child.Start(cmd); err != nil {
		return nil, err
	}
	signs.pass(feeding)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	e := &ended{}
	silent, late := time.NewTimer(alive), time.NewTimer(decided)
	defer silent.Stop()
	defer late.Stop()
	kill := func(why string) {
		log.Error("the agent on trial is ended", "slot", l.Slot, "why", why)
		e.status = why + ": "
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it has just ended
	}
	for {
		select {
		case <-signs.heard:
			silent.Reset(alive)
		case <-silent.C:
			kill(fmt.Sprintf("no sign of life for %v", alive))
		case <-late.C:
			if !dir.Armed() {
				continue // it was confirmed
			}
			if err := dir.Exhaust(); err != nil {
				log.Error("the trial cannot be given up", "err", err)
			}
			kill(fmt.Sprintf("undecided after %v", decided))
		case sig := <-told:
			e.told = true
			signs.pass(stopping)
			_ = cmd.Process.Signal(sig) // it has just ended
		case err := <-done:
			if errors.Is(err, exec.ErrWaitDelay) {
				err = nil
			}
			e.status += cmd.ProcessState.String()
			if e.code = cmd.ProcessState.ExitCode(); e.code < 0 {
				e.code = 1
			}
			if err := os.WriteFile(outputFile(l.Dir), []byte(output.String()), 0o600); err != nil {
				log.Warn("what the agent on trial has printed is not kept", "err", err)
			}
			return e, nil
		}
	}
}

// without is an environment without some variables.
func without(env []string, names ...string) (rest []string) {
	for _, v := range env {
		name, _, _ := strings.Cut(v, "=")
		drop := false
		for _, n := range names {
			drop = drop || n == name
		}
		if !drop {
			rest = append(rest, v)
		}
	}
	return rest
}
