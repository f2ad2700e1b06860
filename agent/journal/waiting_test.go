package journal

import (
	"log/slog"
	"testing"
	"time"

	"groundswell/topics"
)

func TestWaitingIsBoundedAndInTheOrderOfSending(t *testing.T) {
	j, err := Open(t.TempDir(), time.Now(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Update(func(r *Record) error {
		for _, kind := range []topics.Kind{topics.KindHeartbeat, topics.KindLog, topics.KindStatus, topics.KindStatus} {
			if err := r.queue(kind, []byte(`"0123456789"`), nil, false); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	kinds := func(list []Report) (s string) {
		for _, r := range list {
			s += string(r.Kind)[:1]
		}
		return s
	}
	for _, c := range []struct {
		n, size int
		want    string
	}{{16, 1000, "sslh"}, {3, 1000, "ssl"}, {16, 47, "ssl"}, {16, 48, "sslh"}, {16, 11, ""}, {0, 1000, ""}} {
		if got := kinds(j.Waiting(c.n, c.size)); got != c.want {
			t.Errorf("at most %d and %d bytes: %q, want %q", c.n, c.size, got, c.want)
		}
	}
	if next, ok := j.Next(); !ok || next.ID != j.Waiting(1, 1000)[0].ID {
		t.Error("Next is another")
	}
}
