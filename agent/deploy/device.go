package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"groundswell/agent/condition"
	"groundswell/agent/decide"
	"groundswell/agent/journal"
	"groundswell/agent/update"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// Device is what the drivers of a device's components share: what it was told, what it
// wants itself, and whose turn it is.
//
// At most one component is past Staged at a time: who jumps holds the turn from just
// before the jump until its attempt has ended, also over restarts. Of several that may
// jump, the one goes first whose driver was made first. Downloads go on meanwhile, one
// at a time; one that gets nowhere gives way to the next.
//
// Locks: mu may be held while the journal's and the world's are taken, never the other
// way round.
type Device struct {
	world      World
	conditions condition.Config
	asking     chan struct{} // held while the conditions are asked about
	fetching   chan struct{} // held while bytes are fetched
	waiting    atomic.Int32  // for fetching

	mu         sync.Mutex                 // guards what follows
	parts      []*Driver                  // in the order of the device
	wakes      map[string]chan struct{}   // each gets a value after something has changed
	changed    chan struct{}              // closed and replaced by tell
	installing map[string]bool            // who has the turn
	refused    map[string]bool            // who was refused the turn since it was given back last
	blocked    map[string]bool            // who is staged, and held up by something of its own
	waits      map[string]string          // who waits for the release of whom
	holds      map[condition.Phase]waited // what did not hold when it was asked last
}

// waited is a hold and until when it is not looked at again.
type waited struct {
	hold  condition.Hold
	until time.Time
}

// NewDevice does no I/O. conditions must hold before any component takes anything.
func NewDevice(w World, conditions condition.Config) *Device {
	return &Device{
		world: w, conditions: conditions, asking: make(chan struct{}, 1), fetching: make(chan struct{}, 1),
		wakes: map[string]chan struct{}{}, changed: make(chan struct{}),
		installing: map[string]bool{}, refused: map[string]bool{}, blocked: map[string]bool{},
		waits: map[string]string{}, holds: map[condition.Phase]waited{},
	}
}

// Run passes on to the drivers that the world has changed, until ctx ends.
func (d *Device) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.world.Changed():
			d.mu.Lock()
			d.tell("")
			d.mu.Unlock()
		}
	}
}

// add makes a driver known, and returns the channel that gets a value after something
// has changed. Who was past Staged when the device went down has the turn.
func (d *Device) add(part *Driver) <-chan struct{} {
	state := update.Idle
	if part.journal != nil {
		state = part.journal.Snapshot().Deployments[part.cfg.Component].State
	}
	wake := make(chan struct{}, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parts = append(d.parts, part)
	d.wakes[part.cfg.Component] = wake
	if past(state) {
		d.installing[part.cfg.Component] = true
	}
	return wake
}

// past reports whether a state is behind the jump.
func past(s update.State) bool {
	return s == update.Trying || s == update.Committed || s == update.RolledBack
}

// tell wakes everybody but by. The caller holds mu.
func (d *Device) tell(by string) {
	close(d.changed)
	d.changed = make(chan struct{})
	for component := range d.wakes {
		if component != by {
			d.wakeUp(component)
		}
	}
}

// wakeUp wakes one. The caller holds mu.
func (d *Device) wakeUp(component string) {
	select {
	case d.wakes[component] <- struct{}{}:
	default: // one reminder is enough
	}
}

// change is closed after the next change of anything.
func (d *Device) change() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// moved notes the state that a component is in now; its turn ends with its attempt.
func (d *Device) moved(component string, state update.State) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if past(state) {
		d.installing[component] = true
	} else {
		delete(d.installing, component)
	}
	delete(d.waits, component)
	delete(d.blocked, component)
	d.tell(component)
}

// block notes that a component that is staged is held up by something of its own: it
// keeps nobody waiting until it asks for its turn and does not get it.
func (d *Device) block(component string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.blocked[component] {
		d.blocked[component] = true
		d.tell(component)
	}
}

// take takes the turn for a component that may jump as far as it is concerned. Otherwise
// it names the component that goes first.
func (d *Device) take(component string) (first string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if first = d.before(component); first != "" {
		d.refused[component] = true
		delete(d.blocked, component)
		return first
	}
	d.installing[component] = true
	return ""
}

// before is who goes before a component. The caller holds mu.
func (d *Device) before(component string) string {
	for other := range d.installing {
		if other != component {
			return other
		}
	}
	for _, part := range d.parts {
		other := part.cfg.Component
		if other == component {
			break
		}
		if !d.blocked[other] && part.wants() {
			return other
		}
	}
	return ""
}

// replaced reports whether the agent itself, if that is not the component that asks, has
// the turn.
func (d *Device) replaced(component string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, part := range d.parts {
		if own := part.cfg.Component; part.cfg.Itself && own != component && d.installing[own] {
			d.refused[component] = true // it is woken when the turn is given back
			return true
		}
	}
	return false
}

// giveBack gives back a turn that was not used. It wakes only who was refused it, or two
// that cannot use it would keep each other awake.
func (d *Device) giveBack(component string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.installing, component)
	for other := range d.refused {
		d.wakeUp(other)
	}
	clear(d.refused)
}

// versions is what runs, by component.
func (d *Device) versions() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string]string{}
	for _, part := range d.parts {
		all[part.cfg.Component] = version(part.slots)
	}
	return all
}

var (
	errRequires = errors.New("release requires something else")
	// errComing: what it requires is on its way.
	errComing = errors.New("release waits for what it requires")
	// errStone: it requires another version of its own component.
	errStone = errors.New("release requires that another is passed through first")
)

