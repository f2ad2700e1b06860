package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

func openTopics(t *testing.T) *Cluster {
	return openCluster(t, func(cfg *Config) { cfg.MaxOpenBytes = 8 << 20 })
}

func mustAppend(t *testing.T, l *Log, topic, payload string) uint64 {
	t.Helper()
	type result struct {
		sequence uint64
		err      error
	}
	results := make(chan result, 1)
	l.Append(Message{Topic: topic, Payload: []byte(payload), Origin: "x"}, func(sequence uint64, err error) { results <- result{sequence, err} })
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.sequence
}

func mustKeep(t *testing.T, c *Cluster, topic, payload string, sequence uint64) {
	t.Helper()
	result := make(chan error, 1)
	c.Keep(Message{Topic: topic, Payload: []byte(payload), Sequence: sequence}, func(err error) { result <- err })
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

func kept(t *testing.T, c *Cluster, filter string, asOf uint64) (got []string) {
	t.Helper()
	err := c.Kept(t.Context(), filter, asOf, func(m Message) bool {
		got = append(got, m.Topic+"="+string(m.Payload))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	return got
}

// awkward are legal topics that no subject could be.
var awkward = []string{"/", "a//b", "a b", "a.b", "a*b", "a>b", "über/ﬀ/日本", "=41", "$x/y", strings.Repeat("long", 5000)}

func TestAnyTopicIsKept(t *testing.T) {
	c := openTopics(t)
	l := c.OpenTopics()
	for i, topic := range awkward {
		sequence := mustAppend(t, l, topic, fmt.Sprint(i))
		mustKeep(t, c, topic, fmt.Sprint(i), sequence)
		if got := kept(t, c, topic, sequence); !slices.Equal(got, []string{fmt.Sprintf("%s=%d", topic, i)}) {
			t.Errorf("%.40q: kept %.80q", topic, got)
		}
		m, err := l.Next(t.Context(), []string{topic}, sequence)
		if err != nil || m.Topic != topic || string(m.Payload) != fmt.Sprint(i) || m.Sequence != sequence {
			t.Errorf("%.40q: next is %+v, %v", topic, m, err)
		}
	}
	last, err := l.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// "#" matches all but what begins with '$'.
	if got := kept(t, c, "#", last); len(got) != len(awkward)-1 {
		t.Errorf("kept %.200q", got)
	}
	if got := kept(t, c, "a/#", last); !slices.Equal(got, []string{"a//b=1"}) {
		t.Errorf("kept %.200q", got)
	}
	if err := CheckTopic(strings.Repeat("é", 20000)); !errors.Is(err, ErrTopic) {
		t.Errorf("a topic without a subject: %v", err)
	}
	if err := CheckTopic(strings.Repeat("é", 10500)); err != nil {
		t.Errorf("21,000 bytes: %v", err)
	}
}

func TestTheYoungestIsKeptWhateverTheOrder(t *testing.T) {
	c := openTopics(t)
	var all sync.WaitGroup
	for sequence := range uint64(100) {
		all.Go(func() { mustKeep(t, c, "t", fmt.Sprint(sequence+1), sequence+1) })
	}
	all.Wait()
	if got := kept(t, c, "t", 100); !slices.Equal(got, []string{"t=100"}) {
		t.Errorf("kept %q", got)
	}
	if got := kept(t, c, "t", 99); len(got) != 0 {
		t.Errorf("kept %q, but it is younger than asked for", got)
	}
	mustKeep(t, c, "t", "", 102)
	mustKeep(t, c, "t", "late", 101)
	if got := kept(t, c, "t", 102); len(got) != 0 {
		t.Errorf("a topic that was cleared has %q", got)
	}
}

// TestAFullLogOfOpenTopicsForgetsTheOldest: it does not refuse.
func TestAFullLogOfOpenTopicsForgetsTheOldest(t *testing.T) {
	c := openCluster(t, func(cfg *Config) { cfg.MaxOpenBytes = 1 << 20 })
	l := c.OpenTopics()
	first := mustAppend(t, l, "t", strings.Repeat("x", 300_000))
	for range 5 {
		mustAppend(t, l, "t", strings.Repeat("x", 300_000))
	}
	if m, err := l.Next(t.Context(), []string{"t"}, first); err != nil || m.Sequence == first {
		t.Errorf("the oldest is %d, %v", m.Sequence, err)
	}
}
