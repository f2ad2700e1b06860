package session

import (
	"errors"
	"slices"
	"strings"
	"time"

	"groundswell/topics"
)

// ErrTooMany means that a client may not hold any more of something.
var ErrTooMany = errors.New("too many")

// RetainHandling says when a subscription brings retained messages.
type RetainHandling byte

// The values of MQTT 5 section 3.8.3.1.
const (
	RetainSend      RetainHandling = 0
	RetainSendIfNew RetainHandling = 1
	RetainIgnore    RetainHandling = 2
)

// Subscription is one filter of a client.
type Subscription struct {
	Filter            string         `json:"filter"`
	QoS               byte           `json:"qos"` // as granted
	NoLocal           bool           `json:"no_local,omitempty"`
	RetainAsPublished bool           `json:"retain_as_published,omitempty"`
	RetainHandling    RetainHandling `json:"retain_handling,omitempty"`
	Identifier        int            `json:"identifier,omitempty"` // 0: none
	// Since is where the store ended when the client subscribed: messages of a lower
	// or equal Sequence are not for it.
	Since uint64 `json:"since,omitempty"`
}

// late reports whether a message was stored before the client subscribed.
func (s *Subscription) late(sequence uint64) bool { return sequence > 0 && sequence <= s.Since }

// Session is one client's state, with or without a connection.
type Session struct {
	out       outbox
	subs      []Subscription // few, each filter once
	maxSubs   int
	revisions map[string]uint64 // the newest revision taken, by topic
	scans     int
	owes      bool               // a retained message was refused: the queue was full
	received  map[uint16]receipt // QoS 2 ids between PUBLISH and PUBREL
	tokens    uint64             // given out
}

// New returns an empty session without a connection. It holds at most maxSubs
// subscriptions.
func New(limits Limits, maxSubs int) *Session {
	return &Session{
		out:     outbox{limits: limits, inflight: map[uint16]*flight{}},
		maxSubs: maxSubs,
	}
}

// Attach begins a connection on which at most window QoS 1 and 2 messages may be
// under way. What was under way before is sent again first.
func (s *Session) Attach(window uint16) { s.out.attach(int(window)) }

// Detach ends the connection and returns the leases that come back, in order.
func (s *Session) Detach() []any { return s.out.detach() }

// Clear forgets everything, as a clean start does, and returns the leases that
// come back.
func (s *Session) Clear() []any {
	leases, scans, tokens := s.out.detach(), s.scans, s.tokens
	*s = *New(s.out.limits, s.maxSubs)
	s.scans, s.tokens = scans, tokens // those who began one will end it
	return leases
}

// Subscribe adds or replaces a subscription; existed tells which.
func (s *Session) Subscribe(sub Subscription) (existed bool, err error) {
	i := s.find(sub.Filter)
	existed = i >= 0
	switch {
	case existed:
		s.subs[i] = sub
	case len(s.subs) >= s.maxSubs:
		return false, ErrTooMany
	default:
		s.subs = append(s.subs, sub)
	}
	// Whoever subscribes gets the retained message again.
	delete(s.revisions, sub.Filter)
	return existed, nil
}

// find is the place of a filter in subs, -1 if it has none.
func (s *Session) find(filter string) int {
	return slices.IndexFunc(s.subs, func(sub Subscription) bool { return sub.Filter == filter })
}

// Unsubscribe removes a subscription, and what waits on its topic if the
// filter is a topic that no other filter of the session matches.
func (s *Session) Unsubscribe(filter string) bool {
	i := s.find(filter)
	if i < 0 {
		return false
	}
	s.subs = slices.Delete(s.subs, i, i+1)
	delete(s.revisions, filter)
	if !slices.ContainsFunc(s.subs, func(sub Subscription) bool { return topics.Match(sub.Filter, filter) }) {
		s.out.drop(filter)
	}
	return true
}

// Subscription returns the subscription of that filter.
func (s *Session) Subscription(filter string) (Subscription, bool) {
	if i := s.find(filter); i >= 0 {
		return s.subs[i], true
	}
	return Subscription{}, false
}

// Subscriptions calls yield for each subscription, in no order. They must not
// change meanwhile.
func (s *Session) Subscriptions(yield func(Subscription) bool) {
	for _, sub := range s.subs {
		if !yield(sub) {
			return
		}
	}
}

