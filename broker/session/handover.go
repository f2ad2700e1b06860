package session

import (
	"cmp"
	"slices"
)

// maxDone bounds what is remembered of QoS 2 messages that were received out of
// order. A client that withholds the oldest for longer may get some of them twice,
// when its session moves.
const maxDone = 4096

// Handover is what another node has to know of a session, beside its subscriptions
// and its place in the store, so that QoS 2 stays exactly once.
type Handover struct {
	// Sent are the messages under way to the client, in order.
	Sent []Sent `json:"sent,omitempty"`
	// Done are the sequences of messages that the client has, above that of the
	// oldest under way.
	Done []uint64 `json:"done,omitempty"`
	// Handled are the ids of the client's own messages that were handled and not
	// released.
	Handled []uint16 `json:"handled,omitempty"`
}

// Sent is a QoS 2 message under way.
type Sent struct {
	ID uint16 `json:"id"`
	// Sequence is its place in the store. 0: the client has it, or it has none, and
	// only PUBREL is to be sent.
	Sequence uint64 `json:"sequence,omitempty"`
}

// Cut forgets what is above last, where the store has lost its end. The ids of what
// is lost are released.
func (h *Handover) Cut(last uint64) {
	h.Done = slices.DeleteFunc(slices.Clone(h.Done), func(sequence uint64) bool { return sequence > last })
	h.Sent = slices.Clone(h.Sent)
	for i := range h.Sent {
		if h.Sent[i].Sequence > last {
			h.Sent[i].Sequence = 0
		}
	}
}

// Handover returns what another node has to know. Loans are not in it: Detach
// gives them back.
func (s *Session) Handover() Handover {
	var h Handover
	flights := make([]*flight, 0, len(s.out.inflight))
	for _, f := range s.out.inflight {
		if f.received || f.msg.QoS == 2 && f.msg.Lease == nil {
			flights = append(flights, f)
		}
	}
	slices.SortFunc(flights, func(a, b *flight) int { return cmp.Compare(a.order, b.order) })
	for _, f := range flights {
		h.Sent = append(h.Sent, Sent{ID: f.id, Sequence: f.msg.Sequence})
	}
	s.out.forgetDone()
	h.Done = slices.Concat(s.out.done, s.out.there)
	slices.Sort(h.Done)
	for id, r := range s.received {
		if r.state == Handled {
			h.Handled = append(h.Handled, id)
		}
	}
	slices.Sort(h.Handled)
	return h
}

// Pending reports whether a QoS 2 message of the client is being handled, so that a
// Handover would not be complete.
func (s *Session) Pending() bool {
	for _, r := range s.received {
		if r.state == Pending {
			return true
		}
	}
	return false
}

// Resume takes over what another node has handed over, into a session of which
// nothing was sent yet. The messages that were under way come by Deliver, from the
// store, and keep their packet ids; others get ids after first, which should not be
// the same each time: if the node has died, nothing was handed over, and the client
// may have messages that the session does not know of.
func (s *Session) Resume(h Handover, first uint16) {
	s.out.lastID, s.out.absent, s.out.resend = first, 0, nil
	clear(s.out.inflight)
	for _, sent := range h.Sent {
		s.out.order++
		f := &flight{id: sent.ID, order: s.out.order, received: sent.Sequence == 0, absent: sent.Sequence > 0}
		f.msg = Message{QoS: 2, Sequence: sent.Sequence}
		s.out.inflight[f.id] = f
		if f.received {
			s.out.resend = append(s.out.resend, f)
		} else {
			s.out.absent++
		}
	}
	s.out.done, s.out.there = nil, slices.Sorted(slices.Values(h.Done))
	for _, id := range h.Handled {
		if s.received == nil {
			s.received = map[uint16]receipt{}
		}
		s.received[id] = receipt{state: Handled}
	}
}

// Resumed says that all that is in the store was delivered: what was handed over as
// under way and did not come has expired, and only its id is to be released.
func (s *Session) Resumed() {
	s.out.there = nil
	if s.out.absent == 0 {
		return
	}
	for _, f := range s.out.inflight {
		if f.absent {
			s.out.come(f)
			f.received, f.msg = true, Message{}
			s.out.resend = append(s.out.resend, f)
		}
	}
}

// come says that a message is not absent any more, if it was.
func (o *outbox) come(f *flight) {
	if f.absent {
		f.absent = false
		o.absent--
	}
}

// known reports whether a message from the store needs no new place: the client has
// it, or it is the one that was under way.
func (o *outbox) known(m Message) bool {
	if m.Sequence == 0 {
		return false
	}
	if _, done := slices.BinarySearch(o.there, m.Sequence); done {
		o.finished(m.Sequence) // for the next node
		return true
	}
	if o.absent == 0 {
		return false
	}
	for _, f := range o.inflight {
		if f.absent && f.msg.Sequence == m.Sequence {
			o.come(f)
			m.QoS = 2 // as it was sent
			f.msg = m
			o.resend = append(o.resend, f)
			return true
		}
	}
	return false
}

// finished remembers that the client has a message.
func (o *outbox) finished(sequence uint64) {
	if sequence == 0 {
		return
	}
	i, found := slices.BinarySearch(o.done, sequence)
	if !found {
		o.done = slices.Insert(o.done, i, sequence)
	}
	if len(o.done) > 2*len(o.inflight)+16 {
		o.forgetDone()
	}
}

// forgetDone forgets what is below the oldest under way: the place in the store says
// the same.
func (o *outbox) forgetDone() {
	oldest := o.oldest()
	i := len(o.done)
	if oldest > 0 {
		i, _ = slices.BinarySearch(o.done, oldest)
	}
	i = max(i, len(o.done)-maxDone)
	o.done = slices.Delete(o.done, 0, i)
	if len(o.done) == 0 {
		o.done = nil
	}
}
