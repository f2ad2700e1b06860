package lzmaparse

// window holds the last content of a stream.
type window struct {
	ring [Window]byte
	at   int64 // content so far
	from int64 // where the dictionary begins: nothing before it is matched
}

func (w *window) reset() { w.at, w.from = 0, 0 }

func (w *window) put(b byte) {
	w.ring[w.at&(Window-1)] = b
	w.at++
}

// add puts several bytes, at most Window.
func (w *window) add(p []byte) {
	k := int(w.at & (Window - 1))
	n := copy(w.ring[k:], p)
	copy(w.ring[:], p[n:])
	w.at += int64(len(p))
}

// last is the byte before what comes next; zero where the dictionary begins.
func (w *window) last() byte {
	if w.at == w.from {
		return 0
	}
	return w.ring[(w.at-1)&(Window-1)]
}

// reaches says that a distance leads to content.
func (w *window) reaches(distance uint32) bool { return int64(distance) < w.at-w.from }

// has says that the byte at a distance is in memory.
func (w *window) has(distance uint32) bool { return distance < Window }

func (w *window) byte(distance uint32) byte {
	return w.ring[(w.at-1-int64(distance))&(Window-1)]
}

// repeat copies a match that is in memory. What it overwrites was read before.
func (w *window) repeat(distance uint32, length int) {
	from := w.at - 1 - int64(distance)
	if k, d := from&(Window-1), w.at&(Window-1); int(distance) >= length && k+int64(length) <= Window && d+int64(length) <= Window {
		copy(w.ring[d:d+int64(length)], w.ring[k:])
		w.at += int64(length)
		return
	}
	for range length {
		w.ring[w.at&(Window-1)] = w.ring[from&(Window-1)]
		w.at++
		from++
	}
}

// slice appends the content between two places that are in memory.
func (w *window) slice(dst []byte, from, to int64) []byte {
	k, n := from&(Window-1), to-from
	if k+n <= Window {
		return append(dst, w.ring[k:k+n]...)
	}
	return append(append(dst, w.ring[k:]...), w.ring[:k+n-Window]...)
}
