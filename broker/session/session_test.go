package session

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	epoch = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	small = Limits{Messages: 8, Bytes: 1 << 20}
)

func attached(window uint16) *Session {
	s := New(small, 4)
	s.Attach(window)
	return s
}

func mustDeliver(t *testing.T, s *Session, m Message) {
	t.Helper()
	if _, err := s.Deliver(m); err != nil {
		t.Fatalf("deliver %s: %v", m.Topic, err)
	}
}

func text(s string) Message { return Message{Topic: "t/" + s, Payload: []byte(s), QoS: 1} }

// sent takes everything out that may be sent now.
func sent(s *Session, now time.Time) (got []Packet) {
	for {
		p, ok := s.Next(now)
		if !ok {
			return got
		}
		got = append(got, p)
	}
}

func payloads(ps []Packet) (got []string) {
	for _, p := range ps {
		got = append(got, string(p.Payload))
	}
	return got
}

func TestReceiveMaximumIsNeverExceeded(t *testing.T) {
	s := attached(2)
	for i := range 5 {
		mustDeliver(t, s, text(fmt.Sprint(i)))
	}
	first := sent(s, epoch)
	if len(first) != 2 {
		t.Fatalf("sent %d with a window of 2", len(first))
	}
	s.Ack(first[1].ID)
	if more := sent(s, epoch); len(more) != 1 || string(more[0].Payload) != "2" {
		t.Fatalf("after one acknowledgement: %q", payloads(more))
	}
}

func TestUnacknowledgedIsSentAgainFirstInOrderWithDup(t *testing.T) {
	s := attached(3)
	for i := range 5 {
		mustDeliver(t, s, text(fmt.Sprint(i)))
	}
	first := sent(s, epoch) // 0 1 2
	s.Ack(first[1].ID)
	s.Detach()
	s.Attach(1) // a smaller window than before
	again := sent(s, epoch)
	if len(again) != 1 || again[0].ID != first[0].ID || !again[0].Dup {
		t.Fatalf("got %+v", again)
	}
	s.Ack(again[0].ID)
	again = sent(s, epoch)
	if len(again) != 1 || again[0].ID != first[2].ID || !again[0].Dup {
		t.Fatalf("got %+v", again)
	}
	s.Ack(again[0].ID)
	if rest := sent(s, epoch); len(rest) != 1 || rest[0].Dup || string(rest[0].Payload) != "3" {
		t.Fatalf("got %+v: never sent, so no DUP", rest)
	}
}

