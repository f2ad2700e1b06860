package allowance

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"groundswell/agent/clock"
	"groundswell/agent/condition"
	"groundswell/agent/journal"
	"groundswell/topics"

	"golang.org/x/time/rate"
)

// The reasons of holds.
const (
	ReasonWindow        = "download-window"
	ReasonBudget        = "daily-budget"
	ReasonMetered       = "metered"
	ReasonMeteredBudget = "metered-budget"
)

// Allowance is what may be downloaded now. It is safe for concurrent use. A nil Allowance
// has no limits.
type Allowance struct {
	cfg     Config
	device  string
	clock   *clock.Clock
	log     *slog.Logger
	limiter *rate.Limiter // nil: any rate
	asking  chan struct{} // held while the link is asked about

	mu      sync.Mutex // guards what follows; the journal's and the zone's are taken under it
	journal *journal.Journal
	zone    func() *time.Location
	usage   journal.Usage
	written journal.Usage // what the journal says
	anchor  time.Duration // uptime when the day began, or the agent
	link    link
	wanted  []topics.Window // of the download that is under way
	shut    shut
}

// link is what was found out about the link.
type link struct {
	metered bool
	detail  string
	until   time.Duration // uptime at which it is asked again
}

// New does no I/O. Nothing is remembered, and days are those of UTC, until Remember.
func New(cfg Config, device string, clk *clock.Clock, log *slog.Logger) *Allowance {
	if cfg.Metered.Again == 0 {
		cfg.Metered.Again = defaultAgain
	}
	a := &Allowance{
		cfg: cfg, device: device, clock: clk, log: log, asking: make(chan struct{}, 1),
		anchor: clk.Uptime(), zone: func() *time.Location { return time.UTC },
	}
	if cfg.Rate > 0 {
		a.limiter = rate.NewLimiter(rate.Limit(cfg.Rate), a.burst())
	}
	return a
}

// Remember goes on with what the journal says, and keeps it up to date. zone is where
// windows are read and days begin.
func (a *Allowance) Remember(j *journal.Journal, zone func() *time.Location) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.journal, a.zone = j, zone
	before := a.usage
	a.usage = j.Snapshot().Usage
	a.written = a.usage
	a.usage.Bytes += before.Bytes
	a.usage.Metered += before.Metered
}

// Rate is Config.Rate.
func (a *Allowance) Rate() int64 {
	if a == nil {
		return 0
	}
	return a.cfg.Rate
}

// Look says what keeps from downloading now, in the windows that the rollout wants besides
// the device's own; nil: nothing does.
func (a *Allowance) Look(ctx context.Context, wanted []topics.Window) *condition.Hold {
	if a == nil {
		return nil
	}
	a.ask(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hold(wanted)
}

// Keeps reports whether a hold is one of Look's: bytes may not come from the internet, and
// what comes from elsewhere is another matter.
func Keeps(h *condition.Hold) bool {
	switch h.Reason {
	case ReasonWindow, ReasonBudget, ReasonMetered, ReasonMeteredBudget:
		return true
	}
	return false
}

// TakesNothing reports whether not even metadata may come now: the link costs by the byte,
// and the configuration has the device wait for another one. Windows and budgets are about
// more than that.
func (a *Allowance) TakesNothing(ctx context.Context) bool {
	if a == nil {
		return false
	}
	a.ask(ctx)
	return a.Metered() && a.then() == ThenWait
}

// Metered reports whether the link costs by the byte, as it was found out last, by Look or
// after Begin. It is not where nobody can find out.
func (a *Allowance) Metered() bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.link.metered
}

// Begin says that a download begins, in windows as for Look, and keeps asking about the
// link until end is called. One at a time.
func (a *Allowance) Begin(ctx context.Context, wanted []topics.Window) (end func()) {
	if a == nil {
		return func() {}
	}
	a.want(wanted)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if len(a.cfg.Metered.Unmetered) == 0 {
			return
		}
		tick := time.NewTicker(a.cfg.Metered.Again)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				a.ask(ctx)
			}
		}
	}()
	return func() {
		cancel()
		<-done
		a.want(nil)
	}
}

