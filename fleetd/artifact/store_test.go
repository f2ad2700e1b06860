package artifact_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"groundswell/fleetd/artifact"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
)

// s3 is an S3-compatible store of this test's own: a versitygw over a directory.
type s3 struct {
	t       *testing.T
	dir     string // its buckets are the directories below
	addr    string
	spec    devstack.Spec
	process *devstack.Process
}

const bucketName = "firmware"

func startS3(t *testing.T) *s3 {
	t.Helper()
	root, err := devstack.Root()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(root, ".cache", "bin", "versitygw")
	if _, err := os.Stat(program); err != nil {
		t.Fatal("versitygw is not installed: run scripts/setup machines")
	}
	dir := t.TempDir()
	s := &s3{t: t, dir: filepath.Join(dir, "buckets")}
	if err := os.MkdirAll(filepath.Join(s.dir, bucketName), 0o755); err != nil {
		t.Fatal(err)
	}
	if s.addr, err = devstack.FreeAddr(); err != nil {
		t.Fatal(err)
	}
	credentials := filepath.Join(dir, "credentials")
	if err := os.WriteFile(credentials, []byte("[default]\naws_access_key_id = fleetd\naws_secret_access_key = hush-hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", credentials)
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "none"))
	s.spec = devstack.Spec{
		Name: "versitygw", Path: program, LogFile: filepath.Join(dir, "versitygw.log"),
		// With --sidecar it needs no extended attributes of the file system.
		Args: []string{"--port", s.addr, "--quiet", "posix", "--sidecar", mkdir(t, dir, "attributes"), s.dir},
		Env:  []string{"ROOT_ACCESS_KEY_ID=fleetd", "ROOT_SECRET_ACCESS_KEY=hush-hush", "VGW_REGION=eu-1"},
	}
	t.Cleanup(s.stop)
	s.start()
	return s
}

func (s *s3) start() {
	s.t.Helper()
	var err error
	if s.process, err = devstack.Start(s.t.Context(), s.spec); err != nil {
		s.t.Fatal(err)
	}
	blobs := s.open(1 << 20)
	devtest.Eventually(s.t, time.Minute, "the store to answer", func() error { return blobs.Ready(context.Background()) })
}

func mkdir(t *testing.T, path ...string) string {
	t.Helper()
	dir := filepath.Join(path...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (s *s3) stop() {
	if s.process != nil {
		_ = s.process.Stop(10 * time.Second) // whether it minds is no matter here
		s.process = nil
	}
}

func (s *s3) url() string {
	return "s3://" + bucketName + "?region=eu-1&use_path_style=true&endpoint=http://" + s.addr
}

func (s *s3) open(max int64) *artifact.Blobs {
	s.t.Helper()
	blobs, err := artifact.OpenBlobsURL(context.Background(), s.url(), max)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = blobs.Close() }) // nothing is written any more
	return blobs
}

// kill ends it as a crash would.
func (s *s3) kill() {
	s.process.Kill()
	s.process = nil
}

// onBoth runs a test with artifacts in files and in an S3 bucket: what one promises the
// other does. dir is where the objects show as files.
func onBoth(t *testing.T, max int64, test func(t *testing.T, blobs *artifact.Blobs, dir string)) {
	t.Run("files", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "artifacts")
		blobs, err := artifact.OpenBlobs(dir, max)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = blobs.Close() })
		test(t, blobs, dir)
	})
	t.Run("S3", func(t *testing.T) {
		s := startS3(t)
		test(t, s.open(max), filepath.Join(s.dir, bucketName))
	})
}

// large is above the size from which a store is sent parts.
const large = 20 << 20

func TestLargeArtifactsAreWholeOrNotThere(t *testing.T) {
	onBoth(t, 2*large, func(t *testing.T, blobs *artifact.Blobs, dir string) {
		ctx := context.Background()
		data := firmware(large)
		for name, source := range map[string]io.Reader{
			"the last byte is wrong": bytes.NewReader(append(bytes.Clone(data[:large-1]), data[large-1]+1)),
			"cut off":                io.MultiReader(bytes.NewReader(data[:large-5]), iotest.ErrReader(io.ErrUnexpectedEOF)),
			"too long":               io.MultiReader(bytes.NewReader(data), bytes.NewReader(data)),
		} {
			if created, err := blobs.Put(ctx, digest(data), large, source); created || err == nil {
				t.Errorf("%s: created %v, err %v", name, created, err)
			}
			if _, err := blobs.Size(ctx, digest(data)); !errors.Is(err, artifact.ErrNoArtifact) {
				t.Errorf("%s: size: %v", name, err)
			}
			if left := files(t, dir); len(left) > 0 {
				t.Errorf("%s: left behind: %v", name, left)
			}
		}
		if created, err := blobs.Put(ctx, digest(data), large, bytes.NewReader(data)); !created || err != nil {
			t.Fatalf("created %v, err %v", created, err)
		}
		r, err := blobs.Open(ctx, digest(data))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		r.Expect(9 << 20)
		for _, at := range []int64{large - 3, 8<<20 - 5, 9<<20 - 1, 0} {
			if _, err := r.Seek(at, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, min(64<<10, large-at))
			if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, data[at:at+int64(len(got))]) {
				t.Errorf("at %d: other bytes, err %v", at, err)
			}
		}
		if stored := files(t, dir); len(stored) != 1 || stored[0] != filepath.Join(dir, digest(data)[:2], digest(data)) {
			t.Errorf("stored as %v", stored)
		}
	})
}

