package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"groundswell/agent/agenttest"
	"groundswell/agent/fetch"
	"groundswell/certs/trust"
)

// A source of metadata that lies about snapshots, lists of releases and roots.
func TestHostileSourceOfMetadata(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.publishRelease("1.0.5", agenttest.Firmware(t, "1.0.5", "healthy").Bytes)
	image := f.publishRelease("1.1.0", agenttest.Firmware(t, "1.1.0", "healthy").Bytes)
	const snapshots, targets = "/2.snapshot.json", "/2.targets.json"
	const imageRoots, directorRoots = "/image/2.root.json", "/director/2.root.json"
	file := func(path string) []byte { return f.files["/repository/image"+path] }
	send := func(body []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }
	}
	flipped := func(raw []byte) []byte { // of the right length, in a string
		other := bytes.Clone(raw)
		i := bytes.Index(other, []byte(`"sig":"`)) + len(`"sig":"`)
		if other[i] == '0' { // a hexadecimal digit stays one
			other[i] = '1'
		} else {
			other[i] = '0'
		}
		return other
	}
	drip := func(w http.ResponseWriter, r *http.Request) {
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			if _, err := w.Write([]byte(" ")); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
			}
		}
	}
	bomb := func(encoding string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", encoding)
			_, _ = w.Write([]byte{31, 139, 8, 0})
		}
	}
	toFile := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "file:///etc/passwd")
		w.WriteHeader(http.StatusFound)
	}
	thief := must[*trust.Key](t)(trust.GenerateKey())
	spec := func(change func(*trust.RootSpec)) trust.RootSpec {
		s := trust.RootSpec{
			TrustDomain: domain, Repository: trust.Image, Expires: time.Now().Add(time.Hour),
			Root: one(f.root), Targets: one(f.release), Snapshot: one(f.snapshot), Timestamp: one(f.timestamp),
		}
		change(&s)
		return s
	}
	next := must[[]byte](t)(trust.RotateRoot(f.imageRoot, spec(func(s *trust.RootSpec) {}), f.root))
	third := must[[]byte](t)(trust.RotateRoot(next, spec(func(s *trust.RootSpec) {}), f.root))
	his := spec(func(s *trust.RootSpec) { s.Root, s.Targets = one(thief), one(thief) })
	stolen := must[[]byte](t)(trust.InitRoot(his, thief))
	stolen = must[[]byte](t)(trust.RotateRoot(stolen, his, thief))
	nested := []byte(`{"signatures":[],"signed":` + strings.Repeat(`[`, 60_000) + strings.Repeat(`]`, 60_000) + `}`)
	twice := []byte(`{"signatures":[],"signatures":[],"signed":{}}`)
	// Other names than the ones that the format has: they do not reach the disk.
	signatures := func(raw []byte) []byte {
		var doc map[string]json.RawMessage
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		var list []string
		for i := range 700 {
			list = append(list, fmt.Sprintf(`{"keyid":"%064x","sig":"%0128x"}`, i, i))
		}
		// as many as fit
		return fmt.Appendf(nil, `{"signatures":[%s],"signed":%s}`, strings.Join(list[:500], ","), doc["signed"])
	}

	metadata := func(name, path string, attack http.HandlerFunc, says error) sourceAttack {
		return sourceAttack{name, on(path, attack), says.Error(), "metadata"}
	}
	for _, c := range []sourceAttack{
		metadata("snapshot of the right length", snapshots, send(flipped(file(snapshots))), trust.ErrPin),
		metadata("snapshot of an earlier moment", snapshots, send(file("/1.snapshot.json")), trust.ErrPin),
		metadata("snapshot that is cut", snapshots, send(file(snapshots)[:100]), trust.ErrMalformed),
		metadata("snapshot that is a list of releases", snapshots, send(file(targets)[:len(file(snapshots))]), trust.ErrMalformed),
		metadata("snapshot without end", snapshots, send(make([]byte, 64<<20)), fetch.ErrTooLarge),
		{"snapshot compressed", on(snapshots, bomb("gzip")), fetch.ErrEncoding.Error(), ""},
		{"snapshot from a file", on(snapshots, toFile), "redirect from https to file", ""},
		{"snapshot byte by byte", on(snapshots, drip), fetch.ErrSlow.Error(), ""},
		metadata("releases of the right length", targets, send(flipped(file(targets))), trust.ErrPin),
		metadata("releases of an earlier moment", targets, send(file("/1.targets.json")), trust.ErrPin),
		metadata("releases without end", targets, send(make([]byte, 64<<20)), fetch.ErrTooLarge),
		{"releases compressed", on(targets, bomb("zstd")), fetch.ErrEncoding.Error(), ""},
		{"releases byte by byte", on(targets, drip), fetch.ErrSlow.Error(), ""},
		{"releases withheld", on(targets, http.NotFound), fetch.ErrNotFound.Error(), ""},
		metadata("root of before", imageRoots, send(f.imageRoot), trust.ErrVersionGap),
		metadata("root that skips one", imageRoots, send(third), trust.ErrVersionGap),
		metadata("root of a thief", imageRoots, send(stolen), trust.ErrSignature),
		metadata("root of the other repository", imageRoots, send(f.directorRoot), trust.ErrKind),
		metadata("root signed by nobody", imageRoots, send(signatures(next)), trust.ErrSignature),
		metadata("root nested", directorRoots, send(nested), trust.ErrMalformed),
		metadata("root of two meanings", directorRoots, send(twice), trust.ErrMalformed),
		metadata("root without end", directorRoots, send(make([]byte, 64<<20)), fetch.ErrTooLarge),
		{"root compressed", on(directorRoots, bomb("br")), fetch.ErrEncoding.Error(), ""},
		{"root byte by byte", on(directorRoots, drip), fetch.ErrSlow.Error(), ""},
	} {
		t.Run(c.name, func(t *testing.T) { f.sourceAttacks(t, c, image.SHA256, entry(image)) })
	}
}
