package session

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func stored(sequence uint64) Message {
	return Message{Topic: "t", Payload: fmt.Append(nil, sequence), QoS: 2, Sequence: sequence}
}

// moved is the session as another node has it, which then reads the store again
// from the oldest on that is under way.
func moved(t interface {
	Fatal(...any)
}, s *Session, upTo uint64, first uint16) *Session {
	data, err := json.Marshal(s.Handover())
	if err != nil {
		t.Fatal(err)
	}
	var h Handover
	if err := json.Unmarshal(data, &h); err != nil {
		t.Fatal(err)
	}
	from := upTo + 1
	if oldest := s.Oldest(); oldest > 0 {
		from = oldest
	}
	there := New(Limits{Messages: 1000, Bytes: 1 << 20}, 10)
	there.Attach(100)
	there.Resume(h, first)
	for sequence := from; sequence <= upTo; sequence++ {
		if _, err := there.Deliver(stored(sequence)); err != nil {
			t.Fatal(err)
		}
	}
	there.Resumed()
	return there
}

// TestAClientGetsEachMessageOnceWhereverItGoes: a client that keeps the rules of
// QoS 2 moves between nodes at any time; each message is handed to its application
// once, and in order.
func TestAClientGetsEachMessageOnceWhereverItGoes(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := New(Limits{Messages: 1000, Bytes: 1 << 20}, 10)
		s.Attach(100)
		var last uint64
		held := map[uint16]bool{} // ids that the client has and that were not released
		got := map[string]int{}
		var order []uint64
		var recs, comps []uint16 // answers that the client still owes
		exchange := func() {
			for {
				p, ok := s.Next(epoch)
				if !ok {
					return
				}
				if p.Release {
					delete(held, p.ID)
					comps = append(comps, p.ID)
					continue
				}
				if !held[p.ID] {
					held[p.ID] = true
					got[string(p.Payload)]++
					order = append(order, p.Sequence)
				}
				recs = append(recs, p.ID)
			}
		}
		answer := func(any bool) {
			if len(recs) > 0 && (any || rapid.Bool().Draw(r, "rec")) {
				i := rapid.IntRange(0, len(recs)-1).Draw(r, "which")
				id := recs[i]
				recs = slices.Delete(recs, i, i+1)
				if _, known := s.Received(id); known { // and PUBREL follows
					delete(held, id)
					comps = append(comps, id)
				}
			} else if len(comps) > 0 {
				id := comps[0]
				comps = comps[1:]
				s.Complete(id)
			}
		}
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			switch rapid.IntRange(0, 3).Draw(r, "step") {
			case 0:
				last++
				if _, err := s.Deliver(stored(last)); err != nil {
					r.Fatal(err)
				}
			case 1:
				exchange()
			case 2:
				answer(false)
			case 3: // what was on its way is lost
				recs, comps = nil, nil
				s = moved(r, s, last, uint16(rapid.IntRange(0, 65535).Draw(r, "first")))
			}
		}
		for range 1000 {
			exchange()
			answer(true)
		}
		for sequence := uint64(1); sequence <= last; sequence++ {
			if n := got[fmt.Sprint(sequence)]; n != 1 {
				r.Fatalf("message %d came %d times", sequence, n)
			}
		}
		if s.InFlight() != 0 || len(held) != 0 {
			r.Fatalf("%d are still under way, the client holds %v", s.InFlight(), held)
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
	mustDeliver(t, there, stored(6)) // 5 is gone
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
	s.Receive(1)
	s.Receive(2)
	s.Confirm(2)
	if !s.Pending() {
		t.Error("nothing is pending")
	}
	s.Confirm(1)
	s.Release(1)
	if s.Pending() {
		t.Error("something is pending")
	}
	there := attached(1)
	there.Resume(s.Handover(), 0)
	if there.Receive(1) != Fresh || there.Receive(2) != Handled {
		t.Error("1 was released, 2 was handled")
	}
	if !attached(1).Handover().Empty() || s.Handover().Empty() {
		t.Error("what is empty is not")
	}
}
