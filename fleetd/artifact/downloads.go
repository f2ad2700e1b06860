package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
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

// stalled is how long a client may take for one piece of a download (32 KiB)
// before its connection is given up.
const stalled = time.Minute

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

// Downloads returns the handler of the listener for devices:
//
//	GET /artifacts/{sha256}         with Range, ETag, for ever
//	GET /repository/{repo}/{file}   N.root.json, N.targets.json, N.snapshot.json, timestamp.json
//
// and HEAD for each. There are no directories to list.
func Downloads(blobs *Blobs, files Files, log *slog.Logger) http.Handler {
	d := downloads{blobs, files, log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /artifacts/{sha256}", d.artifact)
	mux.HandleFunc("GET /repository/{repo}/{file}", d.file)
	return mux
}

type downloads struct {
	blobs *Blobs
	files Files
	log   *slog.Logger
}

func (d downloads) artifact(w http.ResponseWriter, r *http.Request) {
	digest := r.PathValue("sha256")
	f, err := d.blobs.Open(digest)
	if errors.Is(err, ErrNoArtifact) || errors.Is(err, ErrName) {
		http.NotFound(w, r)
		return
	}
	if err != nil {
		d.log.Error("artifact cannot be read", "artifact", digest, "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("ETag", `"`+digest+`"`)
	h.Set("Cache-Control", forEver)
	http.ServeContent(patient{w, http.NewResponseController(w)}, r, "", time.Time{}, f)
}

func (d downloads) file(w http.ResponseWriter, r *http.Request) {
	repo, name := trust.Repository(r.PathValue("repo")), r.PathValue("file")
	if !ValidFile(repo, name) {
		http.NotFound(w, r)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	raw, err := d.files.RepositoryFile(ctx, repo, name)
	if errors.Is(err, ErrNoFile) {
		// A root that is not there yet may be there soon.
		w.Header().Set("Cache-Control", notYet)
		http.NotFound(w, r)
		return
	}
	if err != nil {
		d.log.Error("repository file cannot be read", "file", string(repo)+"/"+name, "err", err)
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the catalogue is not available", http.StatusServiceUnavailable)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(raw)))
	h.Set("Cache-Control", forEver)
	if name == Timestamp {
		h.Set("Cache-Control", notYet)
	}
	http.ServeContent(patient{w, http.NewResponseController(w)}, r, "", time.Time{}, bytes.NewReader(raw))
}

// patient lets a download take as long as it needs while it makes progress.
// It hides the other methods of the ResponseWriter, so that every piece goes
// through Write.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (p patient) Write(data []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(stalled)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.ResponseWriter.Write(data)
}
