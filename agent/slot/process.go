package slot

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"groundswell/agent/child"
)

// processes launches processes of this machine.
type processes struct {
	dir    *Dir
	cfg    Config
	output io.Writer
}

// process is one launch.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Clear implements Launcher.
func (s *processes) Clear() error { return s.dir.clear(s.cfg.Grace) }

// Launch starts the executable of a slot.
func (s *processes) Launch(l Launch) (Launched, error) {
	path, err := filepath.Abs(l.Path)
	if err != nil {
		return nil, err
	}
	mark, err := s.dir.mark()
	if err != nil {
		return nil, fmt.Errorf("launch slot %s: %w", l.Slot, err)
	}
	for attempt := 0; ; attempt++ {
		cmd := exec.Command(path, s.cfg.Args...)
		cmd.Dir = filepath.Dir(path)
		// Nothing of the agent's own environment: it is not the firmware's.
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"),
			"FIRMWARE_ADDR=" + l.Addr,
			"FIRMWARE_BOOT_ID=" + l.BootID,
			"FIRMWARE_SLOT=" + l.Slot,
			"FIRMWARE_VERSION=" + l.Image.Version,
		}
		for k, v := range s.cfg.Env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		cmd.Env = append(cmd.Env, mark) // the last of a name counts
		cmd.Stdout, cmd.Stderr = s.output, s.output
		cmd.WaitDelay = time.Second // for grandchildren that hold the pipe
		if err := child.KeepOwn(); err != nil {
			s.cfg.Log.Warn("descriptors that the agent was started with may be handed on", "err", err)
		}
		err := child.Start(cmd)
		// Another goroutine's child, between its fork and its exec, may hold the
		// file that was being written a moment ago.
		if errors.Is(err, syscall.ETXTBSY) && attempt < 50 {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("launch slot %s: %w", l.Slot, err)
		}
		if err := s.dir.launched(cmd.Process.Pid); err != nil {
			// A full disk must not keep a good version from booting.
			s.cfg.Log.Warn("session of the launch cannot be written down, its children are known by their mark only", "err", err)
		}
		p := &process{cmd, make(chan struct{})}
		go func() {
			_ = cmd.Wait() // how it ended is in ProcessState
			p.signal(syscall.SIGKILL)
			close(p.done)
		}()
		return p, nil
	}
}

// signal goes to the whole process group.
func (p *process) signal(sig syscall.Signal) {
	_ = syscall.Kill(-p.cmd.Process.Pid, sig) // ended already
}

// Done implements Launched.
func (p *process) Done() <-chan struct{} { return p.done }

// Status implements Launched.
func (p *process) Status() string { return p.cmd.ProcessState.String() }

// Stop implements Launched. When it returns, the head has ended, and whoever has stayed
// in its group is about to; Clear sees to the rest.
func (p *process) Stop(grace time.Duration) {
	p.signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	}
	p.signal(syscall.SIGKILL)
	<-p.done
}

// NewBootID names a launch.
func NewBootID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// resolve replaces port 0 by one that was free a moment ago.
func resolve(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port != "0" {
		return addr, nil // not an address of ours to interpret
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
