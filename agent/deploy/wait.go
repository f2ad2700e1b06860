package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/condition"
	"groundswell/agent/decide"
	"groundswell/agent/health"
	"groundswell/agent/journal"
	"groundswell/agent/update"
	"groundswell/agent/verify"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// look decides about the component as of now.
func (d *Driver) look() (decide.Decision, decide.World, decide.Facts) { return d.lookAs(d.dep) }

// lookAs is look while a deployment is in progress.
func (d *Driver) lookAs(dep journal.Deployment) (decide.Decision, decide.World, decide.Facts) {
	w, f := d.world.World(), d.factsOf(dep)
	if !w.Assigned {
		return decide.Decision{Action: decide.Wait, Reason: decide.ReasonMissing, Wave: -1}, w, f
	}
	decisions, missing := decide.Decide(w, f, d.clock.Now())
	if missing != nil {
		return decide.Decision{Action: decide.Wait, Reason: decide.ReasonMissing, Wave: -1}, w, f
	}
	return decisions[d.cfg.Component], w, f
}

// longest is how long it sleeps at most: clocks are set, and zones change.
const longest = time.Minute

// pause waits until the world changes or until has come.
func (d *Driver) pause(ctx context.Context, until time.Time) error {
	wait := longest
	if !until.IsZero() {
		wait = min(longest, max(0, until.Sub(d.clock.Now())))
	}
	return d.sleep(ctx, d.wake, wait)
}

// rest is pause, for the driver itself: Rest says what it waits for, and Look ends it.
func (d *Driver) rest(ctx context.Context, reason string, until time.Time) error {
	return d.attention.rests(ctx, Rest{State: d.dep.State, Reason: reason, Until: until}, func(ctx context.Context) error {
		return d.pause(ctx, until)
	})
}

// decide waits for the device's turn.
func (d *Driver) decide(ctx context.Context) (update.Event, error) {
	for {
		if err := d.undisturbed(ctx); err != nil {
			return "", err
		}
		now, _, facts := d.look()
		if now.Action == decide.Start {
			d.dep = journal.Deployment{
				State: update.Idle, Entry: now.Entry, Cohort: now.Cohort,
				Attempt: d.attempt(now.Entry.Rollout), From: facts.Versions[d.cfg.Component],
			}
			d.waited = ""
			return update.Start, nil
		}
		d.warnExpired(now)
		if err := d.tellWaiting(ctx, now, facts); err != nil {
			return "", err
		}
		if err := d.rest(ctx, now.Reason, now.Until); err != nil {
			return "", err
		}
	}
}

// undisturbed waits while the agent itself is on trial, or about to be: what a new agent
// does to other components would be on trial as well.
func (d *Driver) undisturbed(ctx context.Context) error {
	for d.device.replaced(d.cfg.Component) {
		if err := d.pause(ctx, time.Time{}); err != nil {
			return err
		}
	}
	return nil
}

// tellWaiting reports, once, why a device whose wave is open does not start,
// where nobody would guess it: its window is shut, it runs something newer, or it had
// these bytes before and had to put them back.
// Waiting for the spread is what everybody does, and not worth a message of
// each device.
func (d *Driver) tellWaiting(ctx context.Context, now decide.Decision, facts decide.Facts) error {
	switch now.Reason {
	case decide.ReasonWindow, decide.ReasonDowngrade, decide.ReasonPenalty:
	default:
		return nil
	}
	if now.Wave < 0 {
		return nil
	}
	key := now.Entry.Rollout + " " + now.Reason
	if key == d.waited {
		return nil
	}
	d.waited = key
	s := d.statusOf(topics.StateWaiting, journal.Deployment{
		Entry: now.Entry, Cohort: now.Cohort, Attempt: d.attempt(now.Entry.Rollout),
		From: facts.Versions[d.cfg.Component], Reason: now.Reason,
	})
	if !now.Until.IsZero() {
		until := now.Until.UTC().Truncate(time.Second)
		s.Until = &until
	}
	return d.insist(ctx, "journal", func() error {
		return d.journal.Update(func(r *journal.Record) error { return d.queue(r, s) })
	})
}

