package session

import (
	"errors"
	"slices"
	"time"
)

// ErrQueueFull means that a message was not taken: the client reads too slowly
// or was away for too long.
var ErrQueueFull = errors.New("the client's queue is full")

// Limits bound what waits for one client. In-flight messages are bounded by
// the client's own Receive Maximum.
type Limits struct {
	Messages int
	Bytes    int
}

// outbox is the queue and the in-flight window of a session.
type outbox struct {
	limits Limits
	queue  []*waiting          // in order; entries that are gone are skipped
	newest map[string]*waiting // the waiting message of a retained topic
	count  int                 // messages waiting
	bytes  int                 // their size
	leased int                 // of them, on loan

	window   int // Receive Maximum; 0 without a connection
	sent     int // sent on this connection and not acknowledged
	inflight map[uint16]*flight
	resend   []*flight // of inflight, those not yet sent on this connection
	lastID   uint16
	order    uint64
	done     []uint64 // sorted; see Handover.Done
	there    []uint64 // sorted: done on another node, and not yet read from the store
	absent   int      // how many of inflight are
}

type waiting struct {
	msg  Message
	gone bool
}

type flight struct {
	id    uint16
	msg   Message
	order uint64
	sent  bool // on this connection
	ended bool // acknowledged while in resend
	// received: the client has said that it has the message (QoS 2). Only the id is
	// left of it.
	received bool
	// absent: it was under way on another node, and has not come from the store yet.
	// Only its Sequence is known.
	absent bool
}

// put takes m into the queue. reserved says that m has a place of its own
// beside the limits.
func (o *outbox) put(m Message, reserved bool) error {
	if m.Revision > 0 {
		if w := o.newest[m.Topic]; w != nil {
			if m.Revision > w.msg.Revision {
				o.bytes += m.size() - w.msg.size()
				w.msg = m
			}
			return nil
		}
	}
	if !reserved && (o.count >= o.limits.Messages || o.bytes+m.size() > o.limits.Bytes) {
		return ErrQueueFull
	}
	w := &waiting{msg: m}
	o.queue = append(o.queue, w)
	o.count++
	o.bytes += m.size()
	if m.Lease != nil {
		o.leased++
	}
	if m.Revision > 0 {
		if o.newest == nil {
			o.newest = map[string]*waiting{}
		}
		o.newest[m.Topic] = w
	}
	return nil
}

// remove takes a waiting message out of the accounts.
func (o *outbox) remove(w *waiting) {
	w.gone = true
	o.count--
	o.bytes -= w.msg.size()
	if w.msg.Lease != nil {
		o.leased--
	}
	if w.msg.Revision > 0 && o.newest[w.msg.Topic] == w {
		delete(o.newest, w.msg.Topic)
	}
}

// head returns the first waiting message, dropping what has expired. An
// expired loan is sent nevertheless: the group decides about it, not we.
func (o *outbox) head(now time.Time) *waiting {
	for len(o.queue) > 0 {
		w := o.queue[0]
		if !w.gone && (!w.msg.expired(now) || w.msg.Lease != nil) {
			return w
		}
		if !w.gone {
			o.remove(w)
		}
		o.shift()
	}
	return nil
}

func (o *outbox) shift() {
	o.queue[0] = nil
	o.queue = o.queue[1:]
	if len(o.queue) == 0 {
		o.queue = nil // let the grown array go
	}
}

// next is Session.Next.
func (o *outbox) next(now time.Time) (Packet, bool) {
	if o.window == 0 {
		return Packet{}, false
	}
	for len(o.resend) > 0 {
		f := o.resend[0]
		if f.ended {
			o.resend = o.resend[1:]
			continue
		}
		if o.sent >= o.window {
			return Packet{}, false
		}
		o.resend = o.resend[1:]
		f.sent = true
		o.sent++
		if f.received {
			return Packet{ID: f.id, Release: true}, true
		}
		return Packet{ID: f.id, Dup: true, Message: f.msg}, true
	}
	w := o.head(now)
	if w == nil {
		return Packet{}, false
	}
	if w.msg.QoS == 0 {
		o.remove(w)
		o.shift()
		return Packet{Message: w.msg}, true
	}
	if o.sent >= o.window {
		return Packet{}, false
	}
	o.remove(w)
	o.shift()
	o.order++
	f := &flight{id: o.freeID(), msg: w.msg, order: o.order, sent: true}
	o.inflight[f.id] = f
	o.sent++
	return Packet{ID: f.id, Message: f.msg}, true
}

