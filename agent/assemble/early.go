package assemble

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"

	"groundswell/internal/block"
)

// early are bytes of what a way fetches, from a place on, that came before their unit as a
// whole: with the head of a delta, or before an interruption.
type early struct {
	from int64
	data []byte
	by   string // the source, or several
}

// several is who has sent what no one source has sent, as far as is known.
const several = ""

// until is what is there of the bytes from one place to another, from the first on.
func (e early) until(from, to int64) []byte {
	end := min(to, e.from+int64(len(e.data)))
	if from < e.from || from >= end {
		return nil
	}
	return e.data[from-e.from : end-e.from]
}

// behind is what is there from a place on.
func (e early) behind(from int64) early {
	return early{from, e.until(from, e.from+int64(len(e.data))), e.by}
}

// maxBegun is the most that is kept of a unit, in bytes: units are shorter.
const maxBegun = maxUnit + block.MaxBlock

// pieces is under which name what a source sent of an object is kept. Where several have sent
// what was wrong, each has its own, and goes on with that alone.
func (r *run) pieces(tag, base string) string {
	if r.apart[tag] {
		return tag + " " + base
	}
	return tag
}

// resume takes what was there of a unit when the run before ended. It is used once.
func (r *run) resume() {
	raw := r.shelf.checked(r.shelf.begunPath(), maxBegun+maxBegunHead)
	_ = os.Remove(r.shelf.begunPath()) // it may not be there
	line, data, _ := bytes.Cut(raw, []byte("\n"))
	var head fragment
	if json.Unmarshal(line, &head) != nil {
		return
	}
	if head.Apart {
		r.apart[head.Tag] = true
	}
	if len(data) == 0 {
		return
	}
	r.early[r.pieces(head.Tag, head.By)] = early{head.From, data, head.By}
	r.unfinished = head.Tag
}

// fragment is the first line of what is kept of a unit; its bytes follow.
type fragment struct {
	Tag   string `json:"tag"`
	From  int64  `json:"from"`
	By    string `json:"by,omitempty"`
	Apart bool   `json:"apart,omitempty"`
}

// suspend keeps the most that is there of the unit that was interrupted last, or wakes that are
// too short for a unit would never have it.
func (r *run) suspend() {
	var e early
	for name, there := range r.early {
		if tag, _, _ := strings.Cut(name, " "); tag == r.unfinished && name == r.pieces(tag, there.by) && len(there.data) > len(e.data) {
			e = there
		}
	}
	apart := r.apart[r.unfinished]
	if r.file.done() || len(e.data) == 0 && !apart || len(e.data) > maxBegun {
		return
	}
	head := fragment{r.unfinished, e.from, e.by, apart}
	line, err := json.Marshal(head)
	if err != nil || len(line) >= maxBegunHead {
		return // a source with such a long name
	}
	r.shelf.writeChecked(r.shelf.begunPath(), slices.Concat(line, []byte("\n"), e.data))
}

// maxBegunHead bounds the first line, in bytes.
const maxBegunHead = 4 << 10