// What lies there from before is served; what uploads left behind is cleared away, but
// not while somebody may still write it.
func TestADirectoryFromBeforeKeepsWorking(t *testing.T) {
	dir := t.TempDir()
	data := firmware(1000)
	stored := filepath.Join(mkdir(t, dir, digest(data)[:2]), digest(data))
	old, young := time.Now().Add(-72*time.Hour), time.Now().Add(-time.Hour)
	for path, at := range map[string]time.Time{
		stored:                                         old,
		stored + ".17ffe.tmp":                          old,
		stored + ".17fff.tmp":                          young,
		filepath.Join(dir, "incoming/0123.456"):        old,
		filepath.Join(dir, "blocks/ab/abc.1.tmp"):      old,
		filepath.Join(dir, "blocks/ab/abc.2.tmp"):      young,
		filepath.Join(dir, "packs/ab/abc.table.1.tmp"): old,
		filepath.Join(dir, "packs/ab/abc.table"):       old,
		filepath.Join(dir, "incoming/0123.457"):        young,
	} {
		mkdir(t, filepath.Dir(path))
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	blobs, err := artifact.OpenBlobs(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer blobs.Close()
	if size, err := blobs.Size(context.Background(), digest(data)); err != nil || size != 1000 {
		t.Errorf("size %d, err %v", size, err)
	}
	want := []string{stored, stored + ".17fff.tmp", filepath.Join(dir, "incoming/0123.457"), filepath.Join(dir, "blocks/ab/abc.2.tmp"), filepath.Join(dir, "packs/ab/abc.table")}
	got := files(t, dir)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The store dies in the middle of an upload, so nobody can abort it.
func TestPartsOfACutOffUploadAreCleared(t *testing.T) {
	s := startS3(t)
	dir := filepath.Join(s.dir, bucketName)
	data := firmware(large)
	half := &hook{Reader: bytes.NewReader(data), after: large - 100_000, do: func() {
		devtest.Eventually(t, time.Minute, "parts to arrive", func() error {
			if len(files(t, dir)) == 0 {
				return errors.New("none yet")
			}
			return nil
		})
		s.kill()
	}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if created, err := s.open(2*large).Put(ctx, digest(data), large, half); created || err == nil {
		t.Fatalf("created %v, err %v", created, err)
	}
	s.start() // which also looks for abandoned ones
	if len(files(t, dir)) == 0 {
		t.Fatal("an upload of a moment ago is cleared away")
	}
	old := time.Now().Add(-72 * time.Hour)
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, old, old))
	})
	if err != nil {
		t.Fatal(err)
	}
	s.open(2 * large)
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// hook does something after so many bytes.
type hook struct {
	io.Reader
	after int
	do    func()
}

func (h *hook) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if h.after -= n; h.after < 0 && h.do != nil {
		h.do()
		h.do = nil
	}
	return n, err
}

// A store that is away is a reason to come again, not to think that nothing is there.
func TestAStoreThatIsAwayIsNotAnEmptyOne(t *testing.T) {
	s := startS3(t)
	blobs := s.open(1 << 20)
	data := firmware(1000)
	if _, err := blobs.Put(context.Background(), digest(data), 1000, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	server := serve(t, blobs, nil)
	s.kill()
	if err := blobs.Ready(context.Background()); err == nil {
		t.Error("it says that it is ready")
	}
	if created, err := blobs.Put(context.Background(), digest(data), 1000, bytes.NewReader(data)); created || err == nil || errors.Is(err, artifact.ErrNoArtifact) {
		t.Errorf("put: created %v, err %v", created, err)
	}
	resp, _ := get(t, server.URL+"/artifacts/"+digest(data))
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("away: %s %v", resp.Status, resp.Header)
	}
	s.start()
	if resp, body := get(t, server.URL+"/artifacts/"+digest(data)); resp.StatusCode != 200 || !bytes.Equal(body, data) {
		t.Errorf("back: %s", resp.Status)
	}
}

func get(t *testing.T, url string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}