// freeID finds a packet id that is not in use. There is one: the window has at
// most 65,535 places, and in-flight messages never outnumber the largest
// window that the client ever had.
func (o *outbox) freeID() uint16 {
	for {
		o.lastID++
		if o.lastID == 0 {
			continue // [MQTT-2.2.1-3]
		}
		if _, used := o.inflight[o.lastID]; !used {
			return o.lastID
		}
	}
}

// ack ends a QoS 1 message, or a QoS 2 message that the client has refused.
func (o *outbox) ack(id uint16, qos byte) (Message, bool) {
	f, ok := o.inflight[id]
	if !ok || f.received || f.msg.QoS != qos {
		return Message{}, false
	}
	o.finish(f)
	if qos == 2 {
		o.finished(f.msg.Sequence)
	}
	return f.msg, true
}

// receive notes that the client has a QoS 2 message, and returns it the first
// time.
func (o *outbox) receive(id uint16) (m Message, known bool) {
	f, ok := o.inflight[id]
	if !ok || !f.received && f.msg.QoS != 2 {
		return Message{}, false
	}
	m = f.msg
	o.come(f)
	f.received, f.msg = true, Message{}
	if o.finished(m.Sequence); m.Topic == "" {
		return Message{}, true // it came on another node
	}
	return m, true
}

// complete ends a QoS 2 message.
func (o *outbox) complete(id uint16) bool {
	f, ok := o.inflight[id]
	if !ok || !f.received {
		return false
	}
	o.finish(f)
	return true
}

func (o *outbox) finish(f *flight) {
	o.come(f)
	delete(o.inflight, f.id)
	if f.sent {
		o.sent--
	}
	f.ended = true
}

// free is how many loans the client could take at once.
func (o *outbox) free() int {
	n := o.window - o.sent - o.leased - len(o.resend)
	n = min(n, o.limits.Messages-o.count)
	if o.bytes >= o.limits.Bytes || n < 0 {
		return 0
	}
	return n
}

func (o *outbox) oldest() (oldest uint64) {
	see := func(m *Message) {
		if m.Sequence > 0 && (oldest == 0 || m.Sequence < oldest) {
			oldest = m.Sequence
		}
	}
	for _, f := range o.inflight {
		if !f.absent { // else it is not even read
			see(&f.msg)
		}
	}
	for _, w := range o.queue {
		if !w.gone {
			see(&w.msg)
		}
	}
	return oldest
}

func (o *outbox) attach(window int) {
	o.window = window
	o.sent = 0
	o.resend = o.resend[:0]
	for _, f := range o.inflight {
		f.sent = false
		if !f.absent {
			o.resend = append(o.resend, f)
		}
	}
	slices.SortFunc(o.resend, func(a, b *flight) int {
		if a.order < b.order {
			return -1
		}
		return 1
	})
}

// detach ends the connection: loans come back, QoS 0 is forgotten.
func (o *outbox) detach() []any {
	var leases []any
	var mine []*flight
	for id, f := range o.inflight {
		if f.msg.Lease != nil {
			mine = append(mine, f)
			delete(o.inflight, id)
		}
	}
	slices.SortFunc(mine, func(a, b *flight) int {
		if a.order < b.order {
			return -1
		}
		return 1
	})
	for _, f := range mine {
		leases = append(leases, f.msg.Lease)
	}
	var keep []*waiting
	for _, w := range o.queue {
		switch {
		case w.gone:
		case w.msg.Lease != nil:
			leases = append(leases, w.msg.Lease)
			o.remove(w)
		case w.msg.QoS == 0:
			o.remove(w)
		default:
			keep = append(keep, w)
		}
	}
	o.queue = keep
	o.window, o.sent, o.resend = 0, 0, nil
	return leases
}

// drop removes what waits on a topic and is not on loan.
func (o *outbox) drop(topic string) {
	for _, w := range o.queue {
		if !w.gone && w.msg.Topic == topic && w.msg.Lease == nil {
			o.remove(w)
		}
	}
}
