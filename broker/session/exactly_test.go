package session

import "testing"

func exactly(s string) Message { return Message{Topic: "t/" + s, Payload: []byte(s), QoS: 2} }

func TestWhatTheClientHasIsNotSentAgainOnlyReleased(t *testing.T) {
	s := attached(3)
	for _, name := range []string{"a", "b", "c", "d"} {
		mustDeliver(t, s, exactly(name))
	}
	first := sent(s, epoch)
	if len(first) != 3 {
		t.Fatalf("sent %d with a window of 3", len(first))
	}
	a, b := first[0].ID, first[1].ID
	if m, known := s.Received(b); !known || string(m.Payload) != "b" {
		t.Fatalf("received: %v, %v", m, known)
	}
	if m, known := s.Received(b); !known || m.Payload != nil {
		t.Fatalf("received again: %v, %v", m, known)
	}
	if more := sent(s, epoch); len(more) != 0 {
		t.Fatalf("%q: the window opens at PUBCOMP only", payloads(more))
	}
	if _, ok := s.Ack(a); ok {
		t.Error("a PUBACK ended a QoS 2 message")
	}
	if _, ok := s.Refuse(b); ok {
		t.Error("a message that was received was refused")
	}
	if s.Complete(a) {
		t.Error("a message was completed that was not received")
	}

	s.Detach()
	s.Attach(3)
	again := sent(s, epoch)
	if len(again) != 3 || !again[0].Dup || again[0].Release || !again[1].Release || again[1].Dup || again[1].ID != b || !again[2].Dup {
		t.Fatalf("after a reconnect: %+v", again)
	}
	if !s.Complete(b) || s.Complete(b) {
		t.Error("completed not exactly once")
	}
	if _, known := s.Received(b); known {
		t.Error("an id that was completed is known")
	}
	if more := sent(s, epoch); len(more) != 1 || string(more[0].Payload) != "d" {
		t.Fatalf("after PUBCOMP: %q", payloads(more))
	}
}

func TestARefusedMessageMakesRoom(t *testing.T) {
	s := attached(1)
	mustDeliver(t, s, exactly("a"))
	mustDeliver(t, s, exactly("b"))
	id := sent(s, epoch)[0].ID
	if m, ok := s.Refuse(id); !ok || string(m.Payload) != "a" {
		t.Fatalf("refused: %v, %v", m, ok)
	}
	if more := sent(s, epoch); len(more) != 1 || string(more[0].Payload) != "b" {
		t.Fatalf("afterwards: %q", payloads(more))
	}
}

func TestALoanThatWasReceivedDoesNotComeBack(t *testing.T) {
	s := attached(1)
	m := exactly("a")
	m.Lease = 1
	mustDeliver(t, s, m)
	id := sent(s, epoch)[0].ID
	if got, known := s.Received(id); !known || got.Lease != 1 {
		t.Fatalf("received: %v, %v", got, known)
	}
	if back := s.Detach(); len(back) != 0 {
		t.Fatalf("came back: %v", back)
	}
	s.Attach(1)
	if again := sent(s, epoch); len(again) != 1 || !again[0].Release {
		t.Fatalf("after a reconnect: %+v", again)
	}
}

func TestAMessageFromBeforeTheSubscriptionIsNotForIt(t *testing.T) {
	var x Index[string]
	x.Add("early", Subscription{Filter: "a/b", QoS: 1, Since: 4})
	x.Add("late", Subscription{Filter: "a/b", QoS: 1, Since: 5})
	x.Add("late", Subscription{Filter: "a/+", QoS: 2, Since: 6})
	for sequence, want := range map[uint64]int{0: 2, 4: 0, 5: 1, 6: 2, 7: 2} {
		hits := x.Match("a/b", sequence)
		if len(hits) != want {
			t.Errorf("message %d: %d subscribers, want %d", sequence, len(hits), want)
		}
		for _, h := range hits {
			if sequence == 6 && h.Subscriber == "late" && h.QoS != 1 {
				t.Error("the younger subscription counts, too")
			}
		}
	}
}

func TestUnsubscribingKeepsWhatAnotherFilterMatches(t *testing.T) {
	s := attached(4)
	for _, filter := range []string{"a", "+", "b"} {
		if _, err := s.Subscribe(Subscription{Filter: filter, QoS: 1}); err != nil {
			t.Fatal(err)
		}
	}
	mustDeliver(t, s, Message{Topic: "a", Payload: []byte("a"), QoS: 1})
	s.Unsubscribe("a")
	if s.Waiting() != 1 {
		t.Error("a message is gone that another filter matches")
	}
	s.Unsubscribe("+")
	mustDeliver(t, s, Message{Topic: "b", Payload: []byte("b"), QoS: 1})
	s.Unsubscribe("b")
	if s.Waiting() != 1 {
		t.Errorf("%d wait, of which one is of a subscription that ended", s.Waiting())
	}
}
