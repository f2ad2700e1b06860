package watchdog

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestSystemdIsToldAndFed: as a unit with Type=notify and WatchdogSec= is.
func TestSystemdIsToldAndFed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", "")
	if err := os.Unsetenv("WATCHDOG_PID"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Run(ctx, Config{}, func() {}, slog.New(slog.DiscardHandler))
	}()
	// All is read at once: a socket holds a few messages, and whoever has more to say waits.
	heard := make(chan string, 10_000)
	go func() {
		buf := make([]byte, 100)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return // at the end of the test
			}
			heard <- string(buf[:n])
		}
	}()
	hear := func() string {
		t.Helper()
		select {
		case got := <-heard:
			return got
		case <-time.After(30 * time.Second):
			t.Fatal("nothing is heard")
			return ""
		}
	}
	for i, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := hear(); got != want {
			t.Fatalf("message %d: %q, want %q", i, got, want)
		}
	}
	stop()
	<-done
	for got := hear(); got != "STOPPING=1"; got = hear() {
		if got != "WATCHDOG=1" {
			t.Fatalf("at the end: %q", got)
		}
	}
	// The agent makes way for another, in the same process.
	goesOn, leave := context.WithCancelCause(t.Context())
	leave(ErrGoesOn)
	Run(goesOn, Config{}, func() {}, slog.New(slog.DiscardHandler))
	if got := hear(); got != "READY=1" {
		t.Fatalf("at the start: %q", got)
	}
	last, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		_, err = last.Write([]byte("that was all"))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	for got := hear(); got != "that was all"; got = hear() {
		if got != "WATCHDOG=1" {
			t.Fatalf("it goes on, and says %q", got)
		}
	}
}

// TestNoSignOfLifeFromAnAgentThatHangs: and again when it gets on.
func TestNoSignOfLifeFromAnAgentThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fed atomic.Int64
		closed := false
		w := &watcher{"test", 10 * time.Second, func() error { fed.Add(1); return nil }, func() { closed = true }}
		hangs := make(chan struct{})
		close(hangs)
		var wait atomic.Value
		wait.Store(hangs)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			keep(ctx, func() (*watcher, error) { return w, nil }, func() { <-wait.Load().(chan struct{}) }, slog.New(slog.DiscardHandler))
		}()
		at := func(pause time.Duration, want int64) {
			t.Helper()
			time.Sleep(pause)
			synctest.Wait()
			if got := fed.Load(); got != want {
				t.Fatalf("fed %d times, want %d", got, want)
			}
		}
		at(time.Second, 1)
		at(20*time.Second, 3)
		hangs = make(chan struct{})
		wait.Store(hangs)
		at(time.Hour, 3)
		close(hangs)
		at(15*time.Second, 6)
		stop()
		<-done
		if !closed {
			t.Error("it was not closed")
		}
	})
}

// TestAWatchdogThatIsNotThereIsTriedAgain: and is no reason not to run.
func TestAWatchdogThatIsNotThereIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := 0
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			keep(ctx, func() (*watcher, error) { opened++; return nil, errors.New("busy") }, func() {}, slog.New(slog.DiscardHandler))
		}()
		time.Sleep(5*again + time.Second)
		synctest.Wait()
		if opened != 6 {
			t.Errorf("tried %d times", opened)
		}
		stop()
		<-done
	})
}

func TestWhatIsNoWatchdogIsNotFed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, device := range []string{path, path + "-none"} {
		if w, err := hardware(Config{Device: device}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), device) {
			t.Errorf("%s: %v, %v", device, w, err)
		}
	}
	if data, err := os.ReadFile(path); err != nil || len(bytes.TrimSpace(data)) > 1 {
		t.Errorf("%q was written, %v", data, err)
	}
}

func TestATimeoutThatCannotBeSetIsRefused(t *testing.T) {
	for _, d := range []time.Duration{-time.Second, 1500 * time.Millisecond, 2 * time.Hour} {
		if err := (&Config{Timeout: d}).Validate(); err == nil || !strings.HasPrefix(err.Error(), "timeout: ") {
			t.Errorf("%v: %v", d, err)
		}
	}
}

// TestAWatchdogThatKeepsItsTimeoutIsFed: it counts since it was opened, and with nowayout
// on when it is closed.
func TestAWatchdogThatKeepsItsTimeoutIsFed(t *testing.T) {
	set := setTimeout
	t.Cleanup(func() { setTimeout = set })
	setTimeout = func(int, uint, int) error { return unix.EINVAL }
	path := filepath.Join(t.TempDir(), "watchdog")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := hardware(Config{Device: path, Timeout: time.Hour}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if w.every != unknown {
		t.Errorf("fed every %v", w.every)
	}
	if w.close(); w.feed() == nil {
		t.Error("it was not closed")
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "V" {
		t.Errorf("at its end it was told %q, %v", data, err)
	}
}
