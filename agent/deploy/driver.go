package deploy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/clock"
	"groundswell/agent/condition"
	"groundswell/agent/decide"
	"groundswell/agent/fetch"
	"groundswell/agent/health"
	"groundswell/agent/journal"
	"groundswell/agent/slot"
	"groundswell/agent/update"
	"groundswell/agent/wake"
	"groundswell/certs/trust"
	"groundswell/internal/backoff"
	"groundswell/topics"
)

// Slots are where versions live and run. Package slot has the one that
// supervises a process; its comments say what each method promises.
type Slots interface {
	Ready(ctx context.Context) error
	Running() slot.Running
	Trial(slot string) update.Trial
	Armed() bool
	Output() string

	Staging(sha256 string) (path string, err error)
	Stage(image slot.Image) (slot string, err error)
	Discard() error

	Activate(ctx context.Context) error
	Confirm(ctx context.Context, slot string) error
	FallBack(ctx context.Context) error
}

// Releases says what the release role has signed.
type Releases interface {
	// Images brings what a manifest pins.
	Images(ctx context.Context, pin topics.SnapshotPin) (trust.Images, error)
	// FromPeers is Images without a question to any source: what is held, or comes as the
	// documents that peers brings by their digests.
	FromPeers(ctx context.Context, pin topics.SnapshotPin, peers func(context.Context, topics.Document) ([]byte, error)) (trust.Images, error)
	// ImageRoots asks for newer roots of the image repository alone, and says how many were
	// taken, also beside an error. fetch.ErrUnsure: one source knows of no other, and not all say so.
	ImageRoots(ctx context.Context) (taken int, err error)
	// Held is what is there without fetching.
	Held() (trust.Images, error)
	// Floor is the lowest version that may be installed, by these and all lists before.
	Floor(images trust.Images, component string, f trust.Facts) (string, error)
}

// Downloads brings artifacts.
type Downloads interface {
	// Artifact tells how many bytes of it are there, and where those of this call came
	// from.
	Artifact(ctx context.Context, a fetch.Artifact, path string, tell func(have int64, t topics.Transfer)) error
	Pause(ctx context.Context, n int) error
}

// Peers are the other devices of the site.
type Peers interface {
	// Near reports whether one may have something of an artifact, and may be asked: not
	// where the link costs by the byte, nor by who sleeps between its check-ins to save its
	// battery, for it would have to stay awake for it.
	Near(artifact string) bool
	// Faults is what they did wrong since it was called last, on behalf of any component.
	Faults() topics.PeerFaults
	// Document brings a document about an artifact, by its digest.
	Document(ctx context.Context, artifact string, d topics.Document) ([]byte, error)
	// Artifact is that of Downloads, without a question to any source; wake.ErrSpent when
	// nobody brings the rest, or would have to be waited for, and patient says false; with
	// fetch.ErrAnother where all of it is there and makes another artifact.
	Artifact(ctx context.Context, a fetch.Artifact, path string, patient func() bool, tell func(have int64, t topics.Transfer)) error
}

// World is what the device was told.
type World interface {
	World() decide.World
	// Changed gets a value after World has changed.
	Changed() <-chan struct{}
	// CheckIn asks for a session before its time; Heartbeat queues a heartbeat.
	CheckIn()
	Heartbeat()
	// Heard is how long ago the broker was heard last; not ok: never since the start.
	Heard() (ago time.Duration, ok bool)
}

// Config is about the device and its patience.
type Config struct {
	Component string
	// Itself: the component is the agent that runs this. While it is on trial, nothing
	// else begins anything.
	Itself   bool
	Device   string
	Model    string
	Hardware string
	// Location is where windows are read when the assignment names no zone.
	Location *time.Location
	// Health applies where an entry does not say otherwise.
	Health health.Config
	// Conditions must hold besides the device's own before the component takes anything.
	Conditions condition.Config
	// Wake is what may be fetched before the next wake; nil: any amount.
	Wake *wake.Wake
	// Allowance is what may be downloaded besides; nil: anything at any time.
	Allowance *allowance.Allowance
	// Peers are asked while nothing may be downloaded from elsewhere; nil: there are none.
	Peers Peers
	// PeersAgain is after how long they are asked again, from half of it on; longer each time.
	// Default 1 min to 10 min.
	PeersAgain backoff.Range
	// RetryMin and RetryMax bound the pause after a failed attempt.
	RetryMin, RetryMax time.Duration
	// PenaltyMin, doubled with each time up to PenaltyMax, is how long an artifact that
	// was put back after its trial waits under other rollouts. 0: not at all.
	PenaltyMin, PenaltyMax time.Duration
	// Jitter draws a pause from [0, limit]. Nil: at random. Simulations have their own.
	Jitter func(limit time.Duration) time.Duration
	// Log is the end of the agent's own log, which goes up when an update fails. Nil: it
	// is not kept.
	Log func() string
	// At is called at named points: each state after it was journalled, and
	// "armed", "confirmed", "fallen-back", "closed". Tests kill there. May be
	// nil.
	At func(point string)
}

