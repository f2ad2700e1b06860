package artifact_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
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
	s.process, err = devstack.Start(t.Context(), devstack.Spec{
		Name: "versitygw", Path: program, LogFile: filepath.Join(dir, "versitygw.log"),
		// With --sidecar it needs no extended attributes of the file system.
		Args: []string{"--port", s.addr, "--quiet", "posix", "--sidecar", mkdir(t, dir, "attributes"), s.dir},
		Env:  []string{"ROOT_ACCESS_KEY_ID=fleetd", "ROOT_SECRET_ACCESS_KEY=hush-hush", "VGW_REGION=eu-1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	blobs := s.open(1 << 20)
	devtest.Eventually(t, time.Minute, "the store to answer", func() error { return blobs.Ready(context.Background()) })
	return s
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