// warnExpired says, once, that the device is held up by what was signed for it
// too long ago.
func (d *Driver) warnExpired(now decide.Decision) {
	expired := now.Reason == decide.ReasonExpired
	if expired && !d.expired {
		d.log.Warn("assignment or manifest has expired: nothing is started or activated until a newer one comes", "cohort", now.Cohort)
	}
	d.expired = expired
}

// await waits for leave to jump.
func (d *Driver) await(ctx context.Context) (update.Event, error) {
	var asked time.Time
	for again := time.Minute; ; {
		now := d.clock.Now()
		if d.dep.Downloaded.After(now) {
			d.dep.Downloaded = now // the clock was in the future, and is not any more
			if err := d.save(ctx, nil); err != nil {
				return "", err
			}
		}
		decision, w, facts := d.look()
		d.warnExpired(decision)
		decision = decide.MayActivate(decide.Staged{Entry: d.dep.Entry, Downloaded: d.dep.Downloaded}, decision, w.View, facts, w.Assignment, now)
		switch decision.Action {
		case decide.Start:
			if measured, err := d.measure(ctx); err != nil {
				return "", err
			} else if measured {
				continue // that took a while, in which all may have changed
			}
			event, up, err := d.jump(ctx, decision)
			if event != "" || err != nil {
				return event, err
			}
			if up.Reason != "" {
				decision.Reason = up.Reason
			}
			if up.Again > 0 {
				decision.Until = now.Add(up.Again)
			}
		case decide.Stop:
			d.dep.Reason, d.dep.Detail = decision.Reason, ""
			return update.Stop, nil
		case decide.None: // it runs the version already, by other hands
			d.dep.Reason, d.dep.Detail = decision.Reason, ""
			return update.Stop, nil
		}
		// A device that polls would look only at its next turn, and one that is
		// connected does not know whether it still is.
		unread := decision.Reason == decide.ReasonStale || decision.Reason == decide.ReasonExpired
		if unread && (asked.IsZero() || now.Sub(asked) > again) {
			if !asked.IsZero() {
				again *= 2
			}
			asked = now
			d.world.CheckIn()
		}
		if err := d.tellStaged(ctx, decision, now); err != nil {
			return "", err
		}
		if err := d.rest(ctx, decision.Reason, decision.Until); err != nil {
			return "", err
		}
	}
}

// tellStaged reports, once, that what is staged waits for its window, or for its moment in
// it, if that takes long: windows for downloads and for installing may be a day apart.
func (d *Driver) tellStaged(ctx context.Context, decision decide.Decision, now time.Time) error {
	window := decision.Reason == decide.ReasonWindow || decision.Reason == decide.ReasonSpread
	if !window || decision.Until.Sub(now) < retell {
		return nil
	}
	return d.tell(ctx, condition.Install, &condition.Hold{Reason: decision.Reason, Again: longest, Until: decision.Until})
}

// measureAgain is for how long what was measured says how it is.
const measureAgain = 10 * time.Minute

// measure asks the metrics what they are before the update, unless it was done a while
// ago.
func (d *Driver) measure(ctx context.Context) (measured bool, err error) {
	if !d.cfg.Health.Metrics() || d.dep.Before != nil && !d.measured.IsZero() && time.Since(d.measured) < measureAgain {
		return false, nil
	}
	r := d.slots.Running()
	before, err := health.Measure(ctx, d.cfg.Health, health.Component{BootID: r.BootID, Addr: r.Addr})
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		d.log.Warn("a metric cannot be measured; one that never could is not compared", "err", err)
	}
	d.dep.Before, d.measured = before, time.Now()
	return true, nil
}

