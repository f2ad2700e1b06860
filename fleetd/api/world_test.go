package api_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/certs/token"
	"groundswell/certs/trust"
	"groundswell/fleetd/api"
	"groundswell/fleetd/artifact"
	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/ops"
	"groundswell/migrations"
	"groundswell/topics"
)

const (
	domain = "fleet.example.org"
	day    = 24 * time.Hour
)

// signer signs with a director key.
type signer struct{ key *trust.Key }

func (s signer) SignManifest(m topics.Manifest, expires time.Time) ([]byte, error) {
	return trust.SignManifest(m, expires, s.key)
}
func (s signer) SignAssignment(a topics.Assignment, expires time.Time) ([]byte, error) {
	return trust.SignAssignment(a, expires, s.key)
}
func (s signer) SignCommand(c topics.Command, expires time.Time) ([]byte, error) {
	return trust.SignCommand(c, expires, s.key)
}

// world is a server on a database of its own, with all keys.
type world struct {
	t      *testing.T
	url    string
	db     string
	store  *store.Store
	issuer *token.Issuer
	server *api.Server

	rootKey, directorRootKey, snapshotKey, timestampKey, directorKey *trust.Key
	releaseKeys                                                      []*trust.Key
	imageRoot, directorRoot, targets                                 []byte
	catalogue                                                        *artifact.Catalogue

	learn      sync.Once // guards the making of operations
	operations []described
}

