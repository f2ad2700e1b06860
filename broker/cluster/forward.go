package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"groundswell/topics"

	"github.com/nats-io/nats.go"
)

// A publication for another region goes to one of its nodes as a request on
// put.<region>, and comes back with the outcome that a publisher there would have
// had. The asker reports success only after that answer, so that what was
// acknowledged is stored where it was meant to go.

const (
	putPrefix = "put."
	putGroup  = "nodes"
	// forwards is how many publications may be under way to one region, and how many
	// of other regions a node handles at once.
	forwards = 256
)

const (
	headerTopic    = "Gs-Topic"
	headerOutcome  = "Gs-Outcome"
	headerKeep     = "Gs-Keep"
	headerRetained = "Gs-Retained"
)

// Publication is what is to be stored in another region: a retained message, or a
// message of the inbox.
type Publication struct {
	Name    topics.Name
	Payload []byte // not copied: it must not change until done was called
	// Version of a retained message; zero for others.
	Version int64
	// Attributes and Keep of a message of the inbox; see Message.
	Attributes json.RawMessage
	Keep       time.Duration
	// Origin is the client that published it.
	Origin string
}

// Outcome is what became of a publication that did not fail.
type Outcome string

// The outcomes: it is stored, or it is stored and nobody is subscribed to it.
const (
	OutcomeStored Outcome = "stored"
	OutcomeNobody Outcome = "nobody"
)

// failures are the errors that cross a gateway, by what stands for them there.
var failures = map[string]error{
	"full": ErrFull, "busy": ErrBusy, "stale": ErrStale, "refused": ErrForward, "unavailable": ErrUnavailable,
}

// Forward has a publication stored in another region and returns at once; done is
// called with the outcome, or with ErrRegion (no such region is configured), ErrBusy,
// ErrForward (the other region does not take such a thing), a StaleError, ErrFull, or
// ErrUnavailable when no answer came within Config.StoreTimeout: then it may or may
// not have been stored. done must not block.
func (c *Cluster) Forward(region string, p Publication, done func(Outcome, error)) {
	if !c.reaches(region) {
		done("", fmt.Errorf("%w: %q", ErrRegion, region))
		return
	}
	finish := func(outcome Outcome, err error) {
		label := string(outcome)
		if err != nil {
			label = failure(err)
			err = fmt.Errorf("region %s: %w", region, err)
		}
		c.metrics.forwarded.With(region, label).Inc()
		done(outcome, err)
	}
	select {
	case c.underway[region] <- struct{}{}:
	default:
		finish("", ErrBusy)
		return
	}
	run := func() {
		finish(c.forward(region, p))
		<-c.underway[region]
	}
	if lane := region + " " + p.Name.String(); c.lanes.enter(lane, run) {
		c.forwarding.Go(func() { c.lanes.drain(lane, run) })
	}
}

// lanes keeps what is forwarded on one topic in order [MQTT-4.6.0-5]: one after the
// other, and topics beside one another.
type lanes struct {
	mu      sync.Mutex
	waiting map[string][]func() // by lane that somebody drains
}

// enter queues run in a lane. first says that nobody drains it: the caller has to,
// beginning with run, which was not queued.
func (l *lanes) enter(lane string, run func()) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if queue, drained := l.waiting[lane]; drained {
		l.waiting[lane] = append(queue, run)
		return false
	}
	if l.waiting == nil {
		l.waiting = map[string][]func(){}
	}
	l.waiting[lane] = nil
	return true
}

// drain calls run, and what is queued behind it, until nothing is.
func (l *lanes) drain(lane string, run func()) {
	for run != nil {
		run()
		l.mu.Lock()
		queue := l.waiting[lane]
		run = nil
		if len(queue) > 0 {
			run, l.waiting[lane] = queue[0], queue[1:]
		} else {
			delete(l.waiting, lane)
		}
		l.mu.Unlock()
	}
}

func (c *Cluster) forward(region string, p Publication) (Outcome, error) {
	ctx, cancel := context.WithTimeout(c.gateway.life, c.cfg.StoreTimeout)
	defer cancel()
	answer, err := c.gateway.conn.RequestMsgWithContext(ctx, p.request(region))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	switch outcome := answer.Header.Get(headerOutcome); outcome {
	case string(OutcomeStored), string(OutcomeNobody):
		return Outcome(outcome), nil
	case "stale":
		retained, err := strconv.ParseInt(answer.Header.Get(headerRetained), 10, 64)
		if err != nil {
			return "", fmt.Errorf("%w: answer without the retained version", ErrUnavailable)
		}
		return "", &StaleError{Topic: p.Name.String(), Version: p.Version, Retained: retained}
	default:
		sentinel, known := failures[outcome]
		if !known {
			sentinel = ErrUnavailable
		}
		return "", fmt.Errorf("%w: %s", sentinel, answer.Data)
	}
}