// check is errRequires unless all runs here that a component's release requires, errComing
// if what does not is on its way, and errStone if it is the component itself. Two releases that wait for each other would
// wait for ever: the one that would close the circle is refused.
func (d *Device) check(component string, requires []trust.Requirement) error {
	versions := d.versions()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waits, component)
	var coming error
	for _, q := range requires {
		runs, ok := versions[q.Component]
		if !ok {
			return fmt.Errorf("%w: component %s %s, which is not here", errRequires, q.Component, q.Versions)
		}
		if ok, err := topics.Satisfies(runs, q.Versions); err == nil && ok {
			continue
		}
		if q.Component == component {
			return fmt.Errorf("%w: %s, here is %s", errStone, q.Versions, runs)
		}
		if !d.brings(q) {
			return fmt.Errorf("%w: component %s %s, here is %s", errRequires, q.Component, q.Versions, runs)
		}
		for other := q.Component; other != ""; other = d.waits[other] {
			if other == component {
				return fmt.Errorf("%w: component %s %s, whose release waits for this one in its turn: they belong into a group", errRequires, q.Component, q.Versions)
			}
		}
		coming = fmt.Errorf("%w: component %s %s, here is %s", errComing, q.Component, q.Versions, runs)
		d.waits[component] = q.Component
		break // one after the other: a circle has one way round
	}
	return coming
}

// brings reports whether what a component is doing, or is about to do, would meet a
// requirement. The caller holds mu.
func (d *Device) brings(q trust.Requirement) bool {
	i := slices.IndexFunc(d.parts, func(part *Driver) bool { return part.cfg.Component == q.Component })
	if i < 0 {
		return false
	}
	dep, decision, _, _ := d.parts[i].peek()
	switch {
	case dep.State != update.Idle:
		ok, err := topics.Satisfies(dep.Entry.Version, q.Versions)
		return err == nil && ok
	case decision.Action == decide.Start, decision.Action == decide.Wait && !decision.Until.IsZero():
		ok, err := topics.Satisfies(decision.Entry.Version, q.Versions)
		return err == nil && ok
	}
	return false
}

// look asks what the device itself wants before a phase, for one component at a time.
// What did not hold is not asked again before its time, whoever asks.
func (d *Device) look(ctx context.Context, phase condition.Phase) *condition.Hold {
	select {
	case d.asking <- struct{}{}:
	case <-ctx.Done():
		return nil // nobody wants to know any more
	}
	defer func() { <-d.asking }()
	d.mu.Lock()
	before, ok := d.holds[phase]
	d.mu.Unlock()
	if again := time.Until(before.until); ok && again > 0 {
		hold := before.hold
		hold.Again = again
		return &hold
	}
	hold := d.conditions.Look(ctx, phase)
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.holds, phase)
	if hold != nil && ctx.Err() == nil {
		d.holds[phase] = waited{*hold, time.Now().Add(hold.Again)}
	}
	return hold
}

// seize takes the applications' locks: the device's and the component's own.
func (d *Device) seize(own *condition.Config) (release func(), hold *condition.Hold) {
	first, hold := d.conditions.Seize()
	if hold != nil {
		return nil, hold
	}
	second, hold := own.Seize()
	if hold != nil {
		first()
		return nil, hold
	}
	return func() { second(); first() }, nil
}

const (
	// stalled is how long a download may bring nothing before it gives way.
	stalled = time.Minute
	// glance is the time between two looks whether it does.
	glance = 5 * time.Second
)

// errStalled is why a download was interrupted.
var errStalled = errors.New("gives way to another download")

// fetch calls download while no other component downloads. What brings nothing for long,
// from a source that does not answer perhaps, is interrupted when another one waits, and
// goes on after that.
func (d *Device) fetch(ctx context.Context, download func(ctx context.Context, progress func(int64)) error) error {
	for {
		d.waiting.Add(1)
		select {
		case d.fetching <- struct{}{}:
			d.waiting.Add(-1)
		case <-ctx.Done():
			d.waiting.Add(-1)
			return ctx.Err()
		}
		err := d.fetchOnce(ctx, download)
		<-d.fetching
		if !errors.Is(err, errStalled) {
			return err
		}
	}
}

func (d *Device) fetchOnce(ctx context.Context, download func(ctx context.Context, progress func(int64)) error) error {
	working, cancel := context.WithCancelCause(ctx)
	var last atomic.Int64
	last.Store(time.Now().UnixNano())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(glance)
		defer tick.Stop()
		for {
			select {
			case <-working.Done():
				return
			case <-tick.C:
			}
			if d.waiting.Load() > 0 && time.Since(time.Unix(0, last.Load())) > stalled {
				cancel(errStalled)
				return
			}
		}
	}()
	err := download(working, func(int64) { last.Store(time.Now().UnixNano()) })
	cause := context.Cause(working)
	cancel(nil)
	<-watched
	if err != nil && ctx.Err() == nil && errors.Is(cause, errStalled) {
		return errStalled
	}
	return err
}

// peek is what a driver does and would do, for others than its own goroutine: by the
// journal.
func (d *Driver) peek() (dep journal.Deployment, decision decide.Decision, w decide.World, f decide.Facts) {
	dep = d.journal.Snapshot().Deployments[d.cfg.Component]
	if dep.State == "" {
		dep.State = update.Idle
	}
	decision, w, f = d.lookAs(dep)
	return dep, decision, w, f
}

// wants reports whether a component is staged and may jump now, by what it was told.
func (d *Driver) wants() bool {
	dep, decision, w, f := d.peek()
	if dep.State != update.Staged {
		return false
	}
	staged := decide.Staged{Entry: dep.Entry, Downloaded: dep.Downloaded}
	return decide.MayActivate(staged, decision, w.View, f, w.Assignment, d.clock.Now()).Action == decide.Start
}
