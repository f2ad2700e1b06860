package main

import "sync"

// vitals are what the watchdog asks before each sign of life: something of each part
// that waits when that part hangs.
type vitals struct {
	mu    sync.Mutex // guards what follows
	next  int
	parts map[int]func()
}

// add adds a part, until remove is called.
func (v *vitals) add(part func()) (remove func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.parts == nil {
		v.parts = map[int]func(){}
	}
	id := v.next
	v.next++
	v.parts[id] = part
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.parts, id)
	}
}

// ask returns when all parts have answered.
func (v *vitals) ask() {
	v.mu.Lock()
	parts := make([]func(), 0, len(v.parts))
	for _, part := range v.parts {
		parts = append(parts, part)
	}
	v.mu.Unlock()
	for _, part := range parts {
		part()
	}
}
