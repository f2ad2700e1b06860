package topics

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestWindowsFollowTheLocalClock(t *testing.T) {
	berlin, newYork := zone(t, "Europe/Berlin"), zone(t, "America/New_York")
	night := []Window{{Start: "22:00", End: "05:00"}}
	weekend := []Window{{Days: []string{"sat", "sun"}, Start: "10:00", End: "12:00"}}
	inGap := []Window{{Start: "02:30", End: "04:00"}}
	twice := []Window{{Start: "01:30", End: "01:45"}}
	for _, c := range []struct {
		name    string
		windows []Window
		loc     *time.Location
		now     string
		open    bool
		at      string
	}{
		{"none means always", nil, berlin, "2026-06-01T12:00:00Z", true, ""},
		{"before", night, berlin, "2026-06-01T12:00:00Z", false, "2026-06-01T20:00:00Z"},
		{"first second", night, berlin, "2026-06-01T20:00:00Z", true, "2026-06-02T03:00:00Z"},
		{"over midnight", night, berlin, "2026-06-02T01:00:00Z", true, "2026-06-02T03:00:00Z"},
		{"end is outside", night, berlin, "2026-06-02T03:00:00Z", false, "2026-06-02T20:00:00Z"},
		{"another zone, another time", night, newYork, "2026-06-01T20:00:00Z", false, "2026-06-02T02:00:00Z"},
		{"weekday", weekend, berlin, "2026-11-23T11:00:00Z", false, "2026-11-28T09:00:00Z"},
		{"weekday open", weekend, berlin, "2026-11-28T10:59:00Z", true, "2026-11-28T11:00:00Z"},
		// Berlin: 2026-03-29 02:00 -> 03:00, so the night is an hour shorter.
		{"spring night", night, berlin, "2026-03-29T00:30:00Z", true, "2026-03-29T03:00:00Z"},
		{"spring gap swallows the start", inGap, berlin, "2026-03-29T00:00:00Z", false, "2026-03-29T01:00:00Z"},
		{"spring gap, open after it", inGap, berlin, "2026-03-29T01:00:00Z", true, "2026-03-29T02:00:00Z"},
		// Berlin: 2026-10-25 03:00 -> 02:00, so the night is an hour longer.
		{"autumn night", night, berlin, "2026-10-25T03:30:00Z", true, "2026-10-25T04:00:00Z"},
		// New York: 2026-11-01 02:00 -> 01:00; 01:30 happens twice, the first counts.
		{"autumn, the first 01:30", twice, newYork, "2026-11-01T05:35:00Z", true, "2026-11-01T05:45:00Z"},
		{"autumn, not the second", twice, newYork, "2026-11-01T06:35:00Z", false, "2026-11-02T06:30:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := CheckWindows("windows", c.windows); err != nil {
				t.Fatal(err)
			}
			open, at := InWindow(c.windows, instant(t, c.now), c.loc)
			var want time.Time
			if c.at != "" {
				want = instant(t, c.at)
			}
			if open != c.open || !at.Equal(want) {
				t.Errorf("got %v %v, want %v %v", open, at.UTC(), c.open, want)
			}
		})
	}
}

// TestNextOpeningIsOpen: whatever the zone and the moment, the time that
// InWindow gives for "not now" is one at which the window is open, and the one
// that it gives for "now" is one at which it is closed or the next has begun.
func TestNextOpeningIsOpen(t *testing.T) {
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns", "Africa/Casablanca", "Pacific/Apia"}
	rapid.Check(t, func(t *rapid.T) {
		loc, err := time.LoadLocation(rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		minute := rapid.IntRange(0, 24*60-1)
		hhmm := func(name string) string {
			m := minute.Draw(t, name)
			return time.Date(2000, 1, 1, 0, m, 0, 0, time.UTC).Format("15:04")
		}
		w := Window{Start: hhmm("start"), End: hhmm("end")}
		if rapid.Bool().Draw(t, "oneDay") {
			w.Days = []string{rapid.SampledFrom(weekdays).Draw(t, "day")}
		}
		now := time.Unix(rapid.Int64Range(1_500_000_000, 2_000_000_000).Draw(t, "now"), 0)
		open, at := InWindow([]Window{w}, now, loc)
		if open {
			if !at.After(now) || at.Sub(now) > 26*time.Hour {
				t.Fatalf("open at %v until %v", now, at)
			}
			return
		}
		if at.IsZero() || !at.After(now) || at.Sub(now) > 9*24*time.Hour {
			t.Fatalf("closed at %v, next %v", now, at)
		}
		if again, _ := InWindow([]Window{w}, at, loc); !again {
			t.Fatalf("closed at %v, and still at %v", now, at)
		}
		if before, _ := InWindow([]Window{w}, at.Add(-time.Second), loc); before {
			t.Fatalf("closed at %v, said to open at %v, but open before", now, at)
		}
	})
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func instant(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}