func key(t *testing.T) *trust.Key {
	t.Helper()
	k, err := trust.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func role(threshold int, keys ...*trust.Key) trust.RoleKeys {
	r := trust.RoleKeys{Threshold: threshold}
	for _, k := range keys {
		r.Keys = append(r.Keys, k.Public())
	}
	return r
}

func (w *world) imageSpec() trust.RootSpec {
	return trust.RootSpec{
		TrustDomain: domain, Repository: trust.Image, Expires: time.Now().Add(365 * day), Root: role(1, w.rootKey),
		Targets: role(2, w.releaseKeys...), Snapshot: role(1, w.snapshotKey), Timestamp: role(1, w.timestampKey),
	}
}

func (w *world) directorSpec() trust.RootSpec {
	return trust.RootSpec{
		TrustDomain: domain, Repository: trust.Director, Expires: time.Now().Add(365 * day),
		Root: role(1, w.directorRootKey), Targets: role(1, w.directorKey),
	}
}

// resign signs everything anew as a replica with another director key would.
func (w *world) resign(key *trust.Key) {
	w.t.Helper()
	ctx := context.Background()
	other, err := store.Open(ctx, store.Options{URL: w.db, TrustDomain: domain, Signer: signer{key}})
	if err != nil {
		w.t.Fatal(err)
	}
	defer other.Close()
	if err := other.RenewSignatures(ctx, fleet.Actor{Name: "test"}, "test"); err != nil {
		w.t.Fatal(err)
	}
	if n, err := other.RefreshManifests(ctx, 10); err != nil || n == 0 {
		w.t.Fatalf("signed %d manifests anew, err %v", n, err)
	}
	if _, err := other.RefreshAssignments(ctx, 10); err != nil {
		w.t.Fatal(err)
	}
}

func newWorld(t *testing.T) *world { return newWorldOn(t, devtest.Database(t)) }

// newWorldOn is a world on the given empty database.
func newWorldOn(t *testing.T, database string) *world {
	t.Helper()
	ctx := context.Background()
	w := &world{t: t, db: database}
	if _, err := migrations.Apply(ctx, w.db); err != nil {
		t.Fatal(err)
	}
	w.rootKey, w.directorRootKey, w.snapshotKey, w.timestampKey, w.directorKey = key(t), key(t), key(t), key(t), key(t)
	w.releaseKeys = []*trust.Key{key(t), key(t)}
	var err error
	if w.imageRoot, err = trust.InitRoot(w.imageSpec(), w.rootKey); err != nil {
		t.Fatal(err)
	}
	if w.directorRoot, err = trust.InitRoot(w.directorSpec(), w.directorRootKey); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	w.store, err = store.Open(ctx, store.Options{URL: w.db, TrustDomain: domain, Signer: signer{w.directorKey}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.store.Close)
	blobs, err := artifact.OpenBlobs(filepath.Join(t.TempDir(), "artifacts"), 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	w.catalogue = artifact.NewCatalogue(artifact.CatalogueConfig{
		TrustDomain: domain, Store: w.store, Blobs: blobs, ImageRoot: w.imageRoot, DirectorRoot: w.directorRoot,
		SnapshotKey: w.snapshotKey, TimestampKey: w.timestampKey, DirectorKey: w.directorKey.Public(), Log: log,
	})
	if err := w.catalogue.Begin(ctx); err != nil {
		t.Fatal(err)
	}
	tokenKey, err := token.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	w.issuer = token.NewIssuer(tokenKey, "groundswell", "fleetd")
	tokens, err := token.NewVerifier(token.Config{Issuer: "groundswell", Audience: "fleetd", Keys: []ed25519.PublicKey{tokenKey.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	indexDeltas := artifact.NewIndexDeltas(blobs)
	w.server = api.New(api.Config{
		Listen: "127.0.0.1:0", Store: w.store, Blobs: blobs, Catalogue: w.catalogue, Tokens: tokens,
		IndexDelta: func(ctx context.Context, new, old string) (int64, bool) {
			n, err := indexDeltas.Length(ctx, new, old)
			return n, err == nil
		},
		Version: "test", Metrics: ops.NewRegistry(), Log: log,
	})
	if err := w.server.Listen(); err != nil {
		t.Fatal(err)
	}
	w.url = "http://" + w.server.Addr()
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- w.server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// call is one request and what must come of it.
type call struct {
	method, path string
	body         any // JSON, unless it is a string or bytes
	as           token.Role
	header       []string
}

type answer struct {
	status int
	header http.Header
	raw    []byte
}

func (w *world) bearer(role token.Role) string {
	w.t.Helper()
	raw, err := w.issuer.Sign("alice", role, time.Now(), time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	return "Bearer " + raw
}

func (w *world) do(c call) answer {
	w.t.Helper()
	var body io.Reader
	switch b := c.body.(type) {
	case nil:
	case string:
		body = strings.NewReader(b)
	case []byte:
		body = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			w.t.Fatal(err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequest(c.method, w.url+c.path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	if c.as == "" {
		c.as = token.Admin
	}
	if c.as != "nobody" {
		req.Header.Set("Authorization", w.bearer(c.as))
	}
	for i := 0; i < len(c.header); i += 2 {
		req.Header.Set(c.header[i], c.header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	w.described(c, resp.StatusCode)
	return answer{resp.StatusCode, resp.Header, raw}
}

// described complains about an answer that the description does not have. What
// is at no path of it is none of its matter.
func (w *world) described(c call, status int) {
	w.t.Helper()
	path, _, _ := strings.Cut(c.path, "?")
	w.learn.Do(func() {
		resp, err := http.Get(w.url + "/openapi.json")
		if err != nil {
			w.t.Error(err)
			return
		}
		defer resp.Body.Close()
		var doc struct {
			Paths map[string]map[string]struct{ Responses map[string]any }
		}
		if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
			w.t.Error(err)
		}
		for template, methods := range doc.Paths {
			pattern := regexp.MustCompile("^" + regexp.MustCompile(`\{[a-z0-9]+\}`).ReplaceAllString(template, "[^/]+") + "$")
			for method, o := range methods {
				w.operations = append(w.operations, described{strings.ToUpper(method), pattern, o.Responses})
			}
		}
	})
	for _, o := range w.operations {
		if o.method == c.method && o.path.MatchString(path) && o.responses[strconv.Itoa(status)] == nil {
			w.t.Errorf("%s %s: %d is not in the description", c.method, c.path, status)
		}
	}
}

type described struct {
	method    string
	path      *regexp.Regexp
	responses map[string]any
}

// must makes a call that has to succeed with the status, and decodes it.
func (w *world) must(status int, into any, c call) answer {
	w.t.Helper()
	a := w.do(c)
	if a.status != status {
		w.t.Fatalf("%s %s: %d instead of %d: %s", c.method, c.path, a.status, status, a.raw)
	}
	if into != nil {
		if err := json.Unmarshal(a.raw, into); err != nil {
			w.t.Fatalf("%s %s: %v: %s", c.method, c.path, err, a.raw)
		}
	}
	return a
}

// refused makes a call that has to be refused with the status, and with a
// problem about where (pointer, parameter or header; "" means none).
func (w *world) refused(status int, where string, c call) {
	w.t.Helper()
	a := w.do(c)
	var p api.Problem
	if err := json.Unmarshal(a.raw, &p); err != nil {
		w.t.Errorf("%s %s: %d, not a problem: %s", c.method, c.path, a.status, a.raw)
		return
	}
	if a.status != status || p.Status != status || a.header.Get("Content-Type") != "application/problem+json" || p.Instance == "" || p.Detail == "" {
		w.t.Errorf("%s %s: %d %s instead of %d: %s", c.method, c.path, a.status, a.header.Get("Content-Type"), status, a.raw)
		return
	}
	got := []string{}
	for _, e := range p.Errors {
		got = append(got, e.Pointer+e.Parameter+e.Header)
		if e.Detail == "" {
			w.t.Errorf("%s %s: no detail: %s", c.method, c.path, a.raw)
		}
	}
	if strings.Join(got, " ") != where {
		w.t.Errorf("%s %s: points at %q instead of %q: %s", c.method, c.path, got, where, a.raw)
	}
}

// image is a release of some bytes.
func (w *world) image(version, firmware string) trust.ReleaseImage {
	sum := sha256.Sum256([]byte(firmware))
	r := trust.Release{Schema: 1, Component: topics.DefaultComponent, Name: "camera", Version: version, Models: []string{"cam-a"}}
	return trust.ReleaseImage{Path: trust.ReleasePath(r), Length: int64(len(firmware)), SHA256: hex.EncodeToString(sum[:]), Release: r}
}

// sign makes the next list of releases.
func (w *world) sign(previous []byte, keys []*trust.Key, add ...trust.ReleaseImage) []byte {
	w.t.Helper()
	raw, err := trust.SignTargets(trust.TargetsSpec{Root: w.imageRoot, Previous: previous, Add: add, Expires: time.Now().Add(90 * day), Now: time.Now()}, keys...)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func b64(field string, raw []byte) map[string]string {
	return map[string]string{field: base64.StdEncoding.EncodeToString(raw)}
}

// release uploads firmware and publishes it.
func (w *world) release(version string, change ...func(*trust.ReleaseImage)) {
	w.t.Helper()
	firmware := "firmware " + version
	image := w.image(version, firmware)
	for _, c := range change {
		c(&image)
	}
	w.must(201, nil, call{method: "PUT", path: "/v1/artifacts/" + image.SHA256, body: firmware})
	w.targets = w.sign(w.targets, w.releaseKeys, image)
	w.must(201, nil, call{method: "POST", path: "/v1/releases", body: b64("targets_b64", w.targets)})
}

// report stores what devices of the model would report at their first contact.
func (w *world) report(model string, devices ...string) {
	w.t.Helper()
	var records []store.UplinkRecord
	for i, id := range devices {
		now := time.Now().UTC()
		raw, err := topics.Encode(topics.Heartbeat{
			Schema: 1, Versions: map[string]string{topics.DefaultComponent: "1.0.0"}, BootID: "b1", Mode: topics.ModeConnected,
			Agent: "0.1.0", Epoch: 1, Sequence: 1, Clock: topics.ClockTrusted, At: now,
		})
		if err != nil {
			w.t.Fatal(err)
		}
		records = append(records, store.UplinkRecord{
			Topic: topics.DeviceHeartbeat(id), Payload: raw, Shard: 1, Sequence: int64(i + 1), Stored: now, Model: model, Hardware: "rev-b",
		})
	}
	results, err := w.store.ApplyUplink(context.Background(), records)
	if err != nil {
		w.t.Fatal(err)
	}
	for i, r := range results {
		if r.Outcome != store.Applied {
			w.t.Fatalf("heartbeat of %s: %+v", devices[i], r)
		}
	}
}

// names lists n device ids.
func names(n int) []string {
	var ids []string
	for i := range n {
		ids = append(ids, fmt.Sprintf("cam-%d", i+1))
	}
	return ids
}

func now() time.Time { return time.Now() }
