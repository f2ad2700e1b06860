package session

import "groundswell/topics"

// Index finds who is subscribed to a topic. Exact filters cost a map look-up;
// filters with wildcards are tried one after the other, because only services
// may hold them and there are few. The zero value is empty. It has no lock.
//
// It is used instead of mochi's trie, which does not match "a/+/#" against
// "a/b" (research: B10).
type Index[S comparable] struct {
	exact map[string]subscribers[S] // by filter
	wild  map[string]subscribers[S] // by filter
}

// subscribers are those of one filter, at least one. Most filters have exactly
// one subscriber, a device, who needs no map.
type subscribers[S comparable] struct {
	one  S
	sub  Subscription
	more map[S]Subscription // further ones; may be nil
}

// each calls yield for every subscriber.
func (x subscribers[S]) each(yield func(S, Subscription) bool) {
	if !yield(x.one, x.sub) {
		return
	}
	for s, sub := range x.more {
		if !yield(s, sub) {
			return
		}
	}
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
		*side = map[string]subscribers[S]{}
	}
	of, found := (*side)[sub.Filter]
	switch {
	case !found || of.one == s:
		of.one, of.sub = s, sub
	case of.more == nil:
		of.more = map[S]Subscription{s: sub}
	default:
		of.more[s] = sub
		return // the map is shared with what is stored
	}
	(*side)[sub.Filter] = of
}

// Remove takes a subscription out.
func (x *Index[S]) Remove(s S, filter string) {
	side := x.exact
	if wild(filter) {
		side = x.wild
	}
	of, found := side[filter]
	switch {
	case !found:
	case of.one != s:
		delete(of.more, s)
	case len(of.more) == 0:
		delete(side, filter)
	default: // another takes the first place
		for next, sub := range of.more {
			of.one, of.sub = next, sub
			break
		}
		delete(of.more, of.one)
		side[filter] = of
	}
}

// Match returns the subscribers of a topic, each once. sequence is that of a message
// that is stored, else 0; whoever subscribed after it is left out.
func (x *Index[S]) Match(topic string, sequence uint64) []Hit[S] {
	var hits []Hit[S]
	if of, found := x.exact[topic]; found {
		hits = make([]Hit[S], 0, 1+len(of.more))
		for s, sub := range of.each {
			if !sub.late(sequence) {
				hits = append(hits, hit(s, sub))
			}
		}
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
		for s, sub := range subs.each {
			if sub.late(sequence) {
				continue
			}
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
