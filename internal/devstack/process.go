package devstack

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Spec says how to start a process.
type Spec struct {
	Name string // for messages and the log file's name
	Path string
	Args []string
	Env  []string // added to the parent's environment
	Dir  string   // working directory; the parent's when empty
	// LogFile gets stdout and stderr, appended. Required.
	LogFile string
	// AddressesFile is where the process writes the addresses that it bound; Start
	// waits for it. Empty means that Start does not wait.
	AddressesFile string
	// StartTimeout bounds that wait. Default 60 s.
	StartTimeout time.Duration
	// Death is sent when this program ends without stopping the process.
	// Default SIGKILL.
	Death syscall.Signal
	// Credential runs the process as another user.
	Credential *syscall.Credential
}

// Process is a running child.
type Process struct {
	spec      Spec
	cmd       *exec.Cmd
	addresses map[string]string
	done      chan struct{}
	waitErr   error // valid once done is closed
}

// Start runs the process and waits until it has written its addresses file. If
// it ends or the time is up before that, the error holds the end of its log.
func Start(ctx context.Context, spec Spec) (*Process, error) {
	if spec.StartTimeout == 0 {
		spec.StartTimeout = time.Minute
	}
	if spec.Death == 0 {
		spec.Death = syscall.SIGKILL
	}
	if spec.AddressesFile != "" {
		if err := os.Remove(spec.AddressesFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("start %s: %w", spec.Name, err)
		}
	}
	log, err := os.OpenFile(spec.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Env = append(os.Environ(), spec.Env...)
	cmd.Dir = spec.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: spec.Credential}
	if err := spawn(cmd, spec.Death); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Name, err)
	}
	p := &Process{spec: spec, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.waitErr = cmd.Wait()
		close(p.done)
	}()
	if spec.AddressesFile == "" {
		return p, nil
	}
	if err := p.awaitAddresses(ctx); err != nil {
		p.Kill()
		return nil, fmt.Errorf("start %s: %w\n%s", spec.Name, err, p.LogTail(20))
	}
	return p, nil
}

func (p *Process) awaitAddresses(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.spec.StartTimeout)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		data, err := os.ReadFile(p.spec.AddressesFile)
		if err == nil {
			return json.Unmarshal(data, &p.addresses)
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended: %v", p.waitErr)
		case <-ctx.Done():
			return fmt.Errorf("no addresses in %s: %w", filepath.Base(p.spec.AddressesFile), ctx.Err())
		case <-tick.C:
		}
	}
}

// Addr is what the process bound under that name ("mqtt", "ops", "http"), as
// host:port; "" if it bound nothing of that name.
func (p *Process) Addr(name string) string { return p.addresses[name] }

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Spec returns how it was started, to start it again.
func (p *Process) Spec() Spec { return p.spec }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for its end and returns the exit code (-1 when a signal ended it).
func (p *Process) Wait() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal; a process that has ended is no error. SIGSTOP and
// SIGCONT freeze and thaw it.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.spec.Name, err)
	}
	return nil
}

// Stop asks with SIGTERM and waits. A process that is still there after grace
// is killed, and that is an error, as is an exit code other than 0.
func (p *Process) Stop(grace time.Duration) error {
	select {
	case <-p.done: // ended by itself, or killed by the test
		return nil
	default:
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(grace):
		_ = p.Signal(syscall.SIGQUIT) // Go's programs write where each goroutine is, and end
		select {
		case <-p.done:
		case <-time.After(5 * time.Second):
		}
		p.Kill()
		return fmt.Errorf("%s did not stop within %v\n%s", p.spec.Name, grace, p.LogTail(2000))
	}
	if code := p.Wait(); code != 0 {
		return fmt.Errorf("%s ended with %v\n%s", p.spec.Name, p.cmd.ProcessState, p.LogTail(20))
	}
	return nil
}

// Kill ends it with SIGKILL, as a power cut would, and waits.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // ended already
	<-p.done
}

// LogTail returns the last n lines of the log.
func (p *Process) LogTail(n int) string { return tail(p.spec.LogFile, n) }

func tail(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	var lines []string
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
		if len(lines) > n {
			lines = lines[1:]
		}
	}
	return strings.Join(lines, "\n")
}
