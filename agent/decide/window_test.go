package decide

import (
	"testing"
	"time"

	"groundswell/topics"

	"pgregory.net/rapid"
)

func zone(t testing.TB, name string) *time.Location {
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func windowed(opens time.Time, spread time.Duration, windows ...topics.Window) topics.Entry {
	return entry("r-1", func(e *topics.Entry) {
		e.Waves = []topics.Wave{{Threshold: topics.Buckets, OpensAt: opens, SpreadSeconds: int64(spread.Seconds())}}
		e.Windows = windows
	})
}

func TestWindowsAreReadInTheDevicesOwnZone(t *testing.T) {
	night := topics.Window{Start: "22:00", End: "05:00"}
	e := windowed(now.Add(-time.Hour), 0, night)
	for _, c := range []struct {
		assignment, own string
		want            time.Time
	}{
		{"Europe/Berlin", "", time.Date(2027, 3, 3, 21, 0, 0, 0, time.UTC)},
		{"", "America/New_York", time.Date(2027, 3, 4, 3, 0, 0, 0, time.UTC)},
		{"Europe/Berlin", "America/New_York", time.Date(2027, 3, 3, 21, 0, 0, 0, time.UTC)}, // the assignment's word counts
		{"", "", time.Date(2027, 3, 3, 22, 0, 0, 0, time.UTC)},
	} {
		a, held := world([]topics.Entry{e})
		a.TimeZone = c.assignment
		f := facts("1.0.0")
		if c.own != "" {
			f.Location = zone(t, c.own)
		}
		got, _ := Decide(valid(a, held), f, now)
		d := got["system"]
		if d.Action != Wait || d.Reason != ReasonWindow || !d.Until.Equal(c.want) {
			t.Errorf("%q, %q: got %s until %v, want %v", c.assignment, c.own, d.Reason, d.Until, c.want)
		}
	}
}

func TestOpeningWindowSpreadsTheWaitingAnew(t *testing.T) {
	night := topics.Window{Start: "22:00", End: "23:00"}
	opening := time.Date(2027, 3, 3, 22, 0, 0, 0, time.UTC)
	cases := []struct {
		name   string
		opens  time.Time
		spread time.Duration
		bucket int64
		want   time.Time
	}{
		{"short spread", now.Add(-time.Hour), 20 * time.Minute, 500_000, opening.Add(10 * time.Minute)},
		{"spread longer than the window", now.Add(-time.Hour), 24 * time.Hour, 250_000, opening.Add(15 * time.Minute)},
		{"first in the wave", now.Add(-time.Hour), 20 * time.Minute, 0, opening},
		{"wave opens while the window is shut", opening.Add(-time.Minute), 20 * time.Minute, 0, opening},
		{"turn comes within the window", opening.Add(5 * time.Minute), 20 * time.Minute, 500_000, opening.Add(15 * time.Minute)},
		{"turn comes after the window: the next day", opening.Add(-time.Hour), 200 * time.Minute, 750_000, opening.Add(24*time.Hour + 45*time.Minute)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := facts("1.0.0")
			f.Bucket = c.bucket
			e := []topics.Entry{windowed(c.opens, c.spread, night)}
			// Ask, sleep as told, ask again, as the agent does.
			at := now
			for range 10 {
				d := decideAt(t, f, at, e)
				if d.Action == Start {
					break
				}
				if !d.Until.After(at) {
					t.Fatalf("at %v it waits until %v", at, d.Until)
				}
				at = d.Until
			}
			if !at.Equal(c.want) {
				t.Errorf("starts at %v, want %v", at, c.want)
			}
			if early := decideAt(t, f, c.want.Add(-time.Second), e); early.Action != Wait {
				t.Errorf("a second early: %+v", early)
			}
		})
	}
}

func TestMissedWindowSpreadsAgainInTheNext(t *testing.T) {
	night := topics.Window{Start: "22:00", End: "23:00"}
	e := []topics.Entry{windowed(now.Add(-time.Hour), time.Hour, night)}
	f := facts("1.0.0") // position 500,000: 22:30
	day := time.Date(2027, 3, 4, 0, 0, 0, 0, time.UTC)
	if d := decideAt(t, f, day.Add(22*time.Hour+10*time.Minute), e); d.Action != Wait || !d.Until.Equal(day.Add(22*time.Hour+30*time.Minute)) {
		t.Fatalf("device that was off yesterday: %+v", d)
	}
	if d := decideAt(t, f, day.Add(22*time.Hour+40*time.Minute), e); d.Action != Start {
		t.Fatalf("device that comes up late: %+v", d)
	}
}

func TestAdjoiningWindowsAreOne(t *testing.T) {
	e := []topics.Entry{windowed(now.Add(-13*time.Hour), 0,
		topics.Window{Start: "00:00", End: "12:00"}, topics.Window{Start: "12:00", End: "00:00"})}
	if d := decideAt(t, facts("1.0.0"), now.Add(time.Minute), e); d.Action != Start {
		t.Fatalf("got %+v", d)
	}
}

