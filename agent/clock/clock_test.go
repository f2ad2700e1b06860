package clock

import (
	"fmt"
	"os"
	"testing"
	"time"

	"groundswell/topics"
)

func TestTimeNeverFallsBelowWhatWasVerified(t *testing.T) {
	machine := time.Unix(0, 0)
	built := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	c := New(built, func() time.Time { return machine })
	want := func(what string, at time.Time, quality string) {
		t.Helper()
		if got, q := c.Read(); !got.Equal(at) || q != quality {
			t.Errorf("%s: got %v, %s; want %v, %s", what, got, q, at, quality)
		}
	}
	want("a clock of 1970", built, topics.ClockFloor)
	machine = machine.Add(time.Hour)
	want("an hour later", built.Add(time.Hour), topics.ClockFloor)
	issued := built.Add(30 * 24 * time.Hour)
	c.Raise(issued)
	want("a manifest came", issued, topics.ClockFloor)
	c.Raise(built)
	want("an older one came", issued, topics.ClockFloor)
	machine = issued.Add(-30 * time.Second)
	c.Reset(issued)
	want("half a minute behind", issued, topics.ClockTrusted)
	machine = issued.Add(time.Hour)
	c = New(issued, func() time.Time { return machine })
	want("the clock was set", machine, topics.ClockTrusted)
}

func TestClockInTheFutureDoesNoLastingHarm(t *testing.T) {
	right := time.Date(2027, 3, 3, 12, 0, 0, 0, time.UTC)
	machine := right.AddDate(50, 0, 0)
	c := New(right.Add(-time.Hour), func() time.Time { return machine })
	if got := c.Now(); !got.Equal(machine) {
		t.Fatalf("got %v", got)
	}
	if got := c.Floor(); !got.Equal(right.Add(-time.Hour)) {
		t.Errorf("certain is %v", got)
	}
	c.Raise(right)
	machine = right
	if got := c.Now(); got.Sub(right).Abs() > time.Second {
		t.Fatalf("after the clock was set: %v", got)
	}
}

func TestResetLowersTheFloor(t *testing.T) {
	machine := time.Date(2027, 3, 3, 12, 0, 0, 0, time.UTC)
	c := New(machine.AddDate(80, 0, 0), func() time.Time { return machine })
	c.Reset(machine.Add(-time.Hour))
	if got, q := c.Read(); !got.Equal(machine) || q != topics.ClockTrusted {
		t.Fatalf("got %v, %s", got, q)
	}
}

// A device without a battery behind its clock, which sleeps for a night: Go's
// monotonic clock, and the machine's own, have not seen it.
func TestTimeRunsOnWhileTheDeviceSleeps(t *testing.T) {
	built := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	var boot time.Duration
	c := NewFrom(built, func() time.Time { return time.Unix(0, 0) }, func() time.Duration { return boot })
	before := c.Uptime()
	boot += 10 * time.Hour
	if got := c.Now(); !got.Equal(built.Add(10 * time.Hour)) {
		t.Errorf("the floor is at %v", got)
	}
	if got := c.Uptime() - before; got != 10*time.Hour {
		t.Errorf("it slept %v", got)
	}
}

func TestTimeSinceTheBootIsTheKernels(t *testing.T) {
	c := New(time.Time{}, nil)
	before := c.Uptime()
	data, err := os.ReadFile("/proc/uptime") // in seconds, sleep included
	if err != nil {
		t.Fatal(err)
	}
	var seconds float64
	if _, err := fmt.Sscan(string(data), &seconds); err != nil {
		t.Fatal(err)
	}
	// It is cut to hundredths.
	if after := c.Uptime(); seconds < before.Seconds()-0.01 || seconds > after.Seconds() {
		t.Errorf("%v and %v around %v", before, after, seconds)
	}
}
