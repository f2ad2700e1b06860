package delta

import "groundswell/internal/prefix"

const (
	// matchLimit is how far a match is compared: what is longer is found by going on.
	matchLimit = 1 << 14
	// matchShort is the shortest copy that is worth its place in the list.
	matchShort = 7
	// matchRun is the shortest run of one byte that is not looked for elsewhere: it costs less
	// than a copy, and a long one would take as many as shorter ones of the old image fit into it.
	matchRun = 4096
	// matchPart is how much of the new image is matched by one worker at a time.
	matchPart = 4 << 20
)

// gains are by how many bytes a match elsewhere must be better than going on in the copy at
// hand. What is best depends on the images: 6 is 10 % better than 8 for a Go program for
// arm64, and 4 % worse for a kernel for x86. So both are tried.
var gains = []int{8, 6}

// matcher finds copies for a range of the new image, as bsdiff does (Percival,
// "Naive differences of executable code", 2003), but for the shortcuts where the
// copy at hand goes on well.
type matcher struct {
	old, new []byte
	gain     int
	find     func(key []byte, limit int) (length int, at int)
}

// copies of new[start:end], ascending and without overlap. A copy from the given
// offset in the old image is at hand at the start.
func (m *matcher) copies(start, end, from int) []copied {
	var list []copied
	oldLen := len(m.old)
	scan, length, pos := start, 0, 0
	lastScan, lastPos := start, max(from, 0) // where the copy at hand began
	shift := lastPos - lastScan              // old offset - new offset of it
	for scan < end {
		score := 0
		scan += length
		for ahead := scan; scan < end; scan++ {
			if run := m.agrees(scan, scan+shift, end); run >= 16 {
				// As good as what a search would find: go on behind it.
				if ahead < scan {
					ahead = scan
				}
				score = 0
				scan += run
				ahead = scan
				if scan >= end {
					length = 0
					break
				}
			}
			if run := 1 + prefix.Common(m.new[scan+1:end], m.new[scan:end]); run >= matchRun {
				score = 0
				scan += run - 1
				ahead = scan + 1
				continue
			}
			if m.goesWell(scan, shift, end) {
				score = 0
				ahead = scan + 1
				continue
			}
			length, pos = m.find(m.new[scan:end], matchLimit)
			for ; ahead < scan+length; ahead++ {
				if at := ahead + shift; at >= 0 && at < oldLen && m.old[at] == m.new[ahead] {
					score++
				}
			}
			if length == score && length != 0 || length > score+m.gain {
				break
			}
			if at := scan + shift; at >= 0 && at < oldLen && m.old[at] == m.new[scan] && score > 0 {
				score--
			}
		}
		if length == score && scan < end {
			continue
		}
		// The copy at hand is extended forwards, the next one backwards, and where they
		// meet is decided by which has more equal bytes.
		forward := m.forward(lastScan, lastPos, scan)
		backward := 0
		if scan < end {
			backward = m.backward(scan, pos, lastScan)
		}
		if lastScan+forward > scan-backward {
			overlap := lastScan + forward - (scan - backward)
			best, at, s := 0, 0, 0
			for i := range overlap {
				if m.new[lastScan+forward-overlap+i] == m.old[lastPos+forward-overlap+i] {
					s++
				}
				if m.new[scan-backward+i] == m.old[pos-backward+i] {
					s--
				}
				if s > best {
					best, at = s, i+1
				}
			}
			forward += at - overlap
			backward -= at
		}
		if forward >= matchShort {
			list = append(list, copied{int32(lastScan), int32(lastPos), int32(forward)})
		}
		list = m.resumed(list, lastScan+forward, scan-backward, shift)
		lastScan, lastPos = scan-backward, pos-backward
		shift = pos - scan
	}
	return list
}

// matchResumed is the shortest run of equal bytes by which a copy is resumed.
const matchResumed = 16

// resumed appends what is the same again in new[start:end] where the copy at hand would go
// on, behind so much that is unlike that it does not reach so far: what is compressed differs
// in nearly all bytes up to the next stream.
func (m *matcher) resumed(list []copied, start, end, shift int) []copied {
	for at := max(start, -shift); at < end; {
		run := m.agrees(at, at+shift, end)
		if run >= matchResumed {
			list = append(list, copied{int32(at), int32(at + shift), int32(run)})
		}
		at += run + 1
	}
	return list
}

// agrees is how many bytes from there on are equal.
func (m *matcher) agrees(at, from, end int) int {
	if from < 0 || from >= len(m.old) {
		return 0
	}
	return prefix.Common(m.new[at:end], m.old[from:])
}

// goesWell says that of the next 32 bytes nearly all are equal in the copy at hand:
// no match elsewhere could be better by enough.
func (m *matcher) goesWell(at, shift, end int) bool {
	from := at + shift
	if from < 0 || from+32 > len(m.old) || at+32 > end {
		return false
	}
	equal := 0
	a, b := m.new[at:at+32], m.old[from:from+32]
	for i := range a {
		if a[i] == b[i] {
			equal++
		}
	}
	return equal >= 32-m.gain+2
}

// forward is the length to which the copy should go on, so that it has most equal
// bytes for its length.
func (m *matcher) forward(at, from, end int) int {
	score, best, length := 0, 0, 0
	for i := 0; at+i < end && from+i < len(m.old); {
		if m.old[from+i] == m.new[at+i] {
			score++
		}
		i++
		if score*2-i > best*2-length {
			best, length = score, i
		}
	}
	return length
}

func (m *matcher) backward(at, from, start int) int {
	score, best, length := 0, 0, 0
	for i := 1; at-i >= start && from-i >= 0; i++ {
		if m.old[from-i] == m.new[at-i] {
			score++
		}
		if score*2-i > best*2-length {
			best, length = score, i
		}
	}
	return length
}
