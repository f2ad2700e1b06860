package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/certs/token"
	"groundswell/certs/trust"
	"groundswell/internal/block"
	"groundswell/internal/cli"

	"github.com/google/go-cmp/cmp"
)

// run executes fleetctl in this process.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	var out, errOut bytes.Buffer
	code = program().Exec(t.Context(), args, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
	return code, out.String(), errOut.String()
}

func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errOut := run(t, args...)
	if code != 0 {
		t.Fatalf("fleetctl %v: exit code %d: %s", args, code, errOut)
	}
	return out
}

// server is a fleetd that a test plays; it returns the flags to reach it.
func server(t *testing.T, handler http.HandlerFunc) []string {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--server", s.URL, "--token-file", file}
}

func initKeys(t *testing.T, extra ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	mustRun(t, append([]string{"keys", "init", "--dir", dir, "--trust-domain", "fleet.test"}, extra...)...)
	return dir
}

func TestKeysInitMakesAFleetThatTrustsItself(t *testing.T) {
	dir := initKeys(t)
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if _, err := trust.NewState("fleet.test", read("public/image-root.json"), read("public/director-root.json")); err != nil {
		t.Fatal(err)
	}
	info, err := trust.CheckRoot("fleet.test", trust.Image, read("public/image-root.json"))
	if err != nil || info.Roles[trust.RoleTargets].Threshold != 2 || len(info.Roles[trust.RoleTargets].Keys) != 2 {
		t.Fatalf("%+v, %v", info, err)
	}
	for _, pair := range [][2]string{{"offline", "release-1"}, {"online", "director"}, {"online", "snapshot"}, {"online", "timestamp"}} {
		private, err := trust.LoadKey(filepath.Join(dir, pair[0], pair[1]+".key"), nil)
		if err != nil {
			t.Fatal(err)
		}
		public, err := trust.LoadPublicKey(filepath.Join(dir, "public", pair[1]+".pub"))
		if err != nil || public.ID() != private.ID() {
			t.Errorf("%s: halves differ (%v)", pair[1], err)
		}
	}
	mustRun(t, "keys", "device", "cam-1", "--dir", dir, "--out", dir, "--model", "m1", "--hardware", "a")
	c, err := certs.LoadCredential(filepath.Join(dir, "cam-1.crt"), filepath.Join(dir, "cam-1.key"))
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := c.Identity(); id.URI() != "spiffe://fleet.test/device/cam-1" || id.Model != "m1" {
		t.Errorf("identity %+v", id)
	}
	mustRun(t, "keys", "revoke", "--dir", dir, filepath.Join(dir, "cam-1.crt"))
	authority, _ := certs.LoadAuthority(filepath.Join(dir, "public/ca.crt"))
	crl, err := certs.ParseCRL(read("public/crl.pem"), authority)
	if err != nil || crl.Check(c.Certificate) == nil || crl.Number().Int64() != 2 {
		t.Errorf("the certificate is not on the list: %v", err)
	}

	mustRun(t, "keys", "token", "alice", "--role", "operator", "--dir", dir, "--out", filepath.Join(dir, "t"))
	key, _ := token.LoadPublicKey(filepath.Join(dir, "public/token.pub"))
	v, err := token.NewVerifier(token.Config{Issuer: "groundswell", Audience: "fleetd", Keys: []ed25519.PublicKey{key}})
	if err != nil {
		t.Fatal(err)
	}
	who, err := v.Verify(t.Context(), strings.TrimSpace(string(read("t"))))
	if err != nil || who.Name != "alice" || who.Role != token.Operator {
		t.Errorf("%+v, %v", who, err)
	}
}

func TestKeysAreNeverOverwritten(t *testing.T) {
	dir := initKeys(t)
	before, _ := os.ReadFile(filepath.Join(dir, "offline/ca.key"))
	code, _, errOut := run(t, "keys", "init", "--dir", dir, "--trust-domain", "fleet.test")
	after, _ := os.ReadFile(filepath.Join(dir, "offline/ca.key"))
	if code != cli.Failed || !strings.Contains(errOut, "never overwritten") || !bytes.Equal(before, after) {
		t.Fatalf("code %d, %s", code, errOut)
	}
}

func TestOfflineKeysCanBeEncrypted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(file, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := initKeys(t, "--passphrase-file", file)
	key := filepath.Join(dir, "offline/release-1.key")
	if _, err := trust.LoadKey(key, passphraseSource("")); err == nil {
		t.Fatal("opens without the passphrase")
	}
	if _, err := trust.LoadKey(key, passphraseSource(file)); err != nil {
		t.Fatal(err)
	}
}