// Driver drives one component. Run it once.
type Driver struct {
	cfg       Config
	device    *Device
	wake      <-chan struct{} // something has changed
	slots     Slots
	releases  Releases
	downloads Downloads
	world     World
	journal   *journal.Journal
	clock     *clock.Clock
	log       *slog.Logger

	attention attention

	// Only Run's goroutine touches what follows.
	dep     journal.Deployment
	refused int      // writes of a perishable step, one after the other, that failed
	waited  string   // the last reason to wait that was reported
	held    held     // what keeps it from going on
	release func()   // of the applications' lock, while it installs; nil: not held
	budget  progress // of a wake's budget
	nearby  nearby
	// transfer is where the bytes of the download that runs came from.
	transfer topics.Transfer
	faults   topics.PeerFaults // of the same
	unasked  bool              // journal.Deployment's, of the fetch that runs
	inquiry  inquiry           // for what is Unasked
	expired  bool              // it was said that something has expired
	logged   bool              // the agent's log about this attempt is queued
	// measured is when dep.Before was; zero: not by this process.
	measured time.Time

	account account
	stones  stones
	runs    atomic.Bool // it has found out where the device is, and goes on
}

// New does no I/O. The drivers of one device are made in the order in which its
// components are to be installed.
func New(cfg Config, device *Device, s Slots, r Releases, d Downloads, j *journal.Journal, clk *clock.Clock, log *slog.Logger) *Driver {
	if cfg.At == nil {
		cfg.At = func(string) {}
	}
	if cfg.Jitter == nil {
		cfg.Jitter = backoff.Jitter
	}
	if cfg.PeersAgain == (backoff.Range{}) {
		cfg.PeersAgain = backoff.Range{Min: time.Minute, Max: 10 * time.Minute}
	}
	driver := &Driver{cfg: cfg, device: device, slots: s, releases: r, downloads: d, world: device.world, journal: j, clock: clk, log: log}
	driver.account.wake, driver.account.uptime = cfg.Wake, clk.Uptime
	driver.wake = device.add(driver)
	return driver
}

