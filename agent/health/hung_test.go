package health

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestADiskThatHangsIsAskedOnce, until it answers: each time more would hang as well.
func TestADiskThatHangsIsAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		release := make(chan struct{})
		statfs = func(string, *unix.Statfs_t) error {
			asked.Add(1)
			<-release
			return nil
		}
		defer func() { statfs = unix.Statfs }()
		e := newExaminer(Config{Checks: []Check{{Disk: "/data", FreeMB: 0}}})
		for range 5 {
			if p := e.ask(t.Context(), time.Second, Component{}); p == nil || p.kind != kindDisk {
				t.Fatalf("a disk that hangs: %+v", p)
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("it was asked %d times", n)
		}
		close(release)
		synctest.Wait()
		if p := e.ask(t.Context(), time.Second, Component{}); p != nil || asked.Load() != 2 {
			t.Errorf("a disk that answers again: %+v, asked %d times", p, asked.Load())
		}
	})
}
