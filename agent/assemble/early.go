package assemble

import (
	"encoding/binary"
	"os"

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

// resume takes what was there of a unit when the run before ended. It is used once.
func (r *run) resume() {
	raw := r.shelf.checked(r.shelf.begunPath(), maxBegun+tagLength+8)
	_ = os.Remove(r.shelf.begunPath()) // it may not be there
	if len(raw) <= tagLength+8 {
		return
	}
	tag, from := string(raw[:tagLength]), binary.LittleEndian.Uint64(raw[tagLength:])
	r.early[tag] = early{int64(from), raw[tagLength+8:], several} // who has sent it is not known any more
	r.begun = tag
}

// suspend keeps what is there of the unit that was interrupted last, or wakes that are too
// short for a unit would never have it.
func (r *run) suspend() {
	e := r.early[r.begun]
	if r.file.done() || len(r.begun) != tagLength || len(e.data) == 0 || len(e.data) > maxBegun {
		return
	}
	raw := binary.LittleEndian.AppendUint64([]byte(r.begun), uint64(e.from))
	r.shelf.writeChecked(r.shelf.begunPath(), append(raw, e.data...))
}

// tagLength is how long the tags of what ways fetch are: they are digests.
const tagLength = 64
