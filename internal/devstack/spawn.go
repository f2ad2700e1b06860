package devstack

import (
	"os"
	"os/exec"
	"runtime"
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

// spawn starts cmd so that it gets death when this process ends, however that
// happens. A credential already set in cmd is kept.
func spawn(cmd *exec.Cmd, death syscall.Signal) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = death
	// Ctrl-C goes to whole process groups; children are stopped by us, in order.
	cmd.SysProcAttr.Setpgid = true
	result := make(chan error)
	spawner() <- func() { result <- cmd.Start() }
	return <-result
}

// janitor removes dir once this process has ended or stop was called, after
// waiting for the process whose id pidFile holds (first line), if any.
func janitor(dir, pidFile string) (stop func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", `
		read -r _
		i=0
		while [ -n "$2" ] && [ -e "$2" ] && kill -0 "$(head -n 1 "$2")" 2>/dev/null && [ $i -lt 100 ]; do
			sleep 0.1; i=$((i+1))
		done
		rm -rf -- "$1"`, "janitor", dir, pidFile)
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	return sync.OnceFunc(func() {
		w.Close()
		_ = cmd.Wait() // rm's failure leaves a directory in the temporary folder, no more
	}), nil
}

// TempDir makes a temporary directory that is removed when remove is called, or
// when this process ends, however that happens.
func TempDir(prefix string) (dir string, remove func(), err error) {
	if dir, err = os.MkdirTemp(socketBase(), prefix); err != nil {
		return "", nil, err
	}
	remove, err = janitor(dir, "")
	return dir, remove, err
}
