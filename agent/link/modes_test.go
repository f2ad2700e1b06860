package link

import (
	"testing"
	"time"
)

// TestABrokerThatIsAwayIsAskedByTheSchedule: some tries a wake, and then no more until the
// next one, so that a day without the broker is not a day with the radio on.
func TestABrokerThatIsAwayIsAskedByTheSchedule(t *testing.T) {
	const interval = 24 * time.Hour
	tries := 0
	for at, failures := time.Duration(0), 1; at < 10*interval; failures++ {
		at += retryAfter(failures, 2*time.Minute, interval)
		tries++
	}
	if tries > 10*triesPerWake {
		t.Errorf("%d tries in ten days", tries)
	}
	if got := retryAfter(triesPerWake, time.Hour, time.Minute); got != time.Minute {
		t.Errorf("with a short interval: %v", got)
	}
}
