package topics_test

import (
	"testing"

	"groundswell/topics"
)

func TestWinner(t *testing.T) {
	c := func(id, version string, sequence int64, change func(*topics.Contender)) topics.Contender {
		c := topics.Contender{Rollout: id, Version: version, Sequence: sequence, Kind: topics.EntryUpdate}
		if change != nil {
			change(&c)
		}
		return c
	}
	first := func(c *topics.Contender) { c.Priority = 9 }
	done := func(c *topics.Contender) { c.Completed = true }
	firstDone := func(c *topics.Contender) { c.Priority, c.Completed = 9, true }
	revert := func(c *topics.Contender) { c.Kind = topics.EntryRevert }
	for what, x := range map[string]struct {
		contenders          []topics.Contender
		running, inProgress string
		want                string
	}{
		"none":                              {nil, "1.0.0", "", ""},
		"the newest":                        {[]topics.Contender{c("a", "1.1.0", 1, nil), c("b", "1.2.0", 2, nil)}, "1.0.0", "", "b"},
		"priority over newest":              {[]topics.Contender{c("a", "1.1.0", 1, first), c("b", "1.2.0", 2, nil)}, "1.0.0", "", "a"},
		"completed, not followed":           {[]topics.Contender{c("a", "1.1.0", 1, firstDone), c("b", "1.2.0", 2, nil)}, "1.0.0", "", "a"},
		"completed, followed":               {[]topics.Contender{c("a", "1.1.0", 1, firstDone), c("b", "1.2.0", 2, nil)}, "1.1.0", "", "b"},
		"completed, gone on from":           {[]topics.Contender{c("a", "1.1.0", 1, firstDone), c("b", "1.3.0", 2, nil)}, "1.2.0", "", "b"},
		"completed, being followed":         {[]topics.Contender{c("a", "1.1.0", 1, firstDone), c("b", "1.2.0", 2, nil)}, "1.1.0", "a", "a"},
		"followed, not completed":           {[]topics.Contender{c("a", "1.1.0", 1, first), c("b", "1.2.0", 2, nil)}, "1.1.0", "", "a"},
		"gives way to nothing older":        {[]topics.Contender{c("a", "1.1.0", 2, firstDone), c("b", "1.2.0", 1, nil)}, "1.1.0", "", "a"},
		"gives way to nothing lower":        {[]topics.Contender{c("a", "1.1.0", 1, firstDone), c("b", "1.0.0", 2, nil)}, "1.1.0", "", "a"},
		"gives way to no revert":            {[]topics.Contender{c("a", "1.1.0", 1, firstDone), c("b", "1.2.0", 2, revert)}, "1.1.0", "", "a"},
		"one after the other gives way":     {[]topics.Contender{c("a", "1.1.0", 1, firstDone), c("b", "1.1.0", 2, done), c("c", "1.2.0", 3, nil)}, "1.1.0", "", "c"},
		"a revert to what runs is not over": {[]topics.Contender{c("a", "1.0.0", 1, func(c *topics.Contender) { firstDone(c); revert(c) }), c("b", "1.2.0", 2, nil)}, "1.1.0", "", "a"},
	} {
		if got := topics.Winner(x.contenders, x.running, x.inProgress); got != x.want {
			t.Errorf("%s: got %q, want %q", what, got, x.want)
		}
	}
}
