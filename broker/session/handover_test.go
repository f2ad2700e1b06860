package session

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// stored is a message of the store; one in three is of QoS 1.
func stored(sequence uint64) Message {
	m := Message{Topic: "t", Payload: fmt.Append(nil, sequence), QoS: 2, Sequence: sequence}
	if sequence%3 == 1 {
		m.QoS = 1
	}
	return m
}

// nodes is a session that moves between nodes, each of which reads the store for it.
type nodes struct {
	*Session
	read, last uint64 // in the store: up to where the session was given it, and its end
}

// deliver reads the next message of the store.
func (n *nodes) deliver(r *rapid.T) {
	if n.read == n.last {
		return
	}
	if _, err := n.Deliver(stored(n.read + 1)); err != nil {
		r.Fatal(err)
	}
	if n.read++; n.read == n.last {
		n.Resumed()
	}
}

// move has another node begin with what this one hands over.
func (n *nodes) move(r *rapid.T) {
	data, err := json.Marshal(n.Handover())
	if err != nil {
		r.Fatal(err)
	}
	var h Handover
	if err := json.Unmarshal(data, &h); err != nil {
		r.Fatal(err)
	}
	if oldest := n.Oldest(); oldest > 0 {
		n.read = oldest - 1
	}
	n.Session = New(Limits{Messages: 1000, Bytes: 1 << 20}, 10)
	n.Attach(100)
	n.Resume(h, uint16(rapid.IntRange(0, 65535).Draw(r, "first")))
	if n.read == n.last {
		n.Resumed()
	}
}

// TestAClientGetsEachMessageOnceWhereverItGoes: a client that keeps the rules moves
// between nodes at any time, also before a node has read all that there is for it;
// each message of QoS 2 is handed to its application once, each of QoS 1 at least
// once, and both for the first time in order.
func TestAClientGetsEachMessageOnceWhereverItGoes(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := &nodes{Session: New(Limits{Messages: 1000, Bytes: 1 << 20}, 10)}
		n.Attach(100)
		held := map[uint16]bool{} // ids of QoS 2 that the client has and that were not released
		got := map[uint64]int{}
		var order []uint64
		var acks, recs, comps []uint16 // answers that the client still owes
		take := func(sequence uint64) {
			if got[sequence]++; got[sequence] == 1 {
				order = append(order, sequence)
			}
		}
		exchange := func() {
			for {
				p, ok := n.Next(epoch)
				switch {
				case !ok:
					return
				case p.Release:
					delete(held, p.ID)
					comps = append(comps, p.ID)
				case p.QoS == 1:
					take(p.Sequence)
					acks = append(acks, p.ID)
				default:
					if !held[p.ID] {
						held[p.ID] = true
						take(p.Sequence)
					}
					recs = append(recs, p.ID)
				}
			}
		}
		draw := func(ids *[]uint16) uint16 {
			i := rapid.IntRange(0, len(*ids)-1).Draw(r, "which")
			id := (*ids)[i]
			*ids = slices.Delete(*ids, i, i+1)
			return id
		}
		answer := func() {
			if len(acks) > 0 {
				n.Ack(draw(&acks))
			}
			if len(recs) > 0 {
				id := draw(&recs)
				if _, known := n.Received(id); known { // and PUBREL follows
					delete(held, id)
					comps = append(comps, id)
				}
			}
			if len(comps) > 0 && rapid.Bool().Draw(r, "comp") {
				n.Complete(draw(&comps))
			}
		}
		for range rapid.IntRange(1, 80).Draw(r, "steps") {
			switch rapid.IntRange(0, 4).Draw(r, "step") {
			case 0:
				n.last++
			case 1:
				n.deliver(r)
			case 2:
				exchange()
			case 3:
				answer()
			case 4: // what was on its way is lost
				acks, recs, comps = nil, nil, nil
				n.move(r)
			}
		}
		for range 1000 {
			n.deliver(r)
			exchange()
			answer()
		}
		for sequence := uint64(1); sequence <= n.last; sequence++ {
			if times := got[sequence]; times < 1 || times > 1 && stored(sequence).QoS == 2 {
				r.Fatalf("message %d came %d times", sequence, times)
			}
		}
		if n.InFlight() != 0 || len(held) != 0 {
			r.Fatalf("%d are still under way, the client holds %v", n.InFlight(), held)
		}
		if !slices.IsSorted(order) {
			r.Fatalf("order %v", order)
		}
	})
}

func TestWhatHasExpiredOnTheWayIsReleased(t *testing.T) {
	s := attached(10)
	mustDeliver(t, s, stored(5))
	id := sent(s, epoch)[0].ID
	there := New(Limits{Messages: 10, Bytes: 1 << 20}, 10)
	there.Attach(10)
	there.Resume(s.Handover(), 7)
	mustDeliver(t, there, stored(8)) // 5 is gone
	if got := sent(there, epoch); len(got) != 1 || got[0].ID == id {
		t.Fatalf("got %+v", got)
	}
	there.Resumed()
	if got := sent(there, epoch); len(got) != 1 || !got[0].Release || got[0].ID != id {
		t.Errorf("got %+v, want the release of %d", got, id)
	}
}

func TestWhatTheClientPublishedIsHandedOver(t *testing.T) {
	s := attached(1)
	_, one := s.Receive(1)
	_, two := s.Receive(2)
	s.Confirm(2, two)
	if !s.Pending() {
		t.Error("nothing is pending")
	}
	s.Confirm(1, one)
	s.Release(1)
	if s.Pending() {
		t.Error("something is pending")
	}
	there := attached(1)
	there.Resume(s.Handover(), 0)
	if before, _ := there.Receive(1); before != Fresh {
		t.Error("1 was released")
	}
	if before, _ := there.Receive(2); before != Handled {
		t.Error("2 was handled")
	}
}

func TestWhatTheStoreHasLostIsCutOff(t *testing.T) {
	h := Handover{Sent: []Sent{{ID: 1, Sequence: 4}, {ID: 2, Sequence: 6}}, Done: []uint64{5, 7}}
	h.Cut(5)
	if !slices.Equal(h.Sent, []Sent{{ID: 1, Sequence: 4}, {ID: 2}}) || !slices.Equal(h.Done, []uint64{5}) {
		t.Errorf("got %+v", h)
	}
}

// TestALateOutcomeIsOfItsOwnMessage: the client has begun anew with an id meanwhile.
func TestALateOutcomeIsOfItsOwnMessage(t *testing.T) {
	s := attached(1)
	_, old := s.Receive(7)
	s.Clear()
	_, fresh := s.Receive(7)
	s.Withdraw(7, old)
	s.Confirm(7, old)
	if before, token := s.Receive(7); before != Pending || token != fresh {
		t.Errorf("got %v", before)
	}
	s.Withdraw(7, fresh)
	if before, _ := s.Receive(7); before != Fresh {
		t.Errorf("got %v after a refusal", before)
	}
}