func (a *Allowance) want(windows []topics.Window) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wanted, a.shut = windows, shut{}
}

// Left is how many bytes may still be downloaded now, at least 0; limited is false when any
// number may be. It is 0 while something else keeps from downloading.
func (a *Allowance) Left() (bytes int64, limited bool) {
	if a == nil {
		return 0, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed() || a.link.metered && a.then() == ThenWait {
		return 0, true
	}
	return a.left()
}

// left is by the budgets alone. The caller holds mu.
func (a *Allowance) left() (bytes int64, limited bool) {
	if a.cfg.share() == 0 {
		return 0, false
	}
	a.turn()
	if b := a.cfg.DailyBudget; b > 0 {
		bytes, limited = max(0, b-a.usage.Bytes), true
	}
	if a.link.metered && a.then() == ThenBudget {
		metered := max(0, a.cfg.Metered.DailyBudget-a.usage.Metered)
		if !limited || metered < bytes {
			bytes, limited = metered, true
		}
	}
	return bytes, limited
}

func (a *Allowance) then() string {
	if a.cfg.Metered.Then == "" {
		return ThenWait
	}
	return a.cfg.Metered.Then
}

// glance is the longest time between two looks: clocks are set, and zones change.
const glance = time.Minute

// hold is Look by what is known. The caller holds mu.
func (a *Allowance) hold(wanted []topics.Window) *condition.Hold {
	now := a.clock.Now()
	until := func(at time.Time, reason, detail string) *condition.Hold {
		h := &condition.Hold{Reason: reason, Detail: detail, Again: glance, Until: at}
		if in := at.Sub(now); !at.IsZero() && in < glance {
			h.Again = max(in, time.Second)
		}
		return h
	}
	for _, windows := range [][]topics.Window{a.cfg.Windows, wanted} {
		if open, at := a.window(windows, now); !open {
			return until(at, ReasonWindow, "downloads have a window, and it is shut")
		}
	}
	if a.link.metered && a.then() == ThenWait {
		h := until(time.Time{}, ReasonMetered, a.link.detail)
		h.Again = a.cfg.Metered.Again
		return h
	}
	if bytes, limited := a.left(); !limited || bytes > 0 {
		return nil
	}
	next := a.usage.Until
	if next.Sub(now) > longestDay {
		next = time.Time{} // nobody knows: a clock that was wrong has said it
	}
	if b := a.cfg.DailyBudget; b > 0 && a.usage.Bytes >= b {
		return until(next, ReasonBudget, fmt.Sprintf("%d bytes were used of %d a day", a.usage.Bytes, b))
	}
	return until(next, ReasonMeteredBudget, fmt.Sprintf("%d bytes were used of %d a day on metered links", a.usage.Metered, a.cfg.Metered.DailyBudget))
}

// ask finds out about the link, unless that was done a while ago.
func (a *Allowance) ask(ctx context.Context) {
	if len(a.cfg.Metered.Unmetered) == 0 {
		return
	}
	select {
	case a.asking <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-a.asking }()
	a.mu.Lock()
	known := a.clock.Uptime() < a.link.until
	a.mu.Unlock()
	if known {
		return
	}
	fact := condition.Fact{Name: "unmetered", Command: a.cfg.Metered.Unmetered}
	detail, unmetered := fact.Ask(ctx)
	if ctx.Err() != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.link.metered == unmetered || a.link.until == 0 {
		a.log.Info("the link was asked about", "metered", !unmetered, "detail", detail)
	}
	// A little early for the next round of Begin.
	a.link = link{!unmetered, detail, a.clock.Uptime() + a.cfg.Metered.Again*9/10}
}
