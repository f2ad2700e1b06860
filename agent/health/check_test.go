package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
)

func examine(t *testing.T, c Component, checks ...Check) *problem {
	t.Helper()
	for _, check := range checks {
		if err := check.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	return newExaminer(Config{Checks: checks}).ask(t.Context(), 10*time.Second, c)
}

// fails wants that a check does not hold, and why.
func fails(t *testing.T, c Component, check Check, kind, text string) {
	t.Helper()
	if p := examine(t, c, check); p == nil || p.kind != kind || !strings.Contains(p.err.Error(), text) {
		t.Errorf("%+v: got %+v, want %s: %s", check, p, kind, text)
	}
}

func holds(t *testing.T, c Component, check Check) {
	t.Helper()
	if p := examine(t, c, check); p != nil {
		t.Errorf("%+v: %+v", check, p)
	}
}

func script(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEachKindOfCheck(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := Component{Addr: l.Addr().String()}
	holds(t, open, Check{TCP: "{addr}"})
	holds(t, Component{}, Check{TCP: open.Addr})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	fails(t, open, Check{TCP: "{addr}", Name: "rtsp"}, kindTCP, "rtsp: dial tcp")

	s := httptest.NewServer(nil) // of which every path is 404
	defer s.Close()
	fails(t, Component{}, Check{HTTP: s.URL}, kindHTTP, "404")

	dir := t.TempDir()
	t.Setenv("SECRET", "of the agent")
	holds(t, Component{Addr: "here"}, Check{Exec: []string{script(t, dir, "good", `[ "$FIRMWARE_ADDR" = here ] && [ -z "$SECRET" ] && [ "$1" = x ]`), "x"}})
	fails(t, Component{}, Check{Exec: []string{script(t, dir, "bad", "seq 1000; echo no lens; exit 3")}, Name: "lens"}, kindExec, "lens: bad: exit status 3: ")
	fails(t, Component{}, Check{Exec: []string{filepath.Join(dir, "bad")}}, kindExec, "\nno lens")
	fails(t, Component{}, Check{Exec: []string{"/none"}}, kindExec, "no such file")

	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	script(t, dir, "systemctl", `[ "$1 $2" = "is-active --" ] || exit 9; [ "$3" = good.service ] || { echo failed; exit 3; }`)
	holds(t, Component{}, Check{Unit: "good.service"})
	fails(t, Component{}, Check{Unit: "bad.service"}, kindUnit, "exit status 3: failed")

	holds(t, Component{}, Check{Disk: dir, FreeMB: 1})
	fails(t, Component{}, Check{Disk: dir, FreeMB: 1 << 50}, kindDisk, "MB are free")
	fails(t, Component{}, Check{Disk: "/none", FreeMB: 1}, kindDisk, "no such file")

	holds(t, Component{Heard: true, HeardAgo: time.Minute}, Check{Broker: true})
	holds(t, Component{Heard: true, HeardAgo: time.Hour}, Check{Broker: true, Offline: 2 * time.Hour})
	fails(t, Component{Heard: true, HeardAgo: 6 * time.Minute}, Check{Broker: true}, kindBroker, "heard 6m0s ago")
	fails(t, Component{}, Check{Broker: true}, kindBroker, "not heard")
}

// TestTheFirstCheckThatFailsIsNamed: whichever is faster.
func TestTheFirstCheckThatFailsIsNamed(t *testing.T) {
	dir := t.TempDir()
	slow := script(t, dir, "slow", "sleep 0.1; exit 1")
	if p := examine(t, Component{}, Check{Exec: []string{slow}}, Check{Broker: true}); p == nil || p.kind != kindExec {
		t.Errorf("got %+v", p)
	}
}

// TestACheckThatHangsFailsInTime: and nothing of it is left.
func TestACheckThatHangsFailsInTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	hang := script(t, dir, "hang", fmt.Sprintf("sleep 1000 & echo $! >%s/child; wait", dir))
	e := newExaminer(Config{Checks: []Check{{Exec: []string{hang}}}})
	if p := e.ask(t.Context(), 10*time.Second, Component{}); p == nil || !errors.Is(p.err, context.DeadlineExceeded) {
		t.Errorf("got %+v", p)
	}
	child, err := os.ReadFile(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, 0, "its child to end", func() error {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/stat")
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			return fmt.Errorf("%s", stat)
		}
		return nil
	})
}

func TestACheckThatCouldNeverHoldIsRefused(t *testing.T) {
	for _, c := range []struct {
		check Check
		want  string
	}{
		{Check{}, "here are 0"},
		{Check{Name: "x"}, "here are 0"},
		{Check{TCP: "a:1", Unit: "b"}, "here are 2"},
		{Check{HTTP: "ftp://x"}, "http"},
		{Check{TCP: "nowhere"}, "tcp"},
		{Check{Exec: []string{"check"}}, "exec"},
		{Check{Disk: "/data"}, "free_mb"},
		{Check{Disk: "data", FreeMB: 1}, "disk"},
		{Check{Unit: "x", FreeMB: 1}, "free_mb"},
		{Check{Disk: "/data", FreeMB: -1}, "free_mb"},
		{Check{Broker: true, Offline: -time.Second}, "offline"},
		{Check{Unit: "x", Offline: time.Second}, "offline"},
	} {
		if err := c.check.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.check, err)
		}
	}
}
