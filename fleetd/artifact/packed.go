package artifact

import (
	"bytes"
	"errors"
	"net/http"
	"time"
)

// soon: a table is as good as for ever, but nobody has signed it.
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
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+k.digest+`"`)
	w.Header().Set("Cache-Control", soon)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(k.raw))
}

func (d downloads) pack(w *answer, r *http.Request) {
	k, ok := d.known(w, r)
	if !ok {
		return
	}
	artifact := r.PathValue("sha256")
	if r.PathValue("table") != k.digest {
		http.NotFound(w, r)
		return
	}
	d.immutable(w, r, thing{artifact, "packs/" + artifact + "/" + k.digest, k.digest, func() (source, error) { return d.Packs.open(r.Context(), k), nil }})
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
