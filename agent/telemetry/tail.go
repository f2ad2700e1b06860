package telemetry

import (
	"bytes"
	"sync"
)

// Tail is a writer that keeps the last bytes written to it. It is safe for
// concurrent use.
type Tail struct {
	size int

	mu   sync.Mutex // guards data
	data []byte
	lost bool // something before data is gone
}

// NewTail keeps size bytes.
func NewTail(size int) *Tail { return &Tail{size: size} }

func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if extra := len(t.data) - t.size; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
		t.lost = true
	}
	return len(p), nil
}

// String is what is kept, from the beginning of a line.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	data := t.data
	if t.lost {
		if _, rest, ok := bytes.Cut(data, []byte("\n")); ok {
			data = rest
		}
	}
	return string(data)
}
