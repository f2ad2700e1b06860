package main

import "testing"

// TestEachPartIsAsked: and none that is gone.
func TestEachPartIsAsked(t *testing.T) {
	var v vitals
	v.ask()
	first, second := 0, 0
	remove := v.add(func() { first++ })
	v.add(func() { second++ })
	v.ask()
	remove()
	v.ask()
	if first != 1 || second != 2 {
		t.Errorf("asked %d and %d times", first, second)
	}
}
