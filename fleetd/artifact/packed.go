package artifact

import (
	"errors"
	"fmt"
	"net/http"

	"groundswell/topics"
)

// soon: what was made here is as good as for ever, but nobody has signed it.
const soon = "public, max-age=3600"

func (d downloads) table(w *answer, r *http.Request) {
	end, ok := d.begin(w, r)
	if !ok {
		return
	}
	defer end()
	k, ok := d.known(w, r)
	if !ok {
		return
	}
	d.brief(w, r, brief{k.raw, k.digest, "application/octet-stream", soon})
}

// indexDelta gives out a delta between two block indexes.
func (d downloads) indexDelta(w *answer, r *http.Request) {
	if d.Signatures != nil && d.RedirectTo == "" {
		// An index needs a signature here, and would be given away without.
		http.NotFound(w, r)
		return
	}
	end, refused := d.place(w.kind, r)
	if refused != "" {
		d.noIndexDelta(w, r, refused)
		return
	}
	defer end()
	new, old := r.PathValue("sha256"), r.PathValue("old")
	made, err := d.IndexDeltas.get(r.Context(), new, old)
	switch {
	case err == nil:
		d.brief(w, r, brief{made.raw, made.digest, "application/octet-stream", soon})
	case errors.Is(err, ErrName):
		http.NotFound(w, r)
	case errors.Is(err, ErrNoIndexDelta):
		w.Header().Set("Cache-Control", soon) // it depends on what does not change
		http.NotFound(w, r)
	case errors.Is(err, ErrNoArtifact):
		w.Header().Set("Cache-Control", notYet)
		http.NotFound(w, r)
	case errors.Is(err, errManyIndexDeltas):
		d.noIndexDelta(w, r, busy)
	default:
		if r.Context().Err() == nil {
			d.Log.Error("block index cannot be read", "index", new, "from", old, "err", err)
		}
		d.refuse(w, http.StatusServiceUnavailable, "storage", "the block indexes are not available")
	}
}

// noIndexDelta answers whoever would have to wait: the index as it is costs less than that.
func (d downloads) noIndexDelta(w *answer, r *http.Request, reason string) {
	d.Metrics.refused.With(string(w.kind), reason).Inc()
	w.Header().Set("Cache-Control", "no-store")
	http.NotFound(w, r)
}

// pack serves the packed blocks. What they are is read only for who may have them, and has a
// place.
func (d downloads) pack(w *answer, r *http.Request) {
	artifact, table := r.PathValue("sha256"), r.PathValue("table")
	if topics.CheckDigest("", artifact) != nil || topics.CheckDigest("", table) != nil {
		http.NotFound(w, r)
		return
	}
	d.immutable(w, r, thing{artifact, "packs/" + artifact + "/" + table, table, func() (source, error) {
		k, err := d.Packs.get(r.Context(), artifact)
		if err != nil {
			return nil, err
		}
		if k.digest != table {
			return nil, fmt.Errorf("%w: by that table", ErrNoPack)
		}
		return d.Packs.open(r.Context(), k), nil
	}})
}

// known is the pack that is asked for, or answers that there is none.
func (d downloads) known(w *answer, r *http.Request) (*pack, bool) {
	k, err := d.Packs.get(r.Context(), r.PathValue("sha256"))
	switch {
	case err == nil:
		return k, true
	case errors.Is(err, ErrName):
		http.NotFound(w, r)
	case errors.Is(err, ErrNoPack):
		w.Header().Set("Cache-Control", notYet)
		http.NotFound(w, r)
	default:
		if r.Context().Err() == nil {
			d.Log.Error("pack cannot be read", "artifact", r.PathValue("sha256"), "err", err)
		}
		d.refuse(w, http.StatusServiceUnavailable, "storage", "the packs are not available")
	}
	return nil, false
}
