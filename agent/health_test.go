package main

import "testing"

// TestAWholeSystemMustHearTheBroker unless something else was asked for: one that boots
// without a network could never be mended.
func TestAWholeSystemMustHearTheBroker(t *testing.T) {
	grub := Machine{Bootloader: bootGRUB, A: "/dev/a", B: "/dev/b"}
	addressed := grub
	addressed.Addr = "127.0.0.1:8080"
	for name, c := range map[string]struct {
		component Component
		want      bool
	}{
		"a machine":              {Component{Machine: grub, Health: Health{URL: defaultHealthURL}}, true},
		"one with an address":    {Component{Machine: addressed, Health: Health{URL: defaultHealthURL}}, true},
		"RAUC":                   {Component{RAUC: RAUC{Enabled: true}, Health: Health{URL: defaultHealthURL}}, true},
		"a group":                {Component{Group: []string{"a", "b"}, Health: Health{URL: defaultHealthURL}}, true},
		"one that asks for none": {Component{Machine: grub, Health: Health{URL: "none"}}, false},
		"a process":              {Component{Health: Health{URL: defaultHealthURL}}, false},
	} {
		h := c.component.healthConfig()
		if got := len(h.Checks) == 1 && h.Checks[0].Broker; got != c.want {
			t.Errorf("%s: %+v", name, h)
		}
	}
}