func TestOnlyTheNewestOfARetainedTopicWaits(t *testing.T) {
	s := New(small, 4)
	if _, err := s.Subscribe(Subscription{Filter: "m", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	version := func(n uint64) Message {
		return Message{Topic: "m", Payload: fmt.Append(nil, n), QoS: 1, Revision: n}
	}
	mustDeliver(t, s, version(3))
	mustDeliver(t, s, text("x"))
	mustDeliver(t, s, version(5))
	mustDeliver(t, s, version(4)) // late
	s.Attach(10)
	if got := payloads(sent(s, epoch)); !slices.Equal(got, []string{"5", "x"}) {
		t.Fatalf("got %q", got)
	}
	if taken, _ := s.Deliver(version(5)); taken {
		t.Error("the same revision was taken twice")
	}
	if taken, _ := s.Deliver(version(4)); taken {
		t.Error("an older revision followed a newer one")
	}
	// Whoever subscribes again gets it again.
	_, _ = s.Subscribe(Subscription{Filter: "m", QoS: 1})
	if taken, _ := s.Deliver(version(5)); !taken {
		t.Error("a new subscription did not get the retained message")
	}
}

func TestScanDoesNotPutOldBehindNew(t *testing.T) {
	s := attached(10)
	_, _ = s.Subscribe(Subscription{Filter: "+", QoS: 1})
	s.BeginScan()
	mustDeliver(t, s, Message{Topic: "a", QoS: 1, Revision: 9, Payload: []byte("live")})
	sent(s, epoch)
	if taken, _ := s.Deliver(Message{Topic: "a", QoS: 1, Revision: 3}); taken {
		t.Error("the scan's older message followed the live one")
	}
	s.EndScan()
	if len(s.revisions) != 0 {
		t.Errorf("%d topics are remembered after the scan", len(s.revisions))
	}
}

func TestQueueIsBoundedInMessagesAndBytes(t *testing.T) {
	s := New(Limits{Messages: 2, Bytes: 1000}, 4)
	mustDeliver(t, s, text("a"))
	if _, err := s.Deliver(Message{Topic: "b", QoS: 1, Payload: make([]byte, 900)}); !errors.Is(err, ErrQueueFull) {
		t.Errorf("bytes: got %v", err)
	}
	mustDeliver(t, s, text("c"))
	if _, err := s.Deliver(text("d")); !errors.Is(err, ErrQueueFull) {
		t.Errorf("messages: got %v", err)
	}
	s.Attach(9)
	if got := payloads(sent(s, epoch)); !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("a refused message was queued: %q", got)
	}
}

// TestAFullQueueKeepsRetainedOfItsOwnTopics: a pause must reach a device whose
// queue commands have filled.
func TestAFullQueueKeepsRetainedOfItsOwnTopics(t *testing.T) {
	s := New(Limits{Messages: 1, Bytes: 1000}, 4)
	_, _ = s.Subscribe(Subscription{Filter: "m", QoS: 1})
	mustDeliver(t, s, text("a"))
	mustDeliver(t, s, Message{Topic: "m", QoS: 1, Revision: 1, Payload: make([]byte, 2000)})
	mustDeliver(t, s, Message{Topic: "m", QoS: 1, Revision: 2, Payload: []byte("paused")})
	if s.Owes() {
		t.Error("nothing was refused, and yet something is owed")
	}
	if _, err := s.Deliver(Message{Topic: "other", QoS: 1, Revision: 3}); !errors.Is(err, ErrQueueFull) {
		t.Errorf("a topic without a place of its own: %v", err)
	}
	if !s.Owes() || s.Owes() {
		t.Error("a refused retained message is owed once")
	}
	s.Attach(9)
	if got := payloads(sent(s, epoch)); !slices.Equal(got, []string{"a", "paused"}) {
		t.Errorf("got %q", got)
	}
}

func TestExpiredIsNotSent(t *testing.T) {
	s := New(small, 4)
	m := text("late")
	m.Expires = epoch.Add(time.Minute)
	mustDeliver(t, s, m)
	mustDeliver(t, s, text("ok"))
	s.Attach(9)
	if got := payloads(sent(s, epoch.Add(time.Minute))); !slices.Equal(got, []string{"ok"}) {
		t.Errorf("got %q", got)
	}
	if s.Waiting() != 0 {
		t.Errorf("%d still count as waiting", s.Waiting())
	}
}

func TestQoS0IsNotKeptForTheAbsent(t *testing.T) {
	s := New(small, 4)
	if taken, err := s.Deliver(Message{Topic: "a"}); taken || err != nil {
		t.Errorf("offline: taken %v, %v", taken, err)
	}
	s.Attach(1)
	mustDeliver(t, s, Message{Topic: "a"})
	s.Detach()
	s.Attach(1)
	if got := sent(s, epoch); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestReceivedTwiceIsHandledOnce(t *testing.T) {
	s := New(small, 4)
	before, token := s.Receive(7)
	if again, same := s.Receive(7); before != Fresh || again != Pending || same != token {
		t.Errorf("got %v, %v", before, again)
	}
	s.Confirm(7, token)
	if got, _ := s.Receive(7); got != Handled {
		t.Errorf("got %v", got)
	}
	if !s.Release(7) || s.Release(7) {
		t.Error("released not exactly once")
	}
	s.Confirm(7, token) // late: no trace
	if got, _ := s.Receive(7); got != Fresh {
		t.Error("an id that was released is fresh again")
	}
}

func TestSubscriptionsAreBounded(t *testing.T) {
	s := New(small, 1)
	if existed, err := s.Subscribe(Subscription{Filter: "a"}); existed || err != nil {
		t.Fatal(existed, err)
	}
	if existed, err := s.Subscribe(Subscription{Filter: "a", QoS: 1}); !existed || err != nil {
		t.Fatal(existed, err)
	}
	if _, err := s.Subscribe(Subscription{Filter: "b"}); !errors.Is(err, ErrTooMany) {
		t.Fatalf("got %v", err)
	}
}

// TestNothingIsLostOrInvented drives a session at random and compares it with
// what must hold of any queue: order, at most the window under way, unique ids,
// DUP exactly on repetition, and every loan back exactly once.
func TestNothingIsLostOrInvented(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := New(Limits{Messages: 6, Bytes: 1 << 20}, 4)
		var (
			now      = epoch
			serial   int
			waiting  []int               // queued, in order
			underway = map[uint16]int{}  // by id
			order    []int               // of underway, as first sent
			onWire   = map[uint16]bool{} // sent on this connection
			loans    = map[int]bool{}    // out
			window   int
		)
		number := func(m Message) int { return int(m.Payload[0])<<8 | int(m.Payload[1]) }
		back := func(leases []any) {
			for _, l := range leases {
				n := l.(int)
				if !loans[n] {
					t.Fatalf("loan %d came back twice", n)
				}
				delete(loans, n)
				waiting = slices.DeleteFunc(waiting, func(w int) bool { return w == n })
				order = slices.DeleteFunc(order, func(w int) bool { return w == n })
				for id, w := range underway {
					if w == n {
						delete(underway, id)
					}
				}
			}
		}
		actions := map[string]func(*rapid.T){
			"deliver": func(t *rapid.T) {
				serial++
				m := Message{Topic: "t", QoS: 1, Payload: []byte{byte(serial >> 8), byte(serial)}}
				lend := rapid.Bool().Draw(t, "lend") && s.Free() > 0
				if lend {
					m.Lease = serial
				}
				_, err := s.Deliver(m)
				if (err != nil) != (len(waiting) >= 6) {
					t.Fatalf("%d wait, deliver says %v", len(waiting), err)
				}
				if err == nil {
					waiting = append(waiting, serial)
					if lend {
						loans[serial] = true
					}
				}
			},
			"send": func(t *rapid.T) {
				p, ok := s.Next(now)
				if !ok {
					if window > 0 && len(onWire) < window && (len(waiting) > 0 || len(onWire) < len(underway)) {
						t.Fatalf("nothing to send, but %d wait and %d of %d are under way", len(waiting), len(onWire), window)
					}
					return
				}
				if window == 0 || len(onWire) >= window {
					t.Fatalf("sent beyond the window %d", window)
				}
				n := number(p.Message)
				if before, again := underway[p.ID]; again {
					if before != n || !p.Dup || onWire[p.ID] {
						t.Fatalf("id %d was used for %d, now for %d (dup %v)", p.ID, before, n, p.Dup)
					}
					// The oldest that was not repeated yet.
					for _, o := range order {
						if o == n {
							break
						}
						for id, w := range underway {
							if w == o && !onWire[id] {
								t.Fatalf("%d was repeated before %d", n, o)
							}
						}
					}
				} else {
					if p.Dup || p.ID == 0 {
						t.Fatalf("first sending: id %d, dup %v", p.ID, p.Dup)
					}
					if waiting[0] != n {
						t.Fatalf("sent %d, first in line is %d", n, waiting[0])
					}
					if len(onWire) < len(underway) {
						t.Fatal("something new before the repetitions")
					}
					waiting = waiting[1:]
					underway[p.ID] = n
					order = append(order, n)
				}
				onWire[p.ID] = true
			},
			"ack": func(t *rapid.T) {
				if len(underway) == 0 {
					return
				}
				var ids []uint16
				for id := range underway {
					ids = append(ids, id)
				}
				slices.Sort(ids)
				id := rapid.SampledFrom(ids).Draw(t, "id")
				m, ok := s.Ack(id)
				if !ok || number(m) != underway[id] {
					t.Fatalf("ack %d: %v, %v", id, m, ok)
				}
				if m.Lease != nil {
					delete(loans, m.Lease.(int))
				}
				order = slices.DeleteFunc(order, func(w int) bool { return w == underway[id] })
				delete(underway, id)
				delete(onWire, id)
				if _, ok := s.Ack(id); ok {
					t.Fatal("acknowledged twice")
				}
			},
			"reconnect": func(t *rapid.T) {
				back(s.Detach())
				if len(loans) != 0 {
					t.Fatalf("%d loans outlived the connection", len(loans))
				}
				clear(onWire)
				window = rapid.IntRange(1, 4).Draw(t, "window")
				s.Attach(uint16(window))
			},
			"": func(t *rapid.T) {
				if s.Waiting() != len(waiting) || s.InFlight() != len(underway) {
					t.Fatalf("waiting %d, want %d; in flight %d, want %d", s.Waiting(), len(waiting), s.InFlight(), len(underway))
				}
				if s.Free() < 0 || s.Free() > window {
					t.Fatalf("free %d of %d", s.Free(), window)
				}
			},
		}
		t.Repeat(actions)
		back(s.Clear())
		if len(loans) != 0 {
			t.Fatalf("%d loans never came back", len(loans))
		}
	})
}

