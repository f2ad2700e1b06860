package self

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"groundswell/agent/update"
	"groundswell/internal/devstack/devtest"
)

func TestWithoutSlotsThePackagedAgentRuns(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.on()
	l := m.lived("packaged")
	if l.PID != m.launcher.PID() || l.Slot != "" || l.Trial || l.Boot == "" || l.Dir != m.slots() || !slices.Equal(l.Args, []string{m.dir}) {
		t.Errorf("launched as %+v", l)
	}
	m.off()
}

// One process, as whoever started it sees it: but for the trial.
func TestAGoodAgentTakesThePlaceOfTheOldOne(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.on()
	first := m.lived("packaged")
	m.stage("1.1.0", "well")
	m.order("activate")
	l := m.lived("packaged", "1.1.0")
	if l.Slot != "b" || !l.Trial || l.Parent != m.launcher.PID() || l.Boot == first.Boot {
		t.Errorf("launched as %+v", l)
	}
	m.order("confirm")
	m.off()
	m.on()
	l = m.lived("packaged", "1.1.0", "1.1.0")
	if l.Slot != "b" || l.Trial || l.PID != m.launcher.PID() {
		t.Errorf("launched as %+v", l)
	}
	// And the next, which a confirmed one makes way for.
	m.stage("1.2.0", "well")
	m.order("activate")
	if l = m.lived("packaged", "1.1.0", "1.1.0", "1.2.0"); l.Slot != "a" || !l.Trial {
		t.Errorf("launched as %+v", l)
	}
	m.order("fall back")
	if l = m.lived("packaged", "1.1.0", "1.1.0", "1.2.0", "1.1.0"); l.Slot != "b" || l.Trial || l.PID != m.launcher.PID() {
		t.Errorf("launched as %+v", l)
	}
	m.off()
}

func TestAnAgentThatIsNoGoodIsTriedSoOftenAndNoMore(t *testing.T) {
	t.Parallel()
	for mode, tries := range map[string]int{"exits": 3, "hangs": 3, "hangs-later": 3, "starts not": 0} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.confirmed("1.0.0")
			name := m.stage("1.1.0", mode)
			if strings.HasPrefix(mode, "hangs") {
				m.order("activate, watched closely")
			} else {
				m.order("activate")
			}
			want := slices.Concat([]string{"1.0.0"}, slices.Repeat([]string{"1.1.0"}, tries), []string{"1.0.0"})
			l := m.lived(want...)
			if l.Slot != "b" || l.Trial || l.PID != m.launcher.PID() {
				t.Errorf("launched as %+v", l)
			}
			s, err := Open(Config{Dir: m.slots(), Launched: l.Launched, Tries: 3})
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Trial(name); got != update.FellBack || !s.Armed() {
				t.Errorf("trial: %v, armed %v", got, s.Armed())
			}
			if out := s.Output(); tries > 0 && !strings.Contains(out, "agent 1.1.0 runs") {
				t.Errorf("of the trial is kept: %q", out)
			}
			m.off()
		})
	}
}

// It says that it is alive, and neither confirms nor gives up.
func TestAnAgentThatDoesNotDecideIsGivenUp(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.confirmed("1.0.0")
	name := m.stage("1.1.0", "well")
	m.order("activate, soon")
	l := m.lived("1.0.0", "1.1.0", "1.0.0")
	dir := m.open()
	if got := dir.Trial(name, l.Slot); got != update.FellBack {
		t.Errorf("trial: %v", got)
	}
	m.off()
}

// Whoever is confirmed has all the time.
func TestAConfirmedAgentIsNotGivenUp(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.confirmed("1.0.0")
	m.stage("1.1.0", "well")
	m.order("activate, soon")
	l := m.lived("1.0.0", "1.1.0")
	m.order("confirm")
	late := time.Now().Add(decided + 500*time.Millisecond) // a condition on the clock that the launcher goes by
	devtest.Eventually(t, 0, "the time to be over", func() error {
		if time.Now().Before(late) {
			return errors.New("not yet")
		}
		return nil
	})
	if err := syscall.Kill(l.PID, 0); err != nil {
		t.Errorf("it was ended: %v", err)
	}
	m.lived("1.0.0", "1.1.0")
	m.off()
}

func TestEachLaunchOfATrialIsCountedBeforeIt(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.confirmed("1.0.0")
	m.stage("1.1.0", "well")
	m.order("activate")
	want := []string{"1.0.0", "1.1.0"}
	for range 2 {
		l := m.lived(want...)
		m.launcher.Kill()
		devtest.Eventually(t, 0, "the end of the agent whose launcher was killed", func() error {
			if err := syscall.Kill(l.PID, 0); err == nil {
				return fmt.Errorf("%d runs", l.PID)
			}
			return nil
		})
		m.on()
		want = append(want, "1.1.0")
	}
	m.lived(want...)
	m.launcher.Kill()
	m.on()
	m.lived(append(want, "1.0.0")...)
	m.off()
}

