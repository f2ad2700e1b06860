package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"groundswell/agent/deploy"
	"groundswell/agent/journal"
	"groundswell/agent/link"
	"groundswell/agent/peers"
	"groundswell/agent/telemetry"
	"groundswell/agent/update"
	"groundswell/internal/backoff"
	"groundswell/internal/cli"

	"golang.org/x/sync/errgroup"
)

// exitLeft is the exit code of run --once when there is work left.
const exitLeft = 3

const onceHelp = "Run one wake, for a device that something else wakes: check in, work within the\n" +
	"budget of polling.awake and polling.bytes, report, exit. 0: nothing more to do;\n" +
	"3: work is left; 1: it went wrong. A line of JSON says why, and until when. Only\n" +
	"where all components run without the agent (machine, rauc, module)."

// left is what run --once prints: what is left to do, if anything.
type left struct {
	Left bool `json:"left"`
	// State is that of the deployment, Reason what it waits for.
	State  update.State `json:"state,omitempty"`
	Reason string       `json:"reason,omitempty"`
	// Reports wait that the broker did not take.
	Reports int `json:"reports,omitempty"`
	// Until is when there will be something to do. Absent: at the next regular wake.
	Until time.Time `json:"until,omitzero"`
}

// runOnce is one wake.
func runOnce(ctx context.Context, cfg Config, log *slog.Logger) error {
	return wakeOnce(ctx, cfg, os.Stdout, log)
}

func wakeOnce(ctx context.Context, cfg Config, out io.Writer, log *slog.Logger) error {
	for _, c := range cfg.listed() {
		if c.process() {
			return cli.UsageError("--once: component %s is a process that the agent keeps running (see firmware), and would end with it; it is for machine, rauc and module", c.Name)
		}
	}
	tail := telemetry.NewTail(32 << 10)
	log = slog.New(slog.NewMultiHandler(log.Handler(), slog.NewJSONHandler(tail, nil)))
	unlock, err := lock(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	parts, err := openParts(ctx, cfg, log)
	if err != nil {
		return err
	}
	cfg.TLS.Resume = false      // what ends now resumes nothing
	cfg.Peers = peers.Default() // and would leave others waiting
	running, stop := context.WithCancel(ctx)
	g, running := errgroup.WithContext(running)
	var alive vitals
	var judged driven
	var proved []proving
	for _, p := range parts {
		proved = append(proved, p.slots)
		g.Go(func() error { return p.slots.Run(running) })
		g.Go(func() error {
			guard(running, p.Name, p.slots, &judged, cfg.Unmanaged, log)
			return nil
		})
	}
	t := &turn{awake: cfg.Polling.Awake, begun: make(chan struct{})}
	err = whileOnTrial(running, proved, cfg.Retry, log, func() error {
		return manage(running, cfg, parts, &alive, &judged, tail, t, log)
	})
	stop()
	if errRun := g.Wait(); err == nil || errors.Is(err, errOver) && errRun != nil {
		err = errRun
	}
	if err == nil { // told to stop
		return cli.Exit(exitLeft, nil)
	}
	if !errors.Is(err, errOver) {
		return err
	}
	line, err := json.Marshal(t.left)
	if err == nil {
		_, err = fmt.Fprintf(out, "%s\n", line)
	}
	if err == nil && t.left.Left {
		return cli.Exit(exitLeft, nil)
	}
	return err
}

// whileOnTrial manages the device again as long as that fails and something is on trial: a
// wake that ended now would leave it unjudged until the next one. So either the device can
// be managed, or a guard puts back what is on trial.
func whileOnTrial(ctx context.Context, slots []proving, b Backoff, log *slog.Logger, manage func() error) error {
	for n := 1; ; n++ {
		err := manage()
		onTrial := slices.ContainsFunc(slots, func(s proving) bool { return s.Running().Trial })
		if err == nil || errors.Is(err, errOver) || !onTrial {
			return err
		}
		log.Error("device is not managed while something is on trial, trying again", "err", err)
		if backoff.Range(b).Pause(ctx, n) != nil {
			return err
		}
	}
}

// errOver ends a turn.
var errOver = errors.New("the turn is over")

// turn is a wake of run --once. A nil turn has no end.
type turn struct {
	awake time.Duration
	begun chan struct{} // closed when the driver may begin
	once  sync.Once
	left  left
}

// begin lets the driver begin.
func (t *turn) begin() {
	if t != nil {
		t.once.Do(func() { close(t.begun) })
	}
}

// await waits until the first check-in is over, where nothing is on trial: without it a
// download would be looked for in vain.
func (t *turn) await(ctx context.Context, records *journal.Journal) {
	if t == nil || !harmless(records) {
		return
	}
	select {
	case <-t.begun:
	case <-ctx.Done():
	}
}

// harmless reports whether the agent may end now: nothing has jumped.
func harmless(records *journal.Journal) bool {
	for _, d := range records.Snapshot().Deployments {
		if d.State != update.Idle && !d.State.Harmless() {
			return false
		}
	}
	return true
}

const (
	// attempts is how often a check-in is tried in one wake.
	attempts = 3
	// watchEvery is how often a turn looks whether it is over.
	watchEvery = 50 * time.Millisecond
)

// watch returns errOver, or why nothing could be done, when the turn is over: the driver
// rests, all check-ins were made, and what there is to report was sent. What has been
// activated is brought to its end before, whatever it takes.
func (t *turn) watch(ctx context.Context, session *link.Link, drivers []*deploy.Driver, records *journal.Journal) error {
	if t == nil {
		return nil
	}
	began, sent := time.Now(), 0
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		made, failures, err := session.Turn()
		if failures > 0 || made {
			t.begin()
		}
		rest, resting := restOf(drivers)
		ends := harmless(records)
		late := t.awake > 0 && time.Since(began) >= t.awake
		switch {
		case failures >= attempts && ends:
			return fmt.Errorf("no check-in: %w", err)
		case late && ends && !resting:
			rest, resting = deploy.Rest{State: update.Downloading, Reason: deploy.ReasonBudget}, true
		case !made || !resting:
			continue
		}
		reports := len(records.Snapshot().Queue)
		if reports > 0 && sent < attempts && !late {
			sent++ // they came after the last check-in, or were not taken
			session.CheckIn()
			continue
		}
		t.left = outcome(rest, reports)
		return errOver
	}
}

// restOf is what the drivers wait for, if all of them do: that of the first with work
// left, or else of the one that looks again first.
func restOf(drivers []*deploy.Driver) (deploy.Rest, bool) {
	var first deploy.Rest
	for i, driver := range drivers {
		r, resting := driver.Rest()
		if !resting {
			return deploy.Rest{}, false
		}
		idle, before := r.State == update.Idle, first.State == update.Idle
		sooner := !r.Until.IsZero() && (first.Until.IsZero() || r.Until.Before(first.Until))
		if i == 0 || before && !idle || before == idle && sooner {
			first = r
		}
	}
	return first, true
}

// outcome is what is left when the driver rests.
func outcome(rest deploy.Rest, reports int) left {
	l := left{Reason: rest.Reason, Reports: reports}
	if !rest.Until.IsZero() {
		l.Until = rest.Until.UTC().Truncate(time.Second)
	}
	if rest.State != update.Idle {
		l.State = rest.State
	}
	l.Left = l.State != "" || reports > 0 || !l.Until.IsZero()
	return l
}
