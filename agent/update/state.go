package update

import (
	"errors"
	"fmt"
)

// State is a device's step in one deployment.
type State string

// The states. Their names are those of topics.State, except Idle.
const (
	Idle        State = "idle"        // nothing to do, or waiting for the turn
	Downloading State = "downloading" // metadata and bytes are being fetched
	Verified    State = "verified"    // all bytes are on disk and are what the release role signed
	Staged      State = "staged"      // in the idle slot, waiting for leave to jump
	Trying      State = "trying"      // the fallback is armed (or about to be), the new version runs on trial
	Committed   State = "committed"   // healthy for the settling time; being confirmed
	RolledBack  State = "rolled_back" // not healthy; being put back
	Failed      State = "failed"      // given up before the jump; being cleaned up
)

// States lists every state in the order of a deployment.
func States() []State {
	return []State{Idle, Downloading, Verified, Staged, Trying, Committed, RolledBack, Failed}
}

// Terminal reports whether the state ends an attempt.
func (s State) Terminal() bool { return s == Committed || s == RolledBack || s == Failed }

// Harmless reports whether an attempt in this state can be stopped without a
// trace: the old version has run all the time.
func (s State) Harmless() bool { return s == Downloading || s == Verified || s == Staged }

// Event is what happened.
type Event string

// The events.
const (
	Start     Event = "start"     // the device's turn has come
	Fetched   Event = "fetched"   // all bytes are there and verified
	Placed    Event = "placed"    // they are in the idle slot
	Lost      Event = "lost"      // they were there, and are damaged or gone
	Jump      Event = "jump"      // the manifest was looked at again and allows it
	Unarmed   Event = "unarmed"   // killed between the journal and the arming: nothing has jumped
	Healthy   Event = "healthy"   // for the whole settling time
	Unhealthy Event = "unhealthy" // not within its time, or the fallback has struck
	Stop      Event = "stop"      // paused, cancelled or superseded
	Fail      Event = "fail"      // it cannot go on
	Closed    Event = "closed"    // cleaned up, and the report is in the queue
)

// Events lists every event.
func Events() []Event {
	return []Event{Start, Fetched, Placed, Lost, Jump, Unarmed, Healthy, Unhealthy, Stop, Fail, Closed}
}

// Effect is what the driver does in a state, once the state is in the journal.
type Effect string

// The effects. Each is safe to repeat.
const (
	Decide   Effect = "decide"    // look whether there is anything to do
	Fetch    Effect = "fetch"     // metadata, eligibility, bytes; goes on where it stopped
	Place    Effect = "place"     // verify the bytes once more, put them into the idle slot
	Await    Effect = "await"     // wait for leave to jump
	Arm      Effect = "arm"       // arm the fallback and boot the new version
	Watch    Effect = "watch"     // health, until it is settled or the time is over
	Confirm  Effect = "confirm"   // make the new version the one that boots
	FallBack Effect = "fall-back" // make sure the old version runs, and the new one never again
	Discard  Effect = "discard"   // remove what was staged
	Report   Effect = "report"    // queue a report of this state, once
	Close    Effect = "close"     // queue the terminal report and return to Idle, in one write
)

// ErrTransition: the event does not fit the state. The state stays.
var ErrTransition = errors.New("no such transition")

// next lists every legal move; anything else is ErrTransition.
var next = map[State]map[Event]State{
	Idle:        {Start: Downloading},
	Downloading: {Fetched: Verified, Stop: Idle, Fail: Failed},
	Verified:    {Placed: Staged, Lost: Downloading, Stop: Idle, Fail: Failed},
	Staged:      {Jump: Trying, Lost: Downloading, Stop: Idle, Fail: Failed}, // last exit before the risk
	Trying:      {Healthy: Committed, Unhealthy: RolledBack, Unarmed: Staged},
	Committed:   {Closed: Idle, Unhealthy: RolledBack}, // the fallback may strike until Confirm is done
	RolledBack:  {Closed: Idle},
	Failed:      {Closed: Idle},
}

// effects lists what is done in each state, in order.
var effects = map[State][]Effect{
	Idle:        {Decide},
	Downloading: {Report, Fetch},
	Verified:    {Report, Place},
	Staged:      {Report, Await},
	Trying:      {Arm, Report, Watch},
	Committed:   {Confirm, Close},
	RolledBack:  {FallBack, Close},
	Failed:      {Discard, Close},
}

// Step is one move: the state that follows, and what to do in it. An event
// that does not fit is ErrTransition, and the state stays.
func Step(s State, e Event) (State, []Effect, error) {
	to, ok := next[s][e]
	if !ok {
		return s, nil, fmt.Errorf("%w: %s in state %s", ErrTransition, e, s)
	}
	return to, effects[to], nil
}

// Trial is what the slots say after a boot about the slot of the deployment.
type Trial int

// The answers.
const (
	NotArmed Trial = iota // it was never armed, or its trial was cleaned up
	OnTrial               // it runs now, on trial or confirmed
	FellBack              // it was armed, and the old version runs
)

// Resume says where to go on when the device comes up in a state: which state
// to be in, and what to do in it. trial matters in Trying and Committed only.
func Resume(s State, trial Trial) (State, []Effect, error) {
	switch s {
	case Idle:
		return Idle, effects[Idle], nil
	case Downloading:
		// Nothing depends on the part that is on disk: it is hashed again.
		return Downloading, effects[Downloading], nil
	case Verified:
		// A power cut may have taken what the disk had not written: Place
		// verifies before it moves, and answers Lost if need be.
		return Verified, effects[Verified], nil
	case Staged:
		// The leave to jump is never remembered: weeks may have passed.
		return Staged, effects[Staged], nil
	case Trying:
		switch trial {
		case OnTrial:
			// The boot has been counted by the slots. The settling time begins
			// anew, because nobody watched in between.
			return Trying, []Effect{Report, Watch}, nil
		case FellBack:
			return RolledBack, effects[RolledBack], nil
		}
		// Killed before the arming: the old version never stopped.
		return Staged, effects[Staged], nil
	case Committed:
		// Health was proven; only the confirmation may be missing. If the boot
		// attempts ran out in just that moment, the old version runs, and that
		// is the truth to report.
		if trial == OnTrial {
			return Committed, effects[Committed], nil
		}
		return RolledBack, effects[RolledBack], nil
	case RolledBack, Failed:
		// Repeating the cleaning up is harmless, and the report is not queued
		// yet, because that would have been one write with Idle.
		return s, effects[s], nil
	}
	return s, nil, fmt.Errorf("%w: unknown state %q", ErrTransition, s)
}
