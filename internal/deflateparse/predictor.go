package deflateparse

import "groundswell/internal/prefix"

// effort is how a compressor is taken to look for matches. That of 0 is none: all that it
// chose stands in the form.
type effort struct {
	least int // length of a match
	good  int // from which a longer one is looked for in a quarter of the places
	lazy  int // up to which the next byte is looked at before one is taken
	nice  int // of which one is taken at once
	chain int // how many earlier places are looked at
	far   int // distance from which one of the least length is not taken
	most  int // distance
}

// Efforts is how many there are: a stream may be taken to be the work of 1 to Efforts - 1.
const Efforts = len(efforts)

const ofZlib = window - maxMatch - minMatch - 1 // it looks no farther back

// They and the predictor are frozen by version 3 of package expand's deltas: devices foretell by
// those that they have, so another predictor is another codec.
var efforts = [...]effort{
	1: {3, 32, 258, 258, 4096, 4096, ofZlib},    // zlib at level 9
	2: {3, 8, 16, 128, 128, 4096, ofZlib},       // at level 6
	3: {4, 258, 258, 258, 1024, 4096, window},   // Go at level 9
	4: {4, 258, 16, 128, 128, 4096, window},     // at level 6
	5: {3, 258, 258, 258, 1024, window, window}, // those that weigh what a match costs
	6: {3, 258, 0, 32, 32, 4096, window},        // those that take the first
}

const (
	hashBits = 15
	ageing   = 8 << 10 // bytes of content, after which places age
)

// predictor foretells what a compressor chooses of content.
type predictor struct {
	effort
	room    [window + maxContent]byte
	content []byte                // in it: window bytes at most, then those of the group
	base    int                   // where content begins in the stream
	aged    int                   // bytes of content since places aged
	noted   int                   // places in content that are known
	last    [1 << hashBits]uint16 // by hash: the lowest bits of the last place
	before  [window]uint16        // by place: of the one before it with that hash

	found            int // at that place, the match
	length, distance int
}

// reset makes p begin a stream.
func (p *predictor) reset(effort int) {
	p.effort = efforts[effort]
	clear(p.last[:])
	clear(p.before[:])
	p.content, p.base, p.aged, p.noted = p.room[:0], 0, 0, 0
}

// slide makes room for a group, and returns where it begins in content.
func (p *predictor) slide() int {
	p.note(len(p.content))
	if over := len(p.content) - window; over > 0 {
		p.content = p.content[:copy(p.content, p.content[over:])]
		p.base += over
		p.noted -= over
		if p.aged += over; p.aged >= ageing {
			p.aged = 0
			now := uint16(p.base + len(p.content))
			age(p.last[:], now)
			age(p.before[:], now)
		}
	}
	p.found = -1
	return len(p.content)
}

// age lets places beyond the window stay there: there are only the lowest bits of them. A
// place whose bits have become those of another one is looked at in vain: what matches has the
// same hash, and is found before.
func age(places []uint16, now uint16) {
	for i, at := range places {
		if now-at > window {
			places[i] = now - window
		}
	}
}

func hash(b []byte) int {
	return (int(b[0])<<10 ^ int(b[1])<<5 ^ int(b[2])) & (1<<hashBits - 1)
}

// note makes the places before one known.
func (p *predictor) note(to int) {
	if p.least == 0 {
		p.noted = to
		return
	}
	for to = min(to, len(p.content)-minMatch+1); p.noted < to; p.noted++ {
		h := hash(p.content[p.noted:])
		at := p.base + p.noted
		p.before[at%window] = p.last[h]
		p.last[h] = uint16(at)
	}
}

// next is the match that is to be expected at a place; length 0: a literal.
func (p *predictor) next(at int) (length, distance int) {
	if p.found == at {
		length, distance = p.length, p.distance
	} else {
		length, distance = p.longest(at, p.least-1)
	}
	if length < p.lazy && length > 0 {
		if p.length, p.distance = p.longest(at+1, length); p.length > 0 {
			p.found = at + 1
			return 0, 0
		}
	}
	return length, distance
}

// longest looks for a match longer than best, which is not nothing.
func (p *predictor) longest(at, best int) (length, distance int) {
	p.note(at)
	content := p.content
	scan := content[at:min(at+maxMatch, len(content))]
	if best >= len(scan) || len(scan) < minMatch {
		return 0, 0
	}
	chain := p.chain
	if best >= p.good {
		chain >>= 2
	}
	// A longer match must go on where the best one ends, so that is looked at first. By types
	// whose numbers are all inside the arrays, which spares checks.
	room, before := &p.room, &p.before
	pos, place, most := uint16(p.base+at), uint16(at), uint16(min(p.most, at))
	last, behind := scan[best-1], scan[best]
	for d := pos - p.last[hash(scan)]; d > 0 && d <= most; {
		end := place - d + uint16(best)
		if room[end] == behind && room[end-1] == last {
			if n := prefix.Common(content[place-d:], scan); n > best && (n > p.least || int(d) <= p.far) {
				best, length, distance = n, n, int(d)
				if n >= p.nice || n == len(scan) {
					break
				}
				last, behind = scan[best-1], scan[best]
			}
		}
		next := pos - before[(pos-d)%window]
		if chain--; next <= d || chain == 0 {
			break
		}
		d = next
	}
	return length, distance
}

// ranks is how many places are looked at for the rank of a match.
const ranks = 1024

// rank looks for the match of a length that is the rank-th from the end, or at a distance:
// whichever comes first. Compressors mostly take the last one.
func (p *predictor) rank(at, length, rank, distance int) (n, d int, ok bool) {
	p.note(at)
	scan := p.content[at : at+length]
	pos := uint16(p.base + at)
	d = int(pos - p.last[hash(scan)])
	if p.noted > at { // next looked one farther, and the last place is this one
		d = int(pos - p.before[pos%window])
	}
	for range ranks {
		if d <= 0 || d > min(window, at) {
			return 0, 0, false
		}
		if prefix.Common(p.content[at-d:], scan) == length {
			if n == rank || d == distance {
				return n, d, true
			}
			n++
		}
		next := int(pos - p.before[(pos-uint16(d))%window])
		if next <= d {
			break
		}
		d = next
	}
	return 0, 0, false
}
