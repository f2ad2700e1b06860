package session

import (
	"testing"

	"pgregory.net/rapid"
)

// TestIndexIsASetOfSubscriptions: whatever is added and removed, every
// subscriber of a filter is found with its newest subscription, and nobody else.
func TestIndexIsASetOfSubscriptions(t *testing.T) {
	type key struct{ subscriber, filter string }
	rapid.Check(t, func(t *rapid.T) {
		var x Index[string]
		want := map[key]byte{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			k := key{rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "subscriber"), rapid.SampledFrom([]string{"x", "y"}).Draw(t, "filter")}
			if rapid.Bool().Draw(t, "add") {
				qos := byte(rapid.IntRange(0, 1).Draw(t, "qos"))
				x.Add(k.subscriber, Subscription{Filter: k.filter, QoS: qos})
				want[k] = qos
			} else {
				x.Remove(k.subscriber, k.filter)
				delete(want, k)
			}
			got := 0
			for _, filter := range []string{"x", "y"} {
				for _, h := range x.Match(filter, 0) {
					if qos, ok := want[key{h.Subscriber, filter}]; !ok || qos != h.QoS {
						t.Fatalf("%s is subscribed to %s at QoS %d; wanted %v", h.Subscriber, filter, h.QoS, want)
					}
					got++
				}
			}
			if got != len(want) || len(want) == 0 && len(x.exact) > 0 {
				t.Fatalf("%d found, wanted %v; left %v", got, want, x.exact)
			}
		}
	})
}