func (m *machine) damage(name string) {
	m.Helper()
	path := m.open().Executable(name)
	data, err := os.ReadFile(path)
	if err != nil {
		m.Fatal(err)
	}
	data[len(data)-1] ^= 1 // it would run
	if err := os.Remove(path); err != nil {
		m.Fatal(err) // it may be running
	}
	if err := os.WriteFile(path, data, 0o700); err != nil {
		m.Fatal(err)
	}
}

func TestWhatIsDamagedNeverRuns(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.confirmed("1.0.0")
	m.stage("1.1.0", "well")
	m.order("activate")
	m.lived("1.0.0", "1.1.0")
	m.launcher.Kill()
	m.damage("a")
	m.on()
	m.lived("1.0.0", "1.1.0", "1.0.0")
	m.off()
	m.damage("b")
	m.on()
	if l := m.lived("1.0.0", "1.1.0", "1.0.0", "packaged"); l.PID != m.launcher.PID() || l.Slot != "" {
		t.Errorf("launched as %+v", l)
	}
	// And from there the way leads up again.
	name := m.stage("1.2.0", "well")
	m.order("activate")
	if l := m.lived("1.0.0", "1.1.0", "1.0.0", "packaged", "1.2.0"); l.Slot != name {
		t.Errorf("launched as %+v", l)
	}
	m.off()
}

// An update of the whole system brings an agent too; but what somebody went back to is not
// undone by each start.
func TestANewerPackagedAgentTakesOver(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.env = []string{"TEST_PACKAGED=1.5.0"}
	m.confirmed("1.0.0") // a revert
	m.off()
	m.env = []string{"TEST_PACKAGED=0.9.0"}
	m.on()
	m.lived("1.0.0", "1.0.0")
	m.off()
	m.env = []string{"TEST_PACKAGED=1.6.0"}
	m.on()
	if l := m.lived("1.0.0", "1.0.0", "packaged"); l.Slot != "" || l.PID != m.launcher.PID() {
		t.Errorf("launched as %+v", l)
	}
	m.stage("1.7.0", "well")
	m.order("activate")
	m.lived("1.0.0", "1.0.0", "packaged", "1.7.0")
	m.order("confirm")
	m.off()
	m.on()
	m.lived("1.0.0", "1.0.0", "packaged", "1.7.0", "1.7.0")
	m.off()
}

// What was staged by whoever, and never tried, does not run: also not as the last resort.
func TestWhatWasNeverConfirmedIsNoLastResort(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.stage("1.1.0", "well")
	m.on()
	m.lived("packaged")
	m.off()
}

func TestAnAgentThatWasNotLaunchedDoesNotMakeWay(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.stage("1.1.0", "well")
	other := filepath.Join(m.dir, "other")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, l := range map[string]Launched{"not at all": {}, "for other slots": {Launcher: "/agent", Dir: other, Slot: "b"}} {
		s, err := Open(Config{Dir: m.slots(), Launched: l, Tries: 3, Version: "1.0.0"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Activate(t.Context()); !errors.Is(err, ErrNotLaunched) || s.Armed() {
			t.Errorf("%s: %v, armed %v", name, err, s.Armed())
		}
		if r := s.Running(); r.Slot != "" || r.Image.Version != "1.0.0" || r.BootID == "" {
			t.Errorf("%s: runs %+v", name, r)
		}
	}
}

// systemd sees one service that is alive all the time, and stops when it is told to.
func TestSystemdHearsOfItAsOfOneService(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	path := filepath.Join(m.dir, "s")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	m.env = []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=300000"}
	heard := make(chan string, 10000)
	go func() {
		buf := make([]byte, 100)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return
			}
			heard <- string(buf[:n])
		}
	}()
	hear := func(want string) {
		t.Helper()
		for {
			select {
			case got := <-heard:
				if got == want {
					return
				}
				if got == stopping {
					t.Fatalf("it says %q before %q", got, want)
				}
			case <-time.After(devtest.Patience):
				t.Fatalf("it never says %q", want)
			}
		}
	}
	m.on()
	m.lived("packaged")
	hear("READY=1")
	hear(feeding)
	m.stage("1.1.0", "well")
	m.order("activate")
	m.lived("packaged", "1.1.0")
	hear("READY=1")
	hear(feeding)
	// Somebody ends the agent, and not the service.
	if err := syscall.Kill(m.lived("packaged", "1.1.0").PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.lived("packaged", "1.1.0", "1.1.0")
	hear("READY=1")
	hear(feeding)
	m.order("fall back")
	m.lived("packaged", "1.1.0", "1.1.0", "packaged")
	hear("READY=1")
	hear(feeding)
	m.stage("1.2.0", "well")
	m.order("activate")
	m.lived("packaged", "1.1.0", "1.1.0", "packaged", "1.2.0")
	hear("READY=1")
	m.off()
	hear(stopping)
}
