package link

import (
	"testing"
	"time"
)

// TestABrokerThatIsAwayIsAskedByTheSchedule: some tries a wake, and then no more until the
// next one, so that a day without the broker is not a day with the radio on.
func TestABrokerThatIsAwayIsAskedByTheSchedule(t *testing.T) {
	const interval = 24 * time.Hour
	tries, began := 0, time.Duration(0)
	for at, failures := time.Duration(0), 1; at < 10*interval; failures++ {
		at += retryAfter(failures, 2*time.Minute, began+interval-at)
		if tries++; at >= began+interval {
			began += interval // no wake is later than it would be with a broker
			if at != began {
				t.Fatalf("the wake at %v is at %v", began, at)
			}
		}
	}
	if tries != 10*triesPerWake {
		t.Errorf("%d tries in ten days", tries)
	}
	if got := retryAfter(1, time.Hour, time.Minute); got != time.Minute {
		t.Errorf("with a short interval: %v", got)
	}
	if got := retryAfter(triesPerWake, time.Hour, -time.Minute); got != 0 {
		t.Errorf("when the next wake is due: %v", got)
	}
}
