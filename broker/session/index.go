package session

import "groundswell/topics"

// Index finds who is subscribed to a topic. Exact filters cost a map look-up;
// filters with wildcards are tried one after the other, because only services
// may hold them and there are few. The zero value is empty. It has no lock.
//
// It is used instead of mochi's trie, which does not match "a/+/#" against
// "a/b" (research: B10).
type Index[S comparable] struct {
	exact map[string]map[S]Subscription // by filter
	wild  map[string]map[S]Subscription // by filter
}

// Hit is a subscriber of a topic. When several of its filters match, QoS is the
// highest and Identifiers holds those of all [MQTT-3.3.4-2], [MQTT-3.3.4-3].
type Hit[S comparable] struct {
	Subscriber        S
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	Identifiers       []int
}

// Add enters or replaces a subscription.
func (x *Index[S]) Add(s S, sub Subscription) {
	side := &x.exact
	if wild(sub.Filter) {
		side = &x.wild
	}
	if *side == nil {
		*side = map[string]map[S]Subscription{}
	}
	if (*side)[sub.Filter] == nil {
		(*side)[sub.Filter] = map[S]Subscription{}
	}
	(*side)[sub.Filter][s] = sub
}

// Remove takes a subscription out.
func (x *Index[S]) Remove(s S, filter string) {
	side := x.exact
	if wild(filter) {
		side = x.wild
	}
	delete(side[filter], s)
	if len(side[filter]) == 0 {
		delete(side, filter)
	}
}

// Match returns the subscribers of a topic, each once.
func (x *Index[S]) Match(topic string) []Hit[S] {
	var hits []Hit[S]
	for s, sub := range x.exact[topic] {
		hits = append(hits, hit(s, sub))
	}
	merged := map[S]int(nil)
	for filter, subs := range x.wild {
		if !topics.Match(filter, topic) {
			continue
		}
		if merged == nil {
			merged = make(map[S]int, len(hits))
			for i, h := range hits {
				merged[h.Subscriber] = i
			}
		}
		for s, sub := range subs {
			i, ok := merged[s]
			if !ok {
				merged[s] = len(hits)
				hits = append(hits, hit(s, sub))
				continue
			}
			h := &hits[i]
			h.QoS = max(h.QoS, sub.QoS)
			h.NoLocal = h.NoLocal && sub.NoLocal
			h.RetainAsPublished = h.RetainAsPublished || sub.RetainAsPublished
			if sub.Identifier > 0 {
				h.Identifiers = append(h.Identifiers, sub.Identifier)
			}
		}
	}
	return hits
}

func hit[S comparable](s S, sub Subscription) Hit[S] {
	h := Hit[S]{Subscriber: s, QoS: sub.QoS, NoLocal: sub.NoLocal, RetainAsPublished: sub.RetainAsPublished}
	if sub.Identifier > 0 {
		h.Identifiers = []int{sub.Identifier}
	}
	return h
}