// fakeFleetd keeps artifacts and signed metadata and checks what a real one
// checks.
type fakeFleetd struct {
	t         *testing.T
	dir       string
	artifacts map[string][]byte
	targets   []byte
	files     map[string][]byte
	version   int64
}

func (f *fakeFleetd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	load := func(name string) *trust.Key {
		key, err := trust.LoadKey(filepath.Join(f.dir, "online", name), nil)
		if err != nil {
			f.t.Error(err)
		}
		return key
	}
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
	switch {
	case path[0] == "artifacts" && r.Method == "PUT":
		body, _ := io.ReadAll(r.Body)
		sum := sha256.Sum256(body)
		if hex.EncodeToString(sum[:]) != path[1] || r.ContentLength != int64(len(body)) {
			f.t.Errorf("artifact of %d bytes does not fit its name", len(body))
		}
		f.artifacts[path[1]] = body
	case path[0] == "artifacts":
		if _, ok := f.artifacts[path[1]]; !ok {
			http.Error(w, `{"status":404}`, 404)
			return
		}
		fmt.Fprint(w, "{}")
	case path[0] == "repository":
		data, ok := f.files[path[2]]
		if !ok {
			http.Error(w, `{"status":404}`, 404)
			return
		}
		_, _ = w.Write(data)
	case path[0] == "releases":
		var body struct {
			Targets string `json:"targets_b64"`
		}
		_ = json.NewDecoder(r.Body).Decode(&body)
		raw, _ := base64.StdEncoding.DecodeString(body.Targets)
		root, _ := os.ReadFile(filepath.Join(f.dir, "public/image-root.json"))
		images, err := trust.CheckTargets("fleet.test", root, f.targets, raw, time.Now())
		if err != nil {
			http.Error(w, fmt.Sprintf(`{"status":422,"detail":%q}`, err), http.StatusUnprocessableEntity)
			return
		}
		f.version++
		expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
		snapshot, _, err1 := trust.MakeSnapshot(raw, f.version, expires, load("snapshot.key"))
		timestamp, err2 := trust.MakeTimestamp(snapshot, f.version, expires, load("timestamp.key"))
		if err1 != nil || err2 != nil {
			f.t.Error(err1, err2)
		}
		f.targets = raw
		f.files[fmt.Sprintf("%d.targets.json", images.Version())] = raw
		f.files[fmt.Sprintf("%d.snapshot.json", f.version)] = snapshot
		f.files["timestamp.json"] = timestamp
		w.WriteHeader(201)
		fmt.Fprint(w, `{"created":[{"name":"camera","version":"9.9.9","models":["m1"]}]}`)
	default:
		f.t.Errorf("unexpected %s %s", r.Method, r.URL.Path)
	}
}