// jump does the last things before the jump, or says what holds it up and after how long
// to look again; 0: when something changes. From the check on nothing else is installed, so that what was
// checked stays true.
func (d *Driver) jump(ctx context.Context, decision decide.Decision) (event update.Event, up condition.Hold, err error) {
	hold, err := d.allowed(ctx, condition.Install)
	if err != nil {
		return "", condition.Hold{}, err
	}
	if hold != nil {
		d.device.block(d.cfg.Component)
		return "", *hold, nil
	}
	event, hold, err = d.inquire(ctx)
	if hold != nil {
		return "", *hold, err
	}
	if event != "" || err != nil {
		return event, condition.Hold{}, err
	}
	if first := d.device.take(d.cfg.Component); first != "" {
		return "", condition.Hold{Reason: reasonComponent}, d.tell(ctx, condition.Install, &condition.Hold{
			Reason: reasonComponent, Detail: "component " + first + " is installed first", Again: longest,
		})
	}
	defer func() {
		if event != update.Jump {
			d.device.giveBack(d.cfg.Component)
		}
	}()
	event, hold, err = d.lastCheck(ctx, decision)
	if event != update.Jump {
		d.device.block(d.cfg.Component)
		if hold == nil {
			hold = &condition.Hold{}
		}
		return event, *hold, err
	}
	release, hold := d.device.seize(&d.cfg.Conditions)
	if hold != nil { // somebody was faster
		d.device.block(d.cfg.Component)
		return "", *hold, nil
	}
	d.letGo()
	d.release = release
	return event, condition.Hold{}, nil
}

// letGo gives the applications their lock back.
func (d *Driver) letGo() {
	if d.release != nil {
		d.release()
		d.release = nil
	}
}

// held is a condition that did not hold.
type held struct {
	what  string // phase and rollout
	hold  condition.Hold
	until time.Time // when it is asked again
	said  time.Time // until when it waits, as it was reported
	// copied is how many bytes peers had brought, as it was reported.
	copied int64
}

// retell is the shortest time after which a report is repeated, by who still waits or still
// downloads: before fleetd takes it for silent.
const retell = 10 * time.Minute

// allowed asks what the device itself wants before a phase, and reports, once, what does
// not hold.
func (d *Driver) allowed(ctx context.Context, phase condition.Phase) (*condition.Hold, error) {
	hold, err := d.heldBy(ctx, phase)
	if hold == nil || err != nil {
		return nil, err
	}
	return hold, d.keptBy(ctx, phase, hold)
}

