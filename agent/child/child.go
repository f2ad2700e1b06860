// Package child starts processes that do not outlive the agent, and that have nothing
// of its but what they are given.
package child

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
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