func TestReleasesAreSignedOnTopOfWhatIsPublished(t *testing.T) {
	dir := initKeys(t)
	f := &fakeFleetd{t: t, dir: dir, artifacts: map[string][]byte{}, files: map[string][]byte{}}
	flags := append(server(t, f.ServeHTTP), "--config", filepath.Join(dir, "fleetctl.yaml"))
	artifact := filepath.Join(t.TempDir(), "fw")
	create := func(version string, keys ...string) []string {
		if err := os.WriteFile(artifact, []byte("firmware "+version), 0o644); err != nil {
			t.Fatal(err)
		}
		args := append([]string{"release", "create", "--name", "camera", "--version", version, "--artifact", artifact, "--model", "m1"}, flags...)
		for _, k := range keys {
			args = append(args, "--key", filepath.Join(dir, k))
		}
		return args
	}
	both := []string{"offline/release-1.key", "offline/release-2.key"}
	out := mustRun(t, create("1.0.0", both...)...)
	if !strings.Contains(out, "9.9.9") {
		t.Errorf("prints what fleetd created, got %s", out)
	}
	mustRun(t, create("1.1.0", both...)...)
	root, _ := os.ReadFile(filepath.Join(dir, "public/image-root.json"))
	images, err := trust.CheckTargets("fleet.test", root, nil, f.targets, time.Now())
	if err == nil && len(images.All()) != 2 || f.version != 2 {
		t.Fatalf("%d images, version %d, %v", len(images.All()), f.version, err)
	}
	for _, image := range images.All() {
		pin := image.Release.Index
		if pin == nil || len(f.artifacts) != 4 || int64(len(f.artifacts[pin.SHA256])) != pin.Length {
			t.Fatalf("the block index of %s, %v, is not among %d artifacts", image.Path, pin, len(f.artifacts))
		}
		index, err := block.Read(f.artifacts[pin.SHA256], image.Length)
		if err != nil || index.Blocks[0].Check(f.artifacts[image.SHA256]) != nil {
			t.Errorf("the block index of %s: %v, %v", image.Path, index, err)
		}
	}

	refusals := []struct {
		name string
		args []string
		says string
	}{
		{"one signature of two", create("1.2.0", both[0]), "signature"},
		{"a key of another role", create("1.2.0", "online/director.key", both[0]), "key"},
		{"an existing version with other bytes", append(create("1.1.0", both...), "--notes", "changed"), "1.1.0"},
		{"not a version", create("new", both...), "version"},
	}
	for _, c := range refusals {
		before := f.version
		if code, _, errOut := run(t, c.args...); code != cli.Failed || !strings.Contains(errOut, c.says) || f.version != before {
			t.Errorf("%s: exit code %d, version %d -> %d: %s", c.name, code, before, f.version, errOut)
		}
	}

	mustRun(t, append(create("1.2.0", both...), "--no-index")...)
	images, err = trust.CheckTargets("fleet.test", root, nil, f.targets, time.Now())
	if image, ok := images.Lookup("system/camera/1.2.0"); err != nil || !ok || image.Release.Index != nil || len(f.artifacts) != 5 {
		t.Errorf("without an index: %+v, %v, %d artifacts", image, err, len(f.artifacts))
	}

	// A fleetd that serves what the timestamp does not vouch for gets no signature.
	f.files["2.snapshot.json"], f.files["3.snapshot.json"] = f.files["3.snapshot.json"], f.files["2.snapshot.json"]
	if code, _, errOut := run(t, create("1.3.0", both...)...); code != cli.Failed || !strings.Contains(errOut, "snapshot") {
		t.Errorf("exit code %d: %s", code, errOut)
	}
}

func TestStaleAndMissingHaveTheirOwnExitCodes(t *testing.T) {
	cases := []struct {
		status, code int
	}{{412, exitStale}, {404, exitNotFound}, {409, cli.Failed}, {401, cli.Failed}, {500, cli.Failed}}
	for _, c := range cases {
		flags := server(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" {
				w.Header().Set("ETag", `"7"`)
				fmt.Fprint(w, `{"id":"r-1","revision":7}`)
				return
			}
			if r.Header.Get("If-Match") != `"7"` || r.Header.Get("Authorization") != "Bearer secret" {
				t.Errorf("headers %v", r.Header)
			}
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(c.status)
			fmt.Fprint(w, `{"status":412,"title":"T","detail":"revision is 8","errors":[{"pointer":"/a/b","detail":"is wrong"}]}`)
		})
		code, _, errOut := run(t, append([]string{"rollout", "pause", "r-1"}, flags...)...)
		if code != c.code || !strings.Contains(errOut, "revision is 8\n  /a/b: is wrong") {
			t.Errorf("%d: exit code %d, want %d: %s", c.status, code, c.code, errOut)
		}
	}
}

func TestCreationIsRepeatedUnderOneKeyWhenTheAnswerIsLost(t *testing.T) {
	var keys []string
	flags := server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		if len(keys) < 3 {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
			}
			conn.Close()
			return
		}
		w.WriteHeader(201)
		fmt.Fprint(w, `{"name":"all","members":3}`)
	})
	out := mustRun(t, append([]string{"cohort", "create", "all", "--selector", "region=eu"}, flags...)...)
	if len(keys) != 3 || keys[0] == "" || keys[0] != keys[1] || keys[1] != keys[2] || !strings.Contains(out, "all") {
		t.Fatalf("keys %q, out %s", keys, out)
	}
}

