package expand

import (
	"io"
	"slices"
)

// Memory is a Scratch of whoever has memory for it. The zero one is empty.
type Memory struct{ data []byte }

// Reset forgets what it holds, and keeps the room.
func (m *Memory) Reset() { m.data = m.data[:0] }

// ReadAt reads what was written.
func (m *Memory) ReadAt(p []byte, at int64) (int, error) {
	if at > int64(len(m.data)) {
		return 0, io.EOF
	}
	n := copy(p, m.data[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt lets it grow.
func (m *Memory) WriteAt(p []byte, at int64) (int, error) {
	if need := int(at) + len(p) - len(m.data); need > 0 {
		m.data = slices.Grow(m.data, need)[:len(m.data)+need]
	}
	return copy(m.data[at:], p), nil
}
