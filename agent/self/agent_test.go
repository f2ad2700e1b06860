package self

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"groundswell/agent/slot"
	"groundswell/agent/watchdog"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
)

// TestMain lets this very binary be the launcher, and, with something behind it that
// says so, an agent in a slot.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == Command:
		log := slog.New(slog.NewTextHandler(os.Stderr, nil))
		args, code := Launch(os.Getenv("TEST_PACKAGED"), os.Args[2:], log)
		if args == nil {
			os.Exit(code)
		}
		play("packaged", "well", args)
	case os.Getenv(variable) != "":
		version, mode := behind()
		play(version, mode, os.Args[1:])
	default:
		os.Exit(m.Run())
	}
}

const mark = "\nthis agent is "

// behind is what stands behind the program.
func behind() (version, mode string) {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	version, mode, _ = strings.Cut(string(data[bytes.LastIndex(data, []byte(mark))+len(mark):]), " ")
	return version, mode
}

// life is what an agent writes down of itself.
type life struct {
	Launched
	Version     string
	PID, Parent int
}

// play is an agent: it writes down that it runs, and does what it finds in a file.
func play(version, mode string, args []string) {
	launched, _, err := TakeLaunched()
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(os.Stderr, "agent %s runs\n", version)
	note(args[0], life{launched, version, os.Getpid(), os.Getppid()})
	switch mode {
	case "exits":
		os.Exit(3)
	case "hangs":
		select {}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	ctx, leave := context.WithCancelCause(ctx)
	slots, err := Open(Config{
		Dir: launched.Dir, Launched: launched, Tries: 3, Alive: within,
		Restart: func() { leave(watchdog.ErrGoesOn) },
	})
	if err != nil {
		panic(err)
	}
	signs, silence := context.WithCancel(ctx)
	if mode == "hangs-later" {
		time.AfterFunc(time.Second, silence)
	}
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		watchdog.Run(signs, watchdog.Config{}, func() {}, slog.New(slog.DiscardHandler))
	}()
	if mode == "hangs-later" {
		select {}
	}
	for ctx.Err() == nil {
		order, err := os.ReadFile(filepath.Join(args[0], "order"))
		if err != nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if err := os.Remove(filepath.Join(args[0], "order")); err != nil {
			panic(err)
		}
		switch string(order) {
		case "activate":
			slots.Within(within)
			err = slots.Activate(ctx)
		case "activate, watched closely":
			slots.cfg.Alive = alive
			err = slots.Activate(ctx)
		case "activate, soon":
			slots.decided = decided
			err = slots.Activate(ctx)
		case "confirm":
			err = slots.Confirm(ctx, launched.Slot)
		case "fall back":
			err = slots.FallBack(ctx)
		}
		if err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(4)
		}
	}
	<-watching
	silence()
	stop()
	if context.Cause(ctx) == watchdog.ErrGoesOn {
		if err := slots.Leave(); err != nil {
			panic(err)
		}
	}
	os.Exit(0)
}

const (
	// alive is how long an agent on trial may be silent whose silence is to be found out:
	// no other is ended for that, however busy the machine is.
	alive = 3 * time.Second
	// decided is how long it may be undecided, where somebody waits for that. It is enough
	// for one to start and to be confirmed.
	decided = 10 * time.Second
	within  = time.Hour
)

func note(dir string, l life) {
	data, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "lives"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	if _, err := file.Write(append(data, '\n')); err != nil {
		panic(err)
	}
}

// machine is where agents are launched.
type machine struct {
	*testing.T
	dir      string
	launcher *devstack.Process
	env      []string
}

func newMachine(t *testing.T) *machine { return &machine{T: t, dir: t.TempDir()} }

func (m *machine) slots() string { return filepath.Join(m.dir, "agent") }

func (m *machine) open() *slot.Dir {
	m.Helper()
	dir, err := slot.OpenDir(m.slots())
	if err != nil {
		m.Fatal(err)
	}
	return dir
}

func (m *machine) on() {
	m.Helper()
	program, err := os.Executable()
	if err != nil {
		m.Fatal(err)
	}
	m.launcher = devtest.Start(m.T, devstack.Spec{
		Name: "launcher", Path: program, Args: []string{Command, m.slots(), m.dir}, LogFile: filepath.Join(m.dir, "log"), Env: m.env,
	})
}

func (m *machine) off() {
	m.Helper()
	if err := m.launcher.Stop(30 * time.Second); err != nil {
		m.Fatal(err)
	}
}

func (m *machine) order(what string) {
	m.Helper()
	path := filepath.Join(m.dir, "order")
	if err := os.WriteFile(path+".new", []byte(what), 0o600); err != nil {
		m.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		m.Fatal(err)
	}
	devtest.Eventually(m.T, 0, "the agent to read what it is to do", func() error {
		if _, err := os.Stat(path); err == nil {
			return fmt.Errorf("%s is there", path)
		}
		return nil
	})
}

// lives are those of all agents so far.
func (m *machine) lives() (all []life) {
	m.Helper()
	data, err := os.ReadFile(filepath.Join(m.dir, "lives"))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		var l life
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			return all // being written
		}
		all = append(all, l)
	}
	return all
}

// lived waits for these versions, one after the other, and returns the last.
func (m *machine) lived(versions ...string) life {
	m.Helper()
	var all []life
	devtest.Eventually(m.T, 0, "agents "+strings.Join(versions, ", "), func() error {
		all = m.lives()
		var got []string
		for _, l := range all {
			got = append(got, l.Version)
		}
		if strings.Join(got, " ") != strings.Join(versions, " ") {
			return fmt.Errorf("there were %v", got)
		}
		return nil
	})
	return all[len(all)-1]
}

// artifact is an agent that behaves in a certain way.
func (m *machine) artifact(version, mode string) []byte {
	m.Helper()
	program, err := os.Executable()
	if err != nil {
		m.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		m.Fatal(err)
	}
	if mode == "starts not" {
		data = []byte("no program at all")
	}
	return fmt.Append(data, mark, version, " ", mode)
}

// stage puts an agent into the idle slot.
func (m *machine) stage(version, mode string) (name string) {
	m.Helper()
	data := m.artifact(version, mode)
	sum := sha256.Sum256(data)
	image := slot.Image{Version: version, Release: "agent", SHA256: hex.EncodeToString(sum[:]), Length: int64(len(data))}
	dir := m.open()
	path, err := dir.Staging(image.SHA256)
	if err == nil {
		err = devtest.WriteProgram(path, data, 0o600)
	}
	if err == nil {
		name, err = dir.Stage(image)
	}
	if err != nil {
		m.Fatal(err)
	}
	return name
}

// confirmed is a machine that runs a version from slot b, confirmed.
func (m *machine) confirmed(version string) {
	m.Helper()
	m.on()
	m.lived("packaged")
	m.stage(version, "well")
	m.order("activate")
	m.lived("packaged", version)
	m.order("confirm")
	m.off()
	if err := os.Remove(filepath.Join(m.dir, "lives")); err != nil {
		m.Fatal(err)
	}
	m.on()
	if l := m.lived(version); l.Slot != "b" || l.Trial {
		m.Fatalf("launched as %+v", l)
	}
}
