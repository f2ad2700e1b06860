package deploy

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/agent/assemble"
	"groundswell/agent/clock"
	"groundswell/agent/condition"
	"groundswell/agent/decide"
	"groundswell/agent/fetch"
	"groundswell/agent/journal"
	"groundswell/agent/slot"
	"groundswell/agent/update"
	"groundswell/agent/wake"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// assigned is a world of one entry, whose list of releases can be had after so many
// questions, or slowly, in more than an hour.
type assigned struct {
	idle
	floor
	entry  topics.Entry
	images trust.Images
	absent int
	slowly bool
}

func (w *assigned) World() decide.World {
	later := now.Add(time.Hour)
	return decide.World{
		Assigned: true, Assignment: topics.Assignment{Cohorts: []string{"lobby"}}, AssignmentUntil: later,
		Manifests: map[string]topics.Manifest{"lobby": {Images: &topics.SnapshotPin{}, Entries: []topics.Entry{w.entry}}},
		Until:     map[string]time.Time{"lobby": later}, View: decide.View{Live: true},
	}
}

func (w *assigned) Images(context.Context, topics.SnapshotPin) (trust.Images, error) {
	if w.slowly {
		time.Sleep(65 * time.Minute)
		return w.images, nil
	}
	if w.absent--; w.absent >= 0 {
		return trust.Images{}, errors.New("connection refused")
	}
	return w.images, nil
}

// shelf is a bank that has to download.
type shelf struct {
	*bank
	path string
}

func (s shelf) Staging(string) (string, error)   { return s.path, nil }
func (s shelf) Stage(slot.Image) (string, error) { return "", slot.ErrNotStaged }

// busySource says once that it is to be left alone for an hour. It and its time are
// outside of the bubbles of synctest.
func busySource(t *testing.T) string {
	var asked atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("x"))
	}))
	s.Config.SetKeepAlivesEnabled(false) // an open connection would stop the clock of the bubble
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

// over downloads from a source as a device does.
func over(source string) Downloads {
	client := fetch.New(fetch.Config{Sources: func() []string { return []string{source} }, BackoffMin: 40 * time.Minute, BackoffMax: 40 * time.Minute})
	return assemble.Downloads{Client: client, Log: slog.New(slog.DiscardHandler)}
}

// slow brings an artifact, and takes its time.
type slow struct{ idle }

func (slow) Artifact(_ context.Context, _ fetch.Artifact, path string, tell func(int64, topics.Transfer)) error {
	for range 65 {
		time.Sleep(time.Minute)
		tell(1, topics.Transfer{})
	}
	return os.WriteFile(path, []byte("x"), 0o600)
}

// said is a status, and when it was sent; the last of several is when the download ended.
type said struct {
	topics.Status
	after time.Duration
}