// Deliver queues a message. taken is false, without an error, when a newer
// message of the same retained topic was taken before, or when another node had
// begun with it (see Resume).
//
// A message of a retained topic that is subscribed to by its own name is taken
// even when the queue is full: at most one of each topic waits, so there are
// never more of them than subscriptions. One that only a filter with wildcards
// matches may be refused; the session then owes it (see Owes).
func (s *Session) Deliver(m Message) (taken bool, err error) {
	if m.Revision > 0 && m.Revision <= s.revisions[m.Topic] {
		return false, nil
	}
	if m.QoS == 0 && s.out.window == 0 {
		return false, nil // [MQTT-4.3.1]: QoS 0 is not kept for the absent
	}
	if s.out.known(m) {
		return false, nil
	}
	exact := s.find(m.Topic) >= 0
	if err := s.out.put(m, m.Revision > 0 && exact); err != nil {
		s.owes = s.owes || m.Revision > 0
		return false, err
	}
	if m.Revision > 0 {
		if exact || s.scans > 0 {
			if s.revisions == nil {
				s.revisions = map[string]uint64{}
			}
			s.revisions[m.Topic] = m.Revision
		}
	}
	return true, nil
}

// Owes reports whether a message of a retained topic was refused because the
// queue was full, and forgets it: the caller reads the retained messages of the
// filters with wildcards again.
func (s *Session) Owes() bool {
	owes := s.owes
	s.owes = false
	return owes
}

// BeginScan says that retained messages are being read for a filter with
// wildcards. Until EndScan the newest revision of every topic is remembered, so
// that what the scan read does not follow something newer.
func (s *Session) BeginScan() { s.scans++ }

// EndScan ends what BeginScan began.
func (s *Session) EndScan() {
	if s.scans--; s.scans > 0 {
		return
	}
	for topic := range s.revisions {
		if s.find(topic) < 0 {
			delete(s.revisions, topic)
		}
	}
}

// Next returns the message that is to be sent now, if there is one and the
// client may get one. A QoS 1 message counts as sent.
func (s *Session) Next(now time.Time) (Packet, bool) { return s.out.next(now) }

// Ack ends the QoS 1 message with that packet id and returns it. ok is false when
// none is under way.
func (s *Session) Ack(id uint16) (m Message, ok bool) { return s.out.ack(id, 1) }

// Refuse ends the QoS 2 message with that packet id, which the client does not
// take, and returns it.
func (s *Session) Refuse(id uint16) (m Message, ok bool) { return s.out.ack(id, 2) }

// Received says that the client has the QoS 2 message with that packet id, which is
// returned the first time. If the id is known, PUBREL is to be sent; the message
// is not sent again [MQTT-4.3.3-6].
func (s *Session) Received(id uint16) (m Message, known bool) { return s.out.receive(id) }

// Complete ends a QoS 2 message that was received. ok is false when there is none
// with that packet id.
func (s *Session) Complete(id uint16) (ok bool) { return s.out.complete(id) }

// Free is how many leases the client could take and be sent now, as far as its
// window and its queue go; 0 without a connection.
func (s *Session) Free() int { return s.out.free() }

// Waiting is how many messages wait, not counting those under way.
func (s *Session) Waiting() int { return s.out.count }

// InFlight is how many messages were sent and not acknowledged.
func (s *Session) InFlight() int { return len(s.out.inflight) }

// Oldest is the lowest Sequence of what waits or is under way, 0 if nothing has
// one.
func (s *Session) Oldest() uint64 { return s.out.oldest() }

// Receipt says what is known of a QoS 2 id.
type Receipt byte

// What is known of a QoS 2 id.
const (
	Fresh   Receipt = iota // never seen, or released
	Pending                // its message is being handled; how that ends is not known
	Handled                // its message was handled, and must not be again
)

// receipt is what is known of one id.
type receipt struct {
	state Receipt
	token uint64 // tells it from an earlier message of the same id
}

// Receive notes the id of a QoS 2 PUBLISH as pending and returns what was known
// before [MQTT-4.3.3-10], and the token by which its outcome is to be told.
func (s *Session) Receive(id uint16) (before Receipt, token uint64) {
	r := s.received[id]
	if r.state != Fresh {
		return r.state, r.token
	}
	if s.received == nil {
		s.received = map[uint16]receipt{}
	}
	s.tokens++
	s.received[id] = receipt{state: Pending, token: s.tokens}
	return Fresh, s.tokens
}

// Confirm says that the message of a pending id was handled.
func (s *Session) Confirm(id uint16, token uint64) {
	if r := s.received[id]; r.state == Pending && r.token == token {
		s.received[id] = receipt{state: Handled, token: token}
	}
}

// Withdraw says that the message of a pending id was refused: the id is free
// [MQTT-4.3.3-9].
func (s *Session) Withdraw(id uint16, token uint64) {
	if r := s.received[id]; r.state == Pending && r.token == token {
		delete(s.received, id)
	}
}

// Release forgets a QoS 2 id, at PUBREL. ok is false when it was not known.
func (s *Session) Release(id uint16) (ok bool) {
	_, ok = s.received[id]
	delete(s.received, id)
	return ok
}

// wild reports whether a filter has wildcards.
func wild(filter string) bool { return strings.ContainsAny(filter, "+#") }
