// Package child starts processes that do not outlive the agent, and that have nothing
// of its but what they are given.
package child

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// The kernel sends a child its parent-death signal when the *thread* that
// forked it ends, so every child is forked from one thread that never does.
var spawner = sync.OnceValue(func() chan<- func() {
	requests := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range requests {
			f()
		}
	}()
	return requests
})

// Start is cmd.Start. The process is the head of a session, and so of a process
// group, of its own, and is killed when the agent ends, however that does.
func Start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	result := make(chan error)
	spawner() <- func() { result <- cmd.Start() }
	return <-result
}

// Run starts a command, made by exec.CommandContext, as Start does and waits for it. When
// its context ends it is killed with its children, as far as they stay in its group.
// Something that it leaves running is no failure, also if that has what it prints to.
func Run(cmd *exec.Cmd) error {
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); !errors.Is(err, exec.ErrWaitDelay) {
		return err
	}
	return nil
}

// Head keeps the beginning of what is written to it, at most Max bytes.
type Head struct {
	Max  int
	data []byte
}

func (h *Head) Write(p []byte) (int, error) {
	h.data = append(h.data, p[:min(len(p), h.Max-len(h.data))]...)
	return len(p), nil
}

// String is what was kept.
func (h *Head) String() string { return string(h.data) }

// KeepOwn marks every descriptor but 0, 1 and 2 to be closed in children. Go
// does so with what it opens; what the agent itself was started with may be
// anything.
func KeepOwn() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd) // of the directory's own, closed by now, nothing comes
		}
	}
	return nil
}
