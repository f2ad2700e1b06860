package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"time"

	"groundswell/certs/trust"
)

// Files gives out repository files by name, byte for byte.
type Files interface {
	// RepositoryFile is ErrNoFile when there is no such file.
	RepositoryFile(ctx context.Context, repo trust.Repository, name string) ([]byte, error)
}

// ErrNoFile: the repository has no file of that name.
var ErrNoFile = errors.New("no such repository file")

const (
	forEver = "public, max-age=31536000, immutable"
	notYet  = "no-cache" // ask again whether it is still the newest
)

// Timestamp is the one file of a repository that is ever replaced.
const Timestamp = "timestamp.json"

// filePattern is every file name that a repository may have.
var filePattern = regexp.MustCompile(`^(?:[1-9][0-9]{0,17}\.(?:root|targets|snapshot)|timestamp)\.json$`)

// ValidFile reports whether a repository could have a file of that name.
func ValidFile(repo trust.Repository, name string) bool {
	return (repo == trust.Image || repo == trust.Director) && filePattern.MatchString(name)
}

// DownloadsConfig is what a listener for downloads serves, and how. What is not said
// to be optional is required.
type DownloadsConfig struct {
	Blobs       *Blobs
	Packs       *Packs
	IndexDeltas *IndexDeltas
	Files       Files
	Limits      *Limits
	Metrics     *Metrics
	// Signatures, if not nil, are needed to get an artifact.
	Signatures *Signatures
	// RedirectTo, if not empty, is a base URL to which requests for artifacts are sent,
	// with a signature if there are Signatures: whoever may ask is then for the
	// listener's TLS to say.
	RedirectTo string
	Log        *slog.Logger
}