// heldBy asks what the device itself wants before a phase. A condition is not asked more often
// than it wants; what its downloads may cost is known at any time, and may have changed.
func (d *Driver) heldBy(ctx context.Context, phase condition.Phase) (*condition.Hold, error) {
	what := string(phase) + " " + d.dep.Entry.Rollout
	if d.held.what == what && time.Now().Before(d.held.until) {
		hold := d.held.hold
		if !allowance.Keeps(&hold) || d.cfg.Allowance.Look(ctx, d.newest().DownloadWindows) != nil {
			hold.Again = time.Until(d.held.until)
			return &hold, nil
		}
		d.held.until = time.Time{}
	}
	hold := d.device.look(ctx, phase)
	if hold == nil {
		hold = d.cfg.Conditions.Look(ctx, phase)
	}
	if hold == nil && phase == condition.Download {
		hold = d.cfg.Allowance.Look(ctx, d.newest().DownloadWindows)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if hold == nil {
		if d.held.hold.Reason != reasonComponent && d.held.hold.Reason != reasonRequires {
			d.held = held{}
		}
		return nil, nil
	}
	return hold, nil
}

// keptBy reports, once, what heldBy has said.
func (d *Driver) keptBy(ctx context.Context, phase condition.Phase, hold *condition.Hold) error {
	if d.held.what == string(phase)+" "+d.dep.Entry.Rollout && time.Now().Before(d.held.until) {
		return nil // nobody was asked anew
	}
	if err := d.tell(ctx, phase, hold); err != nil {
		return err
	}
	d.held.until = time.Now().Add(hold.Again)
	return nil
}

// reasonComponent: another component is installed first.
const reasonComponent = "component"

// tell reports, once, that something keeps the device from going on; again when it still
// does later than was said, or when peers have brought something meanwhile.
func (d *Driver) tell(ctx context.Context, phase condition.Phase, hold *condition.Hold) error {
	before := d.held
	d.held = held{what: string(phase) + " " + d.dep.Entry.Rollout, hold: *hold, said: before.said, copied: before.copied}
	copied := d.copied()
	if before.what == d.held.what && before.hold.Reason == hold.Reason &&
		(!d.account.due() || d.clock.Now().Before(before.said) && copied == before.copied) {
		return nil
	}
	s := d.status(topics.State(d.dep.State))
	s.Reason, s.Detail = hold.Reason, hold.Detail
	if phase == condition.Download {
		s.DownloadedBytes = d.downloaded()
		if s.DownloadedBytes == s.Bytes { // who had all of it, and right, would not wait
			s.DownloadedBytes = 0
		}
		if copied > 0 {
			s.Detail = fmt.Sprintf("%s; %d of %d bytes are there, peers have sent %d", s.Detail, s.DownloadedBytes, s.Bytes, copied)
			if d.nearby.another {
				s.Detail += ", which make another artifact"
			}
		}
	}
	d.log.Info("the device waits", "rollout", s.Rollout, "reason", s.Reason, "detail", s.Detail, "again", hold.Again)
	until := hold.Until.UTC().Truncate(time.Second)
	if hold.Until.IsZero() {
		until = s.At.Add(hold.Again).Truncate(time.Second)
	}
	s.Until = &until
	d.held.said, d.held.copied = until, copied
	d.account.said()
	return d.insist(ctx, "journal", func() error {
		return d.journal.Update(func(r *journal.Record) error { return d.queue(r, s) })
	})
}

// lastCheck asks once more whether the release may run here: a newer list of
// releases may have raised the security floor, and a newer root withdrawn a key. A hold says
// after how long to look again; nil: when something changes.
func (d *Driver) lastCheck(ctx context.Context, decision decide.Decision) (update.Event, *condition.Hold, error) {
	images, err := d.releases.Held()
	forgotten := err != nil
	switch {
	case d.dep.Unasked: // nobody knows of newer roots
		images, err = d.offered(ctx)
	case err != nil:
		images, err = d.images(ctx)
	}
	withdrawn := forgotten && errors.Is(err, verify.ErrUnsigned)
	if err == nil {
		err = d.eligible(images)
	}
	if err != nil {
		if ctx.Err() != nil {
			return "", nil, ctx.Err()
		}
		reason, final := reasonOf(err)
		keeps := false
		if !d.dep.Unasked || withdrawn { // otherwise nothing was refused
			reason, final, keeps = d.refusal(err, withdrawn)
		}
		if errors.Is(err, errComing) {
			return "", nil, d.tell(ctx, condition.Install, &condition.Hold{Reason: reason, Detail: err.Error(), Again: longest})
		}
		if !final {
			d.log.Warn("cannot check the release before the jump", "err", err)
			if keeps {
				hold, err := d.refuses(ctx, reason, err.Error())
				return "", hold, err
			}
			return "", nil, nil
		}
		if errors.Is(err, errStone) { // something else runs now than when it was fetched
			return d.stepBack(err), nil, nil
		}
		d.dep.Reason, d.dep.Detail = reason, err.Error()
		return update.Fail, nil, nil
	}
	d.dep.Entry, d.dep.Cohort = decision.Entry, decision.Cohort
	d.dep.PreviousBootID = BootID(d.slots)
	return update.Jump, nil, nil
}

// errNoManifest: the manifest that delivered the entry is not held now.
var errNoManifest = errors.New("the manifest is not held")

// images brings the list of releases that the entry's manifest pins.
func (d *Driver) images(ctx context.Context) (trust.Images, error) {
	m, ok := d.world.World().Manifests[d.dep.Cohort]
	if !ok || m.Images == nil {
		return trust.Images{}, errNoManifest
	}
	images, err := d.releases.Images(ctx, *m.Images)
	if err == nil {
		d.unasked = false
	}
	return images, err
}

// attempt is the number of the next attempt at a rollout.
func (d *Driver) attempt(rollout string) int {
	r := d.journal.Snapshot()
	return r.Attempt(rollout)
}