func TestListFollowsTheCursorUpToItsLimit(t *testing.T) {
	flags := server(t, func(w http.ResponseWriter, r *http.Request) {
		n := 0
		fmt.Sscan(r.URL.Query().Get("cursor"), &n)
		if r.URL.Query().Get("model") != "m1" || r.URL.Query().Has("region") {
			t.Errorf("query %v", r.URL.Query())
		}
		fmt.Fprintf(w, `{"items":[{"id":"d%d","extra":1},{"id":"d%d"}],"next":"%d"}`, n, n+1, n+2)
	})
	out := mustRun(t, append([]string{"device", "list", "--model", "m1", "--limit", "4", "-o", "json"}, flags...)...)
	var got []map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{{"id": "d0", "extra": 1.0}, {"id": "d1"}, {"id": "d2", "extra": 1.0}, {"id": "d3"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestARolloutShowsItsDeltasAndWhereTheBytesCameFrom(t *testing.T) {
	const waits = "waiting for deltas: 1 of 2 missing, until 2027-01-01T00:00:00Z"
	flags := server(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"id":"r-1","state":"running","waves":[{"index":0,"state":"pending","gate":"`+waits+`"}],
			"deltas":[{"from":"1.0.0","devices":20,"state":"ready","bytes":2048,"plain_bytes":5120,"listed":true},{"from":"0.9.0","devices":3,"state":"failed","error":"too large"}],
			"transfer":{"devices":5,"origin_bytes":3072,"saved_by_delta_bytes":7168,"regions":[{"region":"eu","devices":4,"delta_bytes":1024},{"region":"us","devices":1}]}}`)
	})
	out := mustRun(t, append([]string{"rollout", "show", "r-1"}, flags...)...)
	for _, part := range []string{waits, "1.0.0", "2.0 KiB through compression (5.0 KiB without)", "too large", "SAVED BY DELTA", "7.0 KiB", "all", "eu"} {
		if !strings.Contains(out, part) {
			t.Errorf("it shows no %q:\n%s", part, out)
		}
	}
	var b bytes.Buffer
	newScreen(&b).draw(rollout{ID: "r-1", State: "running", Waves: []wave{{State: "pending", Gate: waits}}})
	if !strings.Contains(b.String(), waits) {
		t.Errorf("watch says %s", b.String())
	}
}

func TestWatchEndsWithTheRollout(t *testing.T) {
	for state, want := range map[string]int{"completed": 0, "reverted": 0, "paused": exitUnwanted, "cancelled": exitUnwanted} {
		calls := 0
		flags := server(t, func(w http.ResponseWriter, _ *http.Request) {
			now := "running"
			if calls++; calls > 2 {
				now = state
			}
			fmt.Fprintf(w, `{"id":"r-1","state":%q,"reason":"breaker: 1 of 1","waves":[{"index":0,"state":"open","counts":{"committed":%d}}]}`, now, calls)
		})
		code, out, errOut := run(t, append([]string{"rollout", "watch", "r-1", "--every", "100ms"}, flags...)...)
		if code != want || strings.Count(out, "\n") != 3 {
			t.Errorf("%s: exit code %d, want %d\n%s%s", state, code, want, out, errOut)
		}
	}
}

func TestWrongUseIsExitCodeTwo(t *testing.T) {
	for _, args := range [][]string{
		nil, {"rollout"}, {"rollout", "create", "camera", "--cohort", "a"}, {"cohort", "create", "a"},
		{"device", "list"}, {"keys", "init", "--dir", "x"}, {"device", "list", "-o", "xml"},
		{"cohort", "create", "a", "--selector", "x", "--device", "y"},
		{"device", "list", "--server", "nonsense", "--token-file", "x"},
	} {
		if code, _, errOut := run(t, args...); code != cli.Usage {
			t.Errorf("%q: exit code %d: %s", args, code, errOut)
		}
	}
}

func TestTextsOfOthersCannotSteerTheTerminal(t *testing.T) {
	flags := server(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"items":[{"id":"r-1","reason":"\u001b[2J\u009bevil\n"}]}`)
	})
	out := mustRun(t, append([]string{"rollout", "list"}, flags...)...)
	if strings.ContainsAny(out, "\x1b\u009b") || strings.Count(out, "\n") != 2 {
		t.Fatalf("%q", out)
	}
}

func TestCSVOfDevices(t *testing.T) {
	got, err := readCSV(strings.NewReader("id,region,polling_s,site\ncam-1,eu,60,hall\ncam-2,,,\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []any{
		map[string]any{"id": "cam-1", "region": "eu", "polling_s": 60, "labels": map[string]string{"site": "hall"}},
		map[string]any{"id": "cam-2"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	for text, says := range map[string]string{
		"": "header", "name\nx\n": `"id"`, "id,polling_s\na,soon\n": "line 2", "id,region\na\n": "fields",
	} {
		if _, err := readCSV(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