// Downloads returns the handler of a listener for devices and caches:
//
//	GET /artifacts/{sha256}            with Range, If-Range, ETag, for ever
//	GET /packs/{sha256}/table          how long the packed blocks of an artifact are
//	GET /packs/{sha256}/{table}        these, as artifacts are served, by the table's SHA-256
//	GET /indexes/{sha256}/from/{old}   a delta that makes a block index of another one
//	GET /repository/{repo}/{file}      N.root.json, N.targets.json, N.snapshot.json, timestamp.json
//
// and HEAD for each. There are no directories to list.
func Downloads(cfg DownloadsConfig) http.Handler {
	d := downloads{cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /artifacts/{sha256}", d.counted(artifacts, d.artifact))
	mux.HandleFunc("GET /packs/{sha256}/table", d.counted(packs, d.table))
	mux.HandleFunc("GET /packs/{sha256}/{table}", d.counted(packs, d.pack))
	mux.HandleFunc("GET /indexes/{sha256}/from/{old}", d.counted(indexes, d.indexDelta))
	mux.HandleFunc("GET /repository/{repo}/{file}", d.counted(metadata, d.file))
	return mux
}

type downloads struct{ DownloadsConfig }

// counted hands on an answer that is measured and paced.
func (d downloads) counted(k kind, next func(*answer, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a := &answer{ResponseWriter: w, control: http.NewResponseController(w), ctx: r.Context(), kind: k, limits: d.Limits, metrics: d.Metrics}
		if a.putOff() != nil {
			return // the connection is gone
		}
		next(a, r)
		d.Metrics.answers.With(string(k), a.statusText()).Inc()
	}
}

func (d downloads) artifact(w *answer, r *http.Request) {
	digest := r.PathValue("sha256")
	if _, err := path(digest); err != nil {
		http.NotFound(w, r)
		return
	}
	d.immutable(w, r, thing{digest, "artifacts/" + digest, digest, func() (source, error) { return d.Blobs.Open(r.Context(), digest) }})
}

// thing is what never changes.
type thing struct {
	artifact string // whose signature is needed
	path     string // below the base URL
	tag      string // ETag without its quotes
	open     func() (source, error)
}

// source is what a thing is read by.
type source interface {
	io.ReadSeekCloser
	Size() int64
	// Expect says that nothing from byte end on will be read.
	Expect(end int64)
}

// immutable serves by ranges what any cache may keep.
func (d downloads) immutable(w *answer, r *http.Request, t thing) {
	if d.RedirectTo != "" {
		d.redirect(w, r, t)
		return
	}
	caching := forEver
	if d.Signatures != nil {
		left, err := d.Signatures.Check(t.artifact, r.URL.Query(), time.Now())
		if err != nil {
			d.refuse(w, http.StatusForbidden, reasonOf(err), err.Error())
			return
		}
		// Or a cache would go on where the signature has ended.
		caching = fmt.Sprintf("public, max-age=%d, immutable", int64(left/time.Second))
	}
	end, ok := d.begin(w, r)
	if !ok {
		return
	}
	defer end()
	reader, err := t.open()
	if errors.Is(err, ErrNoArtifact) || errors.Is(err, ErrNoPack) {
		if errors.Is(err, ErrNoPack) {
			w.Header().Set("Cache-Control", notYet)
		}
		http.NotFound(w, r)
		return
	}
	if err != nil {
		if r.Context().Err() == nil {
			d.Log.Error("artifact cannot be read", "path", t.path, "err", err)
		}
		d.refuse(w, http.StatusServiceUnavailable, "storage", "the artifacts are not available")
		return
	}
	defer reader.Close()
	h := w.Header()
	until, refused := ranged(r, reader.Size())
	reader.Expect(until)
	h.Set("Content-Type", "application/octet-stream")
	h.Set("ETag", `"`+t.tag+`"`)
	h.Set("Cache-Control", caching)
	d.content(w, r, reader, refused)
}

// content serves what ranged has looked at.
func (d downloads) content(w *answer, r *http.Request, content io.ReadSeeker, refused bool) {
	http.ServeContent(w, r, "", time.Time{}, content)
	if refused && w.status == http.StatusRequestedRangeNotSatisfiable {
		d.Metrics.refused.With(string(w.kind), "ranges").Inc()
	}
}

// redirect sends a caller on. The address is the caller's own: another one's
// signature ends at another time.
func (d downloads) redirect(w *answer, r *http.Request, t thing) {
	to := strings.TrimSuffix(d.RedirectTo, "/") + "/" + t.path
	if d.Signatures != nil {
		to += "?" + d.Signatures.Sign(t.artifact, time.Now())
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, to, http.StatusTemporaryRedirect)
}

func reasonOf(err error) string {
	if errors.Is(err, ErrExpired) {
		return "expired"
	}
	return "signature"
}

// begin takes a place for the download, or answers that there is none.
func (d downloads) begin(w *answer, r *http.Request) (end func(), ok bool) {
	end, refused := d.place(w.kind, r)
	if refused != "" {
		d.refuse(w, http.StatusServiceUnavailable, refused, "too many downloads at once")
		return nil, false
	}
	return end, true
}

// place takes a place for the download, or says why there is none.
func (d downloads) place(k kind, r *http.Request) (end func(), refused string) {
	leave, refused := d.Limits.begin(k, r)
	if refused != "" {
		return nil, refused
	}
	running := d.Metrics.running.With(string(k))
	running.Inc()
	return func() {
		running.Dec()
		leave()
	}, ""
}

// refuse answers what nobody may cache.
func (d downloads) refuse(w *answer, status int, reason, text string) {
	d.Metrics.refused.With(string(w.kind), reason).Inc()
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", d.Limits.retryAfter())
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, text, status)
}

func (d downloads) file(w *answer, r *http.Request) {
	repo, name := trust.Repository(r.PathValue("repo")), r.PathValue("file")
	if !ValidFile(repo, name) {
		http.NotFound(w, r)
		return
	}
	end, ok := d.begin(w, r)
	if !ok {
		return
	}
	defer end()
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	raw, err := d.Files.RepositoryFile(ctx, repo, name)
	if errors.Is(err, ErrNoFile) {
		// A root that is not there yet may be there soon.
		w.Header().Set("Cache-Control", notYet)
		http.NotFound(w, r)
		return
	}
	if err != nil {
		if r.Context().Err() == nil {
			d.Log.Error("repository file cannot be read", "file", string(repo)+"/"+name, "err", err)
		}
		d.refuse(w, http.StatusServiceUnavailable, "storage", "the catalogue is not available")
		return
	}
	caching := forEver
	if name == Timestamp {
		caching = notYet
	}
	d.brief(w, r, brief{raw, fmt.Sprintf("%x", sha256.Sum256(raw)), "application/json", caching})
}

// brief is what is in memory as a whole.
type brief struct {
	raw     []byte
	digest  string // in lower-case hex: its ETag
	media   string // Content-Type
	caching string // Cache-Control
}

func (d downloads) brief(w *answer, r *http.Request, b brief) {
	h := w.Header()
	_, refused := ranged(r, int64(len(b.raw)))
	h.Set("Content-Type", b.media)
	h.Set("ETag", `"`+b.digest+`"`)
	h.Set("Cache-Control", b.caching)
	d.content(w, r, bytes.NewReader(b.raw), refused)
}