func TestWindowAcrossDaylightSavingChange(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	// Clocks go from 02:00 to 03:00 on 28 March 2027, and from 03:00 back to
	// 02:00 on 31 October 2027.
	cases := []struct {
		name   string
		window topics.Window
		at     time.Time
		spread time.Duration
		want   time.Time
	}{
		{"start is skipped: the moment after the gap", topics.Window{Start: "02:30", End: "04:00"},
			time.Date(2027, 3, 28, 0, 0, 0, 0, berlin), 0, time.Date(2027, 3, 28, 1, 0, 0, 0, time.UTC)},
		{"short night: the spread is cut to what there is", topics.Window{Start: "01:00", End: "05:00"},
			time.Date(2027, 3, 28, 0, 0, 0, 0, berlin), 10 * time.Hour, time.Date(2027, 3, 28, 1, 30, 0, 0, time.UTC)},
		{"long night: there is an hour more", topics.Window{Start: "01:00", End: "05:00"},
			time.Date(2027, 10, 31, 0, 0, 0, 0, berlin), 10 * time.Hour, time.Date(2027, 10, 31, 1, 30, 0, 0, time.UTC)},
		{"start comes twice: the first", topics.Window{Start: "02:30", End: "05:00"},
			time.Date(2027, 10, 31, 0, 0, 0, 0, berlin), 0, time.Date(2027, 10, 31, 0, 30, 0, 0, time.UTC)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a, held := world([]topics.Entry{windowed(c.at.Add(-12*time.Hour), c.spread, c.window)})
			a.TimeZone = "Europe/Berlin"
			got, _ := Decide(valid(a, held), facts("1.0.0"), c.at)
			d := got["system"]
			if d.Action != Wait || !d.Until.Equal(c.want) {
				t.Fatalf("got %s %s until %v, want %v", d.Action, d.Reason, d.Until.UTC(), c.want)
			}
			if got, _ = Decide(valid(a, held), facts("1.0.0"), c.want); got["system"].Action != Start {
				t.Fatalf("at its moment: %+v", got["system"])
			}
		})
	}
}

// Whatever the windows and the wave: following Until leads to a start within
// an open window, never earlier than the wave allows, in a few steps.
func TestFollowingUntilLeadsToAStart(t *testing.T) {
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia"}
	clock := rapid.Custom(func(r *rapid.T) string {
		return time.Date(2000, 1, 1, rapid.IntRange(0, 23).Draw(r, "h"), rapid.IntRange(0, 59).Draw(r, "m"), 0, 0, time.UTC).Format("15:04")
	})
	rapid.Check(t, func(r *rapid.T) {
		loc := zone(t, rapid.SampledFrom(zones).Draw(r, "zone"))
		var windows []topics.Window
		for range rapid.IntRange(1, 3).Draw(r, "windows") {
			w := topics.Window{Start: clock.Draw(r, "start"), End: clock.Draw(r, "end")}
			if rapid.Bool().Draw(r, "weekly") {
				w.Days = []string{rapid.SampledFrom([]string{"mon", "wed", "sun"}).Draw(r, "day")}
			}
			windows = append(windows, w)
		}
		begin := time.Date(2027, time.Month(rapid.IntRange(1, 12).Draw(r, "month")), rapid.IntRange(1, 28).Draw(r, "day"), 5, 0, 0, 0, time.UTC)
		spread := time.Duration(rapid.Int64Range(0, 30*3600).Draw(r, "spread")) * time.Second
		e := windowed(begin, spread, windows...)
		f := facts("1.0.0")
		f.Location = loc
		f.Bucket = rapid.Int64Range(0, topics.Buckets-1).Draw(r, "bucket")
		a, held := world([]topics.Entry{e})
		at := begin.Add(-time.Duration(rapid.Int64Range(0, 100).Draw(r, "before")) * time.Hour)
		for step := 0; ; step++ {
			got, _ := Decide(valid(a, held), f, at)
			d := got["system"]
			if d.Action == Start {
				break
			}
			if step > 20 || d.Action != Wait || !d.Until.After(at) {
				r.Fatalf("step %d at %v: %+v", step, at, d)
			}
			at = d.Until
		}
		if open, _ := topics.InWindow(windows, at, loc); !open {
			r.Fatalf("starts at %v, outside the windows", at)
		}
		if at.Before(begin) {
			r.Fatalf("starts at %v, before the wave opens", at)
		}
	})
}

// TestDownloadsMayHaveOtherWindowsThanInstalling: the device starts in the former, and
// activates in the latter.
func TestDownloadsMayHaveOtherWindowsThanInstalling(t *testing.T) {
	e := windowed(now.Add(-24*time.Hour), 0, topics.Window{Start: "22:00", End: "23:00"})
	e.DownloadWindows = []topics.Window{{Start: "01:00", End: "05:00"}}
	a, held := world([]topics.Entry{e})
	decision := func(at time.Time) Decision {
		got, _ := Decide(valid(a, held), facts("1.0.0"), at)
		return got["system"]
	}
	midnight := time.Date(2027, 3, 4, 0, 0, 0, 0, time.UTC)
	if d := decision(midnight.Add(-90 * time.Minute)); d.Action != Wait || d.Reason != ReasonWindow || !d.Until.Equal(midnight.Add(time.Hour)) {
		t.Errorf("in the window for installing: %s %s until %v", d.Action, d.Reason, d.Until)
	}
	at := midnight.Add(2 * time.Hour)
	d := decision(at)
	if d.Action != Start {
		t.Fatalf("in the window for downloads: %s %s", d.Action, d.Reason)
	}
	d = MayActivate(Staged{Entry: e, Downloaded: at}, d, View{Live: true}, facts("1.0.0"), a, at)
	if d.Action != Wait || d.Reason != ReasonWindow || !d.Until.Equal(midnight.Add(22*time.Hour)) {
		t.Errorf("downloaded: %s %s until %v", d.Action, d.Reason, d.Until)
	}
}
