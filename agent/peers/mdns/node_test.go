package mdns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/netns"
)

// machine is a node, whose service the test sets.
type machine struct {
	*Node
	asked atomic.Int64

	mu    sync.Mutex // guards what follows
	takes bool
	found map[string]Found // the last of each name
}

func newMachine(t *testing.T, name string, interfaces ...string) *machine {
	t.Helper()
	m := &machine{takes: true, found: map[string]Found{}}
	m.Node = New(Config{
		Interfaces: interfaces, Log: slog.New(slog.DiscardHandler), Known: func() []string { return nil },
		Service: func() (Service, bool) {
			m.asked.Add(1)
			m.mu.Lock()
			defer m.mu.Unlock()
			return Service{Name: name, Port: 8447, Text: []string{"v=1"}}, m.takes
		},
		Found: func(f Found) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.found[f.Name] = f
		},
	})
	return m
}

func (m *machine) take(part bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.takes = part
}

// sees waits until what was said last of a name is good for so long.
func (m *machine) sees(t *testing.T, name string, ttl time.Duration) {
	t.Helper()
	devtest.Eventually(t, devtest.Patience, "a node to be heard", func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if f, ok := m.found[name]; !ok || f.TTL != ttl {
			return fmt.Errorf("%+v, want %v", f, ttl)
		}
		return nil
	})
}

func (m *machine) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// members waits until so many sockets of this network have joined the group.
func members(t *testing.T, want string) {
	t.Helper()
	devtest.Eventually(t, devtest.Patience, "the group's members", func() error {
		raw, err := os.ReadFile("/proc/net/igmp")
		if err != nil {
			return err
		}
		got := "0"
		for line := range strings.Lines(string(raw)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "FB0000E0" {
				got = f[1]
			}
		}
		if got != want {
			return fmt.Errorf("%s are members, want %s", got, want)
		}
		return nil
	})
}

// TestANodeLeavesWhenItTakesNoPart: it says goodbye, hears nothing more and comes back; and
// what it announces is not asked for every packet.
func TestANodeLeavesWhenItTakesNoPart(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	netns.Bridge(t, "lan", "198.18.0.1/24")
	const one, two = "0000000000000001", "0000000000000002"
	a, b := newMachine(t, one, "lan"), newMachine(t, two, "lan")
	a.run(t)
	b.run(t)
	b.sees(t, one, TTL)
	a.sees(t, two, TTL)
	members(t, "2")

	s, err := open("lan", false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		for _, raw := range [][]byte{must(t)(question(nil)), announcing(t, Service{Name: fmt.Sprintf("%016x", 1<<20+i), Port: 1}, TTL)} {
			if err := s.send(raw); err != nil {
				t.Fatal(err)
			}
		}
	}
	// What comes too fast is lost: both must have heard it all before more is said.
	last := Service{Name: "ffffffffffffffff", Port: 1}
	for _, m := range []*machine{a, b} {
		devtest.Eventually(t, devtest.Patience, "the last packet to be heard", func() error {
			m.mu.Lock()
			defer m.mu.Unlock()
			if _, ok := m.found[last.Name]; !ok {
				return errors.Join(errors.New("it is not"), s.send(announcing(t, last, TTL)))
			}
			return nil
		})
	}
	s.conn.Close()
	a.mu.Lock()
	if n := len(a.found); n < 100 {
		t.Errorf("%d devices were heard", n)
	}
	a.mu.Unlock()
	// Twice more at most, if this takes longer than a minute.
	if n := a.asked.Load(); n > 3 {
		t.Errorf("what it announces was asked for %d times", n)
	}

	a.take(false)
	a.Changed()
	b.sees(t, one, 0)
	members(t, "1")
	a.take(true)
	a.Changed()
	b.sees(t, one, TTL)
	members(t, "2")
}

// TestWhatIsAnnouncedIsAskedAgain now and then, though nobody says that it has changed.
func TestWhatIsAnnouncedIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(t, "0000000000000001")
		m.run(t)
		synctest.Wait()
		_, ok, changed := m.current()
		if !ok {
			t.Fatal("it takes no part")
		}
		time.Sleep(10 * refreshed)
		select {
		case <-changed:
			t.Error("what is the same is announced anew")
		default:
		}
		m.take(false)
		select {
		case <-changed:
		case <-time.After(2 * refreshed):
		}
		if _, ok, _ := m.current(); ok {
			t.Error("it still takes part")
		}
		if n := m.asked.Load(); n > 13 {
			t.Errorf("it was asked for %d times", n)
		}
	})
}