// Run goes on where the journal says, until ctx ends. An error is one that
// makes going on pointless.
func (d *Driver) Run(ctx context.Context) error {
	if err := d.slots.Ready(ctx); err != nil {
		return nil // ctx has ended
	}
	effects, err := d.resume(ctx)
	d.runs.Store(err == nil)
	defer d.runs.Store(false)
	defer d.letGo()
	for err == nil && ctx.Err() == nil {
		var event update.Event
		if event, err = d.perform(ctx, effects); err != nil {
			break
		}
		effects, err = d.step(ctx, event)
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("deploy %s: %w", d.cfg.Component, err)
}

// Runs reports whether Run goes on, and Component is what it drives.
func (d *Driver) Runs() bool        { return d.runs.Load() }
func (d *Driver) Component() string { return d.cfg.Component }

// resume finds out where the device is.
func (d *Driver) resume(ctx context.Context) ([]update.Effect, error) {
	d.dep = d.journal.Snapshot().Deployments[d.cfg.Component]
	if d.dep.State == "" {
		d.dep.State = update.Idle
	}
	before := d.dep.State
	state, effects, err := update.Resume(before, d.slots.Trial(d.dep.Slot))
	if errors.Is(err, update.ErrTransition) {
		// Another version of the agent wrote it. What it meant is lost, and an idle
		// device is at least one that can be updated.
		d.log.Error("deployment is in a state that is not known here, and is forgotten", "state", string(before), "rollout", d.dep.Entry.Rollout)
		d.dep = journal.Deployment{}
		state, effects, err = update.Resume(update.Idle, update.NotArmed)
	}
	if err != nil {
		return nil, err
	}
	if (state == update.Idle || state == update.Failed || state.Harmless()) && d.slots.Armed() {
		// The journal has lost the jump, and nobody would watch what is on trial,
		// or what is left of a trial would spoil the next one.
		d.log.Warn("a trial is armed that the journal does not know; falling back", "state", string(state))
		if err := d.insist(ctx, "fall back", func() error { return d.slots.FallBack(ctx) }); err != nil {
			return nil, err
		}
		if state == update.Staged { // the falling back has emptied the slot
			if state, effects, err = update.Resume(update.Verified, update.NotArmed); err != nil {
				return nil, err
			}
		}
	}
	if state != update.Idle {
		d.log.Info("deployment goes on", "rollout", d.dep.Entry.Rollout, "was", string(before), "state", string(state))
	}
	if state != before {
		d.dep.State = state
		if state == update.RolledBack {
			d.dep.Reason, d.dep.Detail = health.ReasonFellBack, "the old version was booted again"
		}
		if err := d.save(ctx, nil); err != nil {
			return nil, err
		}
	}
	d.device.moved(d.cfg.Component, state)
	return effects, nil
}

// perishable lists the events that are true for a moment only, with the effect
// that finds out anew. When such a step cannot be journalled, because the disk
// is full, nobody makes it days later on the strength of what was seen then.
var perishable = map[update.Event]update.Effect{
	update.Jump:    update.Await, // the manifest as it was
	update.Healthy: update.Watch,
}

// step journals the move that an event makes.
func (d *Driver) step(ctx context.Context, event update.Event) ([]update.Effect, error) {
	state, effects, err := update.Step(d.dep.State, event)
	if err != nil {
		return nil, err
	}
	if event == update.Closed { // was one write with the report
		d.dep = journal.Deployment{State: update.Idle}
		d.device.moved(d.cfg.Component, state)
		d.cfg.At("closed")
		return effects, nil
	}
	before := d.dep
	d.dep.State = state
	if again, ok := perishable[event]; ok {
		if err := d.write(nil); err != nil {
			d.dep = before
			d.letGo() // or it would wait for itself
			d.device.moved(d.cfg.Component, before.State)
			d.refused++
			d.log.Error("cannot go on without the journal, looking again later", "event", string(event), "err", err)
			return []update.Effect{again}, d.downloads.Pause(ctx, d.refused)
		}
		d.refused = 0
	} else if err := d.save(ctx, func(r *journal.Record) error {
		switch event {
		case update.Stop:
			return d.queue(r, d.status(topics.StateWaiting))
		case update.Unhealthy: // what falls back by a boot has another log afterwards
			return d.queueLog(r, "agent", d.ownLog())
		}
		return nil
	}); err != nil {
		return nil, err
	} else if event == update.Unhealthy {
		d.logged = true
	}
	d.log.Info("deployment", "rollout", before.Entry.Rollout, "release", before.Entry.Version, "attempt", before.Attempt,
		"event", string(event), "state", string(state), "reason", d.dep.Reason)
	d.device.moved(d.cfg.Component, state)
	d.cfg.At(string(state))
	if state == update.Idle {
		d.dep = journal.Deployment{State: update.Idle}
	}
	return effects, nil
}

// perform does the effects of the present state, in order. The last of them
// has an outcome.
func (d *Driver) perform(ctx context.Context, effects []update.Effect) (event update.Event, err error) {
	for _, effect := range effects {
		d.attention.perform(effect)
		switch effect {
		case update.Decide:
			event, err = d.decide(ctx)
		case update.Report:
			err = d.report(ctx)
		case update.Fetch:
			if err = d.undisturbed(ctx); err == nil {
				event, err = d.fetch(ctx)
			}
		case update.Place:
			if err = d.undisturbed(ctx); err == nil {
				event, err = d.place(ctx)
			}
		case update.Await:
			event, err = d.await(ctx)
		case update.Arm:
			event, err = d.arm(ctx)
		case update.Watch:
			event, err = d.watch(ctx)
		case update.Confirm:
			event, err = d.confirm(ctx)
		case update.FallBack:
			err = d.insist(ctx, "fall back", func() error { return d.slots.FallBack(ctx) })
			d.cfg.At("fallen-back")
		case update.Discard:
			err = d.insist(ctx, "discard", d.slots.Discard)
		case update.Close:
			event, err = d.close(ctx)
		default:
			err = fmt.Errorf("unknown effect %q", effect)
		}
		if err != nil || event != "" {
			return event, err
		}
	}
	return "", fmt.Errorf("state %s has no outcome", d.dep.State)
}

// save writes the deployment, and what change adds, in one go. It insists: a
// step that is not in the journal was not made. Two things do not wait for that,
// and only remove files: falling back, because a disk that is full must not keep
// a version running that is not well, and discarding the download that may be
// what has filled it. What was put back so stays known to the slots: until the journal
// says it, nothing else could tell it after a restart.
func (d *Driver) save(ctx context.Context, change func(*journal.Record) error) error {
	return d.insist(ctx, "journal", func() error {
		err := d.write(change)
		if err == nil {
			return nil
		}
		switch d.dep.State {
		case update.RolledBack:
			return errors.Join(err, PutBack(ctx, d.slots, d.dep.Slot))
		case update.Failed:
			if err := d.slots.Discard(); err != nil {
				return errors.Join(err, d.write(change))
			}
			return d.write(change)
		}
		return err
	})
}

// write is save, once.
func (d *Driver) write(change func(*journal.Record) error) error {
	return d.journal.Update(func(r *journal.Record) error {
		r.SetDeployment(d.cfg.Component, d.dep)
		if change == nil {
			return nil
		}
		return change(r)
	})
}

// insist tries until it goes well, for what has no alternative: a disk that is
// full may be emptied.
func (d *Driver) insist(ctx context.Context, what string, do func() error) error {
	for n := 1; ; n++ {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.log.Error("cannot go on, trying again", "what", what, "err", err)
		if err := d.downloads.Pause(ctx, n); err != nil {
			return err
		}
	}
}

// factsOf is what decide wants to know while a deployment is in progress.
func (d *Driver) factsOf(dep journal.Deployment) decide.Facts {
	f := decide.Facts{
		Model: d.cfg.Model, Hardware: d.cfg.Hardware, Bucket: topics.Bucket(d.cfg.Device), Location: d.cfg.Location,
		Versions: Versions(d.cfg.Component, d.slots), Failures: map[string]int{}, NotBefore: map[string]time.Time{},
		Penalties: map[string]decide.Penalty{},
		Stones:    d.stones.ahead(version(d.slots)),
	}
	latest := d.clock.Now().Add(d.cfg.RetryMax)
	for rollout, failure := range d.journal.Snapshot().Failures {
		f.Failures[rollout] = failure.Count
		// Written when the clock was in the future: no reason to wait till then.
		if failure.NotBefore.Before(latest) {
			f.NotBefore[rollout] = failure.NotBefore
		}
	}
	latest = d.clock.Now().Add(d.cfg.PenaltyMax)
	for sha, p := range d.journal.Snapshot().Penalties {
		if !p.NotBefore.After(latest) { // as above
			f.Penalties[sha] = decide.Penalty{Rollout: p.Rollout, NotBefore: p.NotBefore}
		}
	}
	if dep.State != update.Idle {
		f.InProgress = map[string]decide.Attempt{d.cfg.Component: {Rollout: dep.Entry.Rollout, SHA256: dep.Entry.Target.SHA256}}
	}
	return f
}

// NoVersion is said to run when no slot holds anything that may, or when what runs says
// something that is no version: one component's word must not make the reports about all
// of them invalid.
const NoVersion = "0.0.0"

// Versions is what runs, by component.
func Versions(component string, s Slots) map[string]string {
	return map[string]string{component: version(s)}
}

func version(s Slots) string {
	if v := s.Running().Image.Version; topics.CheckVersion("version", v) == nil {
		return v
	}
	return NoVersion
}

// BootID is that of the newest launch.
func BootID(s Slots) string {
	if id := s.Running().BootID; topics.CheckID("boot_id", id) == nil {
		return id
	}
	return noBoot
}

// noBoot is the boot id of what was never launched.
const noBoot = "none"

// penalty is how long an artifact waits that was put back n times.
func (d *Driver) penalty(n int) time.Duration {
	return backoff.Range{Min: d.cfg.PenaltyMin, Max: d.cfg.PenaltyMax}.Limit(n)
}

// retryAfter is the pause after failure n: full jitter.
func (d *Driver) retryAfter(n int) time.Duration {
	return d.cfg.Jitter(backoff.Range{Min: d.cfg.RetryMin, Max: d.cfg.RetryMax}.Limit(n))
}