// download runs what brings an artifact, and returns what a device that is connected says
// meanwhile.
func download(t *testing.T, from Downloads, absent int, w *wake.Wake) (list []said) {
	t.Helper()
	images, entry := signed(t)
	entry.Rollout, entry.Revision, entry.Sequence, entry.State = "r-1", 1, 1, topics.EntryRunning
	entry.Waves = []topics.Wave{{Threshold: topics.Buckets, OpensAt: now.Add(-time.Hour)}}
	world := &assigned{entry: entry, images: images, absent: absent, slowly: absent < 0}
	j, err := journal.Open(t.TempDir(), now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	boot := func() time.Duration { return time.Since(started) }
	slots := shelf{&bank{}, filepath.Join(t.TempDir(), "staging")}
	d := New(Config{Component: "system", Device: "cam-1", Model: "cam-a", Wake: w}, NewDevice(world, condition.Config{}), slots, world,
		from, j, clock.NewFrom(now, func() time.Time { return now }, boot), slog.New(slog.DiscardHandler))
	d.dep = journal.Deployment{State: update.Downloading, Cohort: "lobby", Attempt: 1, From: "1.0.0", Entry: entry}
	ctx, cancel := context.WithCancel(t.Context())
	began, sent := time.Now(), make(chan struct{})
	go func() {
		defer close(sent)
		for {
			for report, ok := j.Next(); ok; report, ok = j.Next() {
				s, err := topics.DecodeStatus(report.Payload)
				if err := errors.Join(err, j.Sent(report.ID)); err != nil {
					t.Error(err)
				}
				list = append(list, said{s, time.Since(began)})
			}
			select {
			case <-ctx.Done():
				return
			case <-j.Changed():
			}
		}
	}()
	if s, ok := from.(*stalling); ok {
		s.driver = d
	}
	d.account.stands(errDisk) // what was said of an attempt before
	if event, err := d.fetch(ctx); event != update.Fetched || err != nil {
		t.Errorf("%q, %v: %s", event, err, d.dep.Detail)
	}
	end := said{after: time.Since(began)}
	synctest.Wait()
	cancel()
	<-sent
	if data, err := os.ReadFile(slots.path); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
	return append(list, end)
}

// regularly checks that something was said every so long, for one reason.
func regularly(t *testing.T, list []said, every time.Duration, reason, detail string) {
	t.Helper()
	last := time.Duration(0)
	for i, s := range list {
		if gap := s.after - last; gap > every+time.Minute || gap < every-time.Minute && i < len(list)-1 {
			t.Errorf("report %d of %d after another %v", i+1, len(list), gap)
		}
		if last = s.after; i == len(list)-1 {
			break // the end of it
		}
		if s.State != topics.StateDownloading || s.Reason != reason || !strings.Contains(s.Detail, detail) || s.Bytes != 1 {
			t.Errorf("%+v", s)
		}
	}
	if last < time.Hour-time.Minute || len(list) < int(last/every) {
		t.Errorf("%d reports in %v", len(list), last)
	}
}

// TestADownloadThatStandsStillSaysSo: fleetd would take a device for silent that waits for
// a source, which is a failure.
func TestADownloadThatStandsStillSaysSo(t *testing.T) {
	source := busySource(t)
	synctest.Test(t, func(t *testing.T) { regularly(t, download(t, over(source), 0, nil), retell, "busy", "is busy for") })
}

// TestADownloadThatCannotBeginSaysSo: for the list of releases cannot be had.
func TestADownloadThatCannotBeginSaysSo(t *testing.T) {
	source := busySource(t)
	resp, err := http.Get(source) // it is busy no more
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	synctest.Test(t, func(t *testing.T) {
		regularly(t, download(t, over(source), 12, nil), retell, "fetch", "connection refused")
	})
}

// TestADeviceThatSleepsSaysOnceInEachWakeThatItsDownloadStandsStill: whether wakes have
// limits, or the download goes on in between.
func TestADeviceThatSleepsSaysOnceInEachWakeThatItsDownloadStandsStill(t *testing.T) {
	for _, c := range []struct {
		limits         wake.Limits
		reason, detail string
	}{{wake.Limits{}, "busy", "is busy for"}, {wake.Limits{Awake: time.Minute}, ReasonBudget, "0 of 1 bytes"}} {
		source := busySource(t)
		synctest.Test(t, func(t *testing.T) {
			w := wake.New(c.limits)
			w.Begin()
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				for tick := time.Tick(25 * time.Minute); ctx.Err() == nil; {
					select {
					case <-tick:
						w.Begin()
					case <-ctx.Done():
					}
				}
			}()
			list := download(t, over(source), 0, w)
			cancel()
			if c.reason == ReasonBudget {
				list = list[1:] // the first one is told at once
			}
			regularly(t, list, 25*time.Minute, c.reason, c.detail)
		})
	}
}

// TestADownloadThatTakesLongSaysHowFarItIs: without a reason, for it gets on.
func TestADownloadThatTakesLongSaysHowFarItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { regularly(t, download(t, slow{}, 0, nil), retell, "", "") })
}

// TestWhatWasTheMatterBeforeIsNotSaidAgain, of a download that has only begun.
func TestWhatWasTheMatterBeforeIsNotSaidAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { regularly(t, download(t, slow{}, -1, nil), retell, "", "") })
}

// stalling brings nothing, until another component has had its turn.
type stalling struct {
	idle
	driver *Driver
	turns  int
}

func (s *stalling) Artifact(ctx context.Context, a fetch.Artifact, path string, _ func(int64, topics.Transfer)) error {
	if s.turns++; s.turns > 1 {
		return os.WriteFile(path, []byte("x"), 0o600)
	}
	a.Interrupted(errDisk)
	go func() {
		_ = s.driver.device.fetch(context.WithoutCancel(ctx), func(context.Context, func(int64)) error { time.Sleep(65 * time.Minute); return nil })
	}()
	<-ctx.Done()
	return ctx.Err()
}

// TestADownloadThatGivesUpItsTurnSaysThatItWaits: what was the matter with it before is not
// why it waits.
func TestADownloadThatGivesUpItsTurnSaysThatItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		regularly(t, download(t, &stalling{}, 0, nil), retell, reasonComponent, errTurn.Error())
	})
}

// TestTheTimeAsleepCounts: what was said before a long sleep was said long ago.
func TestTheTimeAsleepCounts(t *testing.T) {
	up := time.Hour
	a := account{uptime: func() time.Duration { return up }}
	if !a.due() {
		t.Error("nothing was said yet, and nothing is due")
	}
	a.said()
	if long, _ := a.rest(); a.due() || long != retell {
		t.Errorf("due %v, in %v", a.due(), long)
	}
	up += retell // Go's own clock stands still in a sleep
	if long, _ := a.rest(); !a.due() || long != 0 {
		t.Errorf("due %v, in %v", a.due(), long)
	}
}
