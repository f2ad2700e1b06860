package delta

// guesses are differences that a word may well have, from what words like it had.
// One guess that is right costs a bit or two of work where the bytes of a difference
// cost thirty-two.
type guesses struct {
	hits  *mixer
	exact [1 << 12]uint32 // the last difference of a word with this value
	local [1 << 10]uint32 // of one with this value but for the lowest ten bits
	// past has for each source how its last guesses went, a bit each.
	past [guessSources]uint32
	list [guessSources]guess
	n    int
}

type guess struct {
	diff    uint32
	sources uint32 // which had it, a bit each
	first   int
}

const (
	guessSources = 9
	guessMost    = 5 // how many are tried
	guessInputs  = 5
)

func newGuesses() *guesses {
	return &guesses{hits: newMixer(guessInputs, guessMost*4, 13, 400, 8)}
}

func (g *guesses) reset() {
	g.hits.reset()
	clear(g.exact[:])
	clear(g.local[:])
	clear(g.past[:])
}

func exactKey(predicted uint32) uint32 { return mix32(predicted) >> 20 }
func localKey(predicted uint32) uint32 { return mix32(predicted>>10) >> 22 }

// collect fills the list with distinct guesses for a word, the most trusted source
// first, and returns how many there are.
func (g *guesses) collect(m *diffModel, predicted, old uint32, slot int) int {
	from := [guessSources]uint32{
		g.exact[exactKey(predicted)],
		g.local[localKey(predicted)],
		m.byClass[predicted>>24],
		m.last[0],
		m.ring[(slot-2)&63],
		m.ring[(slot-4)&63],
		m.last[1],
		old - predicted,
		m.last[2],
	}
	n := 0
next:
	for source, diff := range from {
		if diff == 0 {
			continue
		}
		for i := range n {
			if g.list[i].diff == diff {
				g.list[i].sources |= 1 << source
				continue next
			}
		}
		g.list[n] = guess{diff: diff, sources: 1 << source, first: source}
		n++
	}
	return n
}

// try codes whether the difference is one of the guesses, and returns it; zero: none.
func (g *guesses) try(c *coder, m *diffModel, predicted, old, diff uint32, slot int) uint32 {
	g.n = g.collect(m, predicted, old, slot)
	n := min(g.n, guessMost)
	class := predicted >> 24
	got := uint32(0)
	for k := 0; k < n && got == 0; k++ {
		at := &g.list[k]
		h := &g.hits.hash
		tag := uint32(k) << 8
		h[0] = hash3(uint32(at.first)|g.past[at.first]&31<<8, at.sources, tag|1)
		h[1] = hash3(class, at.sources, tag|2)
		h[2] = hash3(at.diff, uint32(at.first), 3)
		h[3] = hash3(predicted>>8, uint32(at.first), tag|4)
		h[4] = hash3(min(m.since, 31), uint32(at.first)|g.past[at.first]&3<<8, tag|5)
		b := 0
		if diff == at.diff {
			b = 1
		}
		if g.hits.flag(c, k<<2|int(g.past[at.first]&3), b) == 1 {
			got = at.diff
		}
	}
	return got
}

// learn remembers the difference of a word.
func (g *guesses) learn(predicted, diff uint32) {
	for i := range g.n {
		at := &g.list[i]
		hit := flagOf(at.diff^diff) ^ 1
		for source := range guessSources {
			if at.sources>>source&1 != 0 {
				g.past[source] = g.past[source]<<1 | hit
			}
		}
	}
	g.exact[exactKey(predicted)] = diff
	g.local[localKey(predicted)] = diff
}