func TestIndexFindsEachSubscriberOnce(t *testing.T) {
	var x Index[string]
	x.Add("dev", Subscription{Filter: "a/b", QoS: 1})
	x.Add("svc", Subscription{Filter: "a/+", QoS: 0, Identifier: 1, NoLocal: true})
	x.Add("svc", Subscription{Filter: "a/#", QoS: 1, Identifier: 2})
	x.Add("other", Subscription{Filter: "a/+/#"})
	hits := x.Match("a/b", 0)
	slices.SortFunc(hits, func(a, b Hit[string]) int { return len(a.Subscriber) - len(b.Subscriber) })
	if len(hits) != 3 || hits[2].Subscriber != "other" {
		t.Fatalf("got %+v", hits)
	}
	for _, h := range hits {
		if h.Subscriber == "svc" {
			slices.Sort(h.Identifiers)
			if h.QoS != 1 || h.NoLocal || !slices.Equal(h.Identifiers, []int{1, 2}) {
				t.Errorf("merged: %+v", h)
			}
		}
	}
	x.Remove("svc", "a/+")
	x.Remove("svc", "a/#")
	x.Remove("dev", "a/b")
	x.Remove("other", "a/+/#")
	if hits := x.Match("a/b", 0); len(hits) != 0 || len(x.exact)+len(x.wild) != 0 {
		t.Errorf("left: %+v %+v", hits, x)
	}
}
