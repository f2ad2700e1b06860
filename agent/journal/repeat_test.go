package journal

import (
	"slices"
	"testing"

	"groundswell/topics"
)

// waits is a status that a device repeats every 10 minutes, with how far it is.
func waits(rollout string, attempt int, reason string, have int64) topics.Status {
	s := status(topics.StateDownloading)
	s.Rollout, s.Attempt, s.Reason, s.DownloadedBytes = rollout, attempt, reason, have
	return s
}

// statuses are the queue's, in the order of sending; their numbers must grow.
func statuses(t *testing.T, j *Journal) (list []topics.Status) {
	t.Helper()
	for _, report := range j.Waiting(1000, 1<<30) {
		s, err := topics.DecodeStatus(report.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) > 0 && s.Sequence <= list[len(list)-1].Sequence {
			t.Errorf("%d is sent after %d", s.Sequence, list[len(list)-1].Sequence)
		}
		list = append(list, s)
	}
	return list
}

func put(t *testing.T, j *Journal, s topics.Status) {
	t.Helper()
	update1(t, j, func(r *Record) error { return r.QueueStatus(s) })
}

// TestRepeatsDoNotPushOutWhatHappened: a device waits for long, now for this and now for
// that, and is offline.
func TestRepeatsDoNotPushOutWhatHappened(t *testing.T) {
	j := open(t, t.TempDir(), begun)
	update1(t, j, func(r *Record) error {
		for range MaxStatuses - 5 {
			if err := r.QueueStatus(status(topics.StateFailed)); err != nil {
				return err
			}
		}
		if err := r.QueueStatus(status(topics.StateTrying)); err != nil {
			return err
		}
		for n := range int64(2 * MaxStatuses) {
			if err := r.QueueStatus(waits("r-1", 2, []string{"busy", ""}[n%2], n)); err != nil {
				return err
			}
		}
		return nil
	})
	list := statuses(t, j)
	if dropped := j.Snapshot().Dropped; dropped != 0 || len(list) != MaxStatuses || list[MaxStatuses-5].State != topics.StateTrying {
		t.Errorf("%d are dropped, %d are left", dropped, len(list))
	}
	// Since when, and how it is by now.
	var have []int64
	for _, s := range list[MaxStatuses-4:] {
		have = append(have, s.DownloadedBytes)
	}
	if !slices.Equal(have, []int64{0, 1, 2*MaxStatuses - 2, 2*MaxStatuses - 1}) {
		t.Errorf("of the repeats %v are left", have)
	}
}

// TestEndsAreNotGivenUpForARepeat: not even in a queue that is full of them.
func TestEndsAreNotGivenUpForARepeat(t *testing.T) {
	j := open(t, t.TempDir(), begun)
	update1(t, j, func(r *Record) error {
		for range MaxStatuses {
			if err := r.QueueStatus(status(topics.StateFailed)); err != nil {
				return err
			}
		}
		return r.QueueStatus(waits("r-1", 2, "busy", 1))
	})
	if list := statuses(t, j); len(list) != MaxStatuses || slices.ContainsFunc(list, func(s topics.Status) bool { return !s.State.Terminal() }) {
		t.Errorf("%d are left", len(list))
	}
}

func TestOnlyWhatSaysTheSameIsARepeat(t *testing.T) {
	for name, other := range map[string]topics.Status{
		"rollout": waits("r-2", 1, "busy", 2), "attempt": waits("r-1", 2, "busy", 2), "reason": waits("r-1", 1, "", 2), "state": status(topics.StateStaged),
	} {
		j := open(t, t.TempDir(), begun)
		for _, s := range []topics.Status{waits("r-1", 1, "busy", 0), waits("r-1", 1, "busy", 1), other, other} {
			put(t, j, s)
		}
		if list := statuses(t, j); len(list) != 4 {
			t.Errorf("another %s: %d are left", name, len(list))
		}
	}
}

// TestWhatIsBeingSentDoesNotGiveWay: it may have arrived; when it has not, it does later.
func TestWhatIsBeingSentDoesNotGiveWay(t *testing.T) {
	j := open(t, t.TempDir(), begun)
	put(t, j, waits("r-1", 1, "busy", 0))
	put(t, j, waits("r-1", 1, "busy", 1))
	landed := j.Sending(j.Waiting(10, 1<<20)...)
	has := func(want ...int64) {
		t.Helper()
		var have []int64
		for _, s := range statuses(t, j) {
			have = append(have, s.DownloadedBytes)
		}
		if !slices.Equal(have, want) {
			t.Errorf("%v wait, want %v", have, want)
		}
	}
	put(t, j, waits("r-1", 1, "busy", 2))
	put(t, j, waits("r-1", 1, "busy", 3))
	has(0, 1, 3)
	landed()
	put(t, j, waits("r-1", 1, "busy", 4))
	has(0, 4)
}