func (p Publication) request(region string) *nats.Msg {
	return &nats.Msg{Subject: putPrefix + region, Data: p.Payload, Header: nats.Header{
		headerTopic:      {p.Name.String()},
		headerVersion:    {formatVersion(p.Version)},
		headerOrigin:     {p.Origin},
		headerAttributes: {string(p.Attributes)},
		headerKeep:       {strconv.FormatInt(int64(p.Keep/time.Millisecond), 10)},
	}}
}

// forwarded reads a request. Whatever a publisher may not put across is ErrForward:
// this region decides for itself what it takes.
func forwarded(m *nats.Msg) (Publication, error) {
	name, err := topics.Parse(m.Header.Get(headerTopic))
	if err != nil {
		return Publication{}, fmt.Errorf("%w: %w", ErrForward, err)
	}
	version, versionErr := strconv.ParseInt(m.Header.Get(headerVersion), 10, 64)
	keep, keepErr := strconv.ParseInt(m.Header.Get(headerKeep), 10, 64)
	switch {
	case versionErr != nil || keepErr != nil:
		return Publication{}, fmt.Errorf("%w: unreadable version or time to keep", ErrForward)
	case !name.Kind.Retained() && name.Kind != topics.KindCommand:
		return Publication{}, fmt.Errorf("%w: %s", ErrForward, name.Kind)
	case len(m.Data) > topics.MaxPayload(name.Kind):
		return Publication{}, fmt.Errorf("%w: %d bytes, at most %d", ErrForward, len(m.Data), topics.MaxPayload(name.Kind))
	case name.Kind.Retained() && version < 1:
		return Publication{}, fmt.Errorf("%w: version %d", ErrForward, version)
	case name.Kind == topics.KindCommand && keep <= 0:
		return Publication{}, fmt.Errorf("%w: it is to be kept for no time", ErrForward)
	}
	return Publication{
		Name: name, Payload: m.Data, Version: version, Origin: m.Header.Get(headerOrigin),
		Attributes: json.RawMessage(m.Header.Get(headerAttributes)), Keep: time.Duration(keep) * time.Millisecond,
	}, nil
}

// AnswerForwards has what other regions forward handed to store until ctx ends; store
// calls its done once, as Forward describes it, and may block. Without gateways it
// only waits.
func (c *Cluster) AnswerForwards(ctx context.Context, store func(Publication, func(Outcome, error))) error {
	if c.gateway == nil {
		<-ctx.Done()
		return nil
	}
	var handling sync.WaitGroup
	slots := make(chan struct{}, forwards)
	sub, err := c.gateway.conn.QueueSubscribe(putPrefix+c.cfg.Region, putGroup, func(m *nats.Msg) {
		respond := func(outcome Outcome, err error) { c.respond(m, outcome, err) }
		p, err := forwarded(m)
		if err != nil {
			respond("", err)
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			respond("", ErrBusy)
			return
		}
		handling.Go(func() {
			defer func() { <-slots }()
			answered := make(chan struct{})
			store(p, func(outcome Outcome, err error) {
				respond(outcome, err)
				close(answered)
			})
			<-answered // the slot is taken until the store has answered
		})
	})
	if err != nil {
		return fmt.Errorf("gateways: %w", err)
	}
	<-ctx.Done()
	_ = sub.Unsubscribe() // at worst the connection is gone, and with it the subscription
	handling.Wait()
	return nil
}

func (c *Cluster) respond(m *nats.Msg, outcome Outcome, err error) {
	answer := &nats.Msg{Header: nats.Header{headerOutcome: {string(outcome)}}}
	if err != nil {
		answer.Header.Set(headerOutcome, failure(err))
		answer.Data = []byte(err.Error())
	}
	var stale *StaleError
	if errors.As(err, &stale) {
		answer.Header.Set(headerRetained, formatVersion(stale.Retained))
	}
	c.metrics.taken.With(answer.Header.Get(headerOutcome)).Inc()
	if err := m.RespondMsg(answer); err != nil {
		c.log.Warn("another region gets no answer and will ask again", "topic", m.Header.Get(headerTopic), "err", err)
	}
}

// failure is what stands for an error on the gateway and in metrics.
func failure(err error) string {
	if errors.Is(err, ErrForward) {
		return "refused"
	}
	return reason(err)
}
