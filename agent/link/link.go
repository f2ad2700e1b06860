package link

import (
	"context"
	"crypto/tls"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"groundswell/agent/clock"
	"groundswell/agent/decide"
	"groundswell/agent/journal"
	"groundswell/agent/telemetry"
	"groundswell/agent/verify"
	"groundswell/agent/wake"
	"groundswell/topics"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// Config is everything about the session. All durations must be above 0.
type Config struct {
	Device  string
	Servers []string
	TLS     *tls.Config
	// KeepAlive, SessionExpiry: see mqttclient.Config. In polling mode the
	// session lives at least twice the interval.
	KeepAlive, SessionExpiry time.Duration
	// BackoffMin and BackoffMax bound the pauses between attempts to connect,
	// and to send a report that was refused.
	BackoffMin, BackoffMax time.Duration
	// CheckInTimeout is how long a polling device waits for what is retained.
	CheckInTimeout time.Duration
	// Mode, Interval, Jitter and Heartbeat apply unless the assignment says
	// otherwise.
	Mode             topics.Mode
	Interval, Jitter time.Duration
	Heartbeat        time.Duration
	TimeZone         string
	// Dir is where it notes which cohorts it is in. Empty: nowhere.
	Dir string
	// Wake is told of wakes, and keeps their budget. May be nil.
	Wake *wake.Wake
	// Decided returns when the device has decided about what a check-in has brought;
	// it is called before a device that polls disconnects. May be nil.
	Decided func(context.Context)
	// Once: something else wakes the device, and ends Run when the wake is over. It
	// polls, whatever is assigned.
	Once bool
	// Saving is when a device that should stay connected polls instead.
	Saving Saving
	// RootPause is the least time between two searches for newer roots because
	// of refused messages, and before the broker is asked for another message in
	// place of a refused one. 0 means a minute.
	RootPause time.Duration
}

// Facts are what a heartbeat says about the components.
type Facts struct {
	Versions map[string]string // what runs
	BootID   string
	Logs     map[string]string // last lines, by source; asked for by a command
}

// Link is the session. Run it once.
type Link struct {
	cfg      Config
	verifier *verify.Verifier
	journal  *journal.Journal
	clock    *clock.Clock
	machine  telemetry.Machine
	facts    func(logs bool) Facts
	log      *slog.Logger
	metrics  Metrics

	// Whoever sends rubbish must not wear the disk out, nor push what matters out of
	// the log.
	tellRefusals, tellUnasked *rate.Limiter
	saver                     *saver

	changed chan struct{} // the world is another
	checkIn chan struct{} // somebody wants a check-in before its time
	curable chan struct{} // a refusal that a newer root might cure

	// taking is held while a message is verified and kept, from the first look
	// at what is assigned to the last write, so that no other, and no search
	// through what is held, comes in between. It is taken before any other lock.
	taking sync.Mutex

	mu         sync.Mutex // guards what follows; never held while verifying
	assignment *held[topics.Assignment]
	manifests  map[string]held[topics.Manifest]
	refused    map[string][]byte // by topic: curable refusals, as received
	reported   map[[32]byte]bool // refusals that were reported, bounded
	toldBroken bool              // the journal cannot be written, and that was reported
	turn       int               // how often a check-in has failed; see servers
	conn       *conn             // nil while there is no connection
	view       decide.View       // of the last complete connection; without Live and Age
	heard      time.Duration     // by the clock's Uptime: when the broker was heard last on it
	lastHeard  time.Duration     // as heard, on whatever connection; 0: never
	turns      turns             // with Once
	hint       hint
	checkInMS  int64 // how long the newest complete check-in took
}

// held is a verified body with the bytes that it came in, to be verified again
// when a root changes, and until when it may be acted upon.
type held[T any] struct {
	body  T
	raw   []byte
	until time.Time
}

// New does no I/O. facts is called for each heartbeat; metrics may be zero.
func New(cfg Config, v *verify.Verifier, j *journal.Journal, clk *clock.Clock, m telemetry.Machine, facts func(logs bool) Facts, metrics Metrics, log *slog.Logger) *Link {
	if cfg.RootPause == 0 {
		cfg.RootPause = time.Minute
	}
	l := &Link{
		cfg: cfg, verifier: v, journal: j, clock: clk, machine: m, facts: facts, log: log, metrics: metrics,
		saver:        newSaver(cfg.Saving, m),
		tellRefusals: rate.NewLimiter(rate.Every(time.Minute), 8), tellUnasked: rate.NewLimiter(rate.Every(time.Minute), 8),
		changed: make(chan struct{}, 1), checkIn: make(chan struct{}, 1), curable: make(chan struct{}, 1),
		manifests: map[string]held[topics.Manifest]{}, refused: map[string][]byte{}, reported: map[[32]byte]bool{},
	}
	l.hint.early = map[string][]byte{}
	if cfg.Dir != "" {
		l.hint.file = journal.NewFile(filepath.Join(cfg.Dir, "cohorts"))
	}
	return l
}

// Run keeps the session until ctx ends.
func (l *Link) Run(ctx context.Context) error {
	l.recall()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.keepRoots(ctx) })
	if l.cfg.Once {
		g.Go(func() error { return l.once(ctx) })
		return g.Wait()
	}
	g.Go(func() error {
		for ctx.Err() == nil {
			l.saver.look(l.log)
			if mode, _, _ := l.schedule(); mode == topics.ModePolling {
				l.poll(ctx)
			} else if err := l.stay(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// World is what the device holds now.
func (l *Link) World() decide.World {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := decide.World{
		View:      decide.View{Opened: l.view.Opened, Age: l.clock.Uptime() - l.heard},
		Manifests: make(map[string]topics.Manifest, len(l.manifests)), Until: make(map[string]time.Time, len(l.manifests)),
	}
	if l.assignment != nil {
		w.Assigned, w.Assignment, w.AssignmentUntil = true, l.assignment.body, l.assignment.until
	}
	for cohort, m := range l.manifests {
		w.Manifests[cohort], w.Until[cohort] = m.body, m.until
	}
	if c := l.conn; c != nil && c.complete {
		w.View = decide.View{Live: true, Opened: c.opened, Age: l.clock.Uptime() - c.heard}
	}
	return w
}

// Changed gets a value after World has changed. One reader.
func (l *Link) Changed() <-chan struct{} { return l.changed }

// CheckIn asks a polling device to connect before its time, and a connected one
// to find out whether it still is.
func (l *Link) CheckIn() {
	l.mu.Lock()
	l.turns.wished++
	l.mu.Unlock()
	remind(l.checkIn)
}

// Connected reports whether there is a connection now.
func (l *Link) Connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn != nil
}

// Heard is how long ago the broker was heard last; ok is false when it never was since
// the agent started.
func (l *Link) Heard() (ago time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clock.Uptime() - l.lastHeard, l.lastHeard > 0
}

// Sources are the sources that the assignment names; none: the device's own.
func (l *Link) Sources() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.assignment == nil {
		return nil
	}
	return l.assignment.body.Sources
}

// schedule is how to stay in touch: as assigned, but for a low battery.
func (l *Link) schedule() (mode topics.Mode, interval, jitter time.Duration) {
	mode, interval, jitter = l.assigned()
	if l.saver.saves() || l.cfg.Once {
		mode = topics.ModePolling
	}
	return mode, interval, jitter
}

// assigned is how to stay in touch by the assignment, where it has a word for it, and
// the device's own setting.
func (l *Link) assigned() (mode topics.Mode, interval, jitter time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	mode, interval, jitter = l.cfg.Mode, l.cfg.Interval, l.cfg.Jitter
	if l.assignment == nil {
		return mode, interval, jitter
	}
	p := l.assignment.body.Polling
	if p.Mode != "" {
		mode = p.Mode
	}
	if p.IntervalSeconds > 0 {
		interval, jitter = seconds(p.IntervalSeconds), seconds(p.JitterSeconds)
	}
	return mode, interval, jitter
}

func (l *Link) heartbeatEvery() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.assignment != nil && l.assignment.body.Telemetry.HeartbeatSeconds > 0 {
		return seconds(l.assignment.body.Telemetry.HeartbeatSeconds)
	}
	return l.cfg.Heartbeat
}

// MaxPolling bounds the interval between two check-ins, and its jitter.
const MaxPolling = 366 * 24 * time.Hour

// seconds is n seconds, at most MaxPolling: more would overflow.
func seconds(n int64) time.Duration {
	return time.Duration(min(n, int64(MaxPolling/time.Second))) * time.Second
}

func remind(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one reminder is enough
	}
}
