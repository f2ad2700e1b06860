package main

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/certs/trust"
	"groundswell/internal/cli"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
)

// newKey makes a key with fleetctl and returns its path without the ending.
func newKey(t *testing.T, name string, extra ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	mustRun(t, append([]string{"keys", "new", path}, extra...)...)
	return path
}

func contains(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%s: no %q in\n%s", what, part, text)
		}
	}
}

// TestHoldersRotateTheImageRootOneAfterTheOtherWithoutAServer adds a second
// root key and exchanges a release key, and shows that fleetd takes releases
// of the new keys and none of the old.
func TestHoldersRotateTheImageRootOneAfterTheOtherWithoutAServer(t *testing.T) {
	f := newFleetd(t)
	release := func(version string, keys ...string) []string {
		args := []string{"release", "create", "--name", "camera", "--version", version, "--artifact", write(t, "fw", "firmware "+version), "--model", "cam-a"}
		for _, key := range keys {
			args = append(args, "--key", key)
		}
		return args
	}
	first, second := f.key("offline/release-1.key"), f.key("offline/release-2.key")
	f.must(release("1.0.0", first, second)...)

	holder, third := newKey(t, "holder-2"), newKey(t, "release-3")
	draft := filepath.Join(t.TempDir(), "root.json")
	out := mustRun(t, append([]string{"keys", "rotate-root", "image", "--out", draft, "--lifetime", "48h",
		"--add", "root=" + holder + ".pub", "--threshold", "root=2",
		"--remove", "release=" + f.key("public/release-1.pub"), "--add", "release=" + third + ".pub"}, f.offline()...)...)
	contains(t, "the draft", out, "Root 2 of the image repository of fleet.test, after root 1", "root: 2 of 2 keys must sign (was: 1 of 1)",
		"release: 2 of 2 keys must sign\n", "    - ", "    + ", "old root's keys: 0, 1 needed; by the new root's: 0, 2 needed")

	f.refused("by its own keys", f.flags, "keys", "publish-root", "image", "--root", draft)
	f.refused("is there already", f.offline(), "keys", "rotate-root", "image", "--out", draft)
	sign := func(key string) []string {
		return []string{"keys", "sign-root", "image", "--root", draft, "--key", key}
	}
	out = mustRun(t, append(sign(f.key("offline/image-root.key")), f.offline()...)...)
	contains(t, "after one holder", out, "old root's keys: 1, 1 needed; by the new root's: 1, 2 needed", "to be signed further")
	f.refused("signed already", f.offline(), sign(f.key("offline/image-root.key"))...)
	f.refused("no root key", f.offline(), sign(first)...)
	f.refused("too few", f.flags, "keys", "publish-root", "image", "--root", draft)
	f.refused("another kind", f.offline(), "keys", "sign-root", "director", "--root", draft, "--key", f.key("offline/director-root.key"))
	if isServed(t, f, "image", "2.root.json") {
		t.Fatal("a refused root is served")
	}
	out = mustRun(t, append(sign(holder+".key"), f.offline()...)...)
	contains(t, "after both", out, "by the new root's: 2, 2 needed", "signed by enough")

	// A colleague with a copy of the old root, who is told nothing.
	colleague := t.TempDir()
	if err := os.CopyFS(colleague, os.DirFS(f.key("public"))); err != nil {
		t.Fatal(err)
	}
	contains(t, "published", f.must("keys", "publish-root", "image", "--root", draft), "root 2", "release refresh")
	contains(t, "published again", f.must("keys", "publish-root", "image", "--root", draft), "root 2")
	want, err := os.ReadFile(draft)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(served(t, f, "image", "2.root.json"), want) {
		t.Error("what fleetd serves is not what was signed")
	}
	if own, err := os.ReadFile(f.key("public/image-root.json")); err != nil || !bytes.Equal(own, want) {
		t.Errorf("the operator's own root is not the new one (%v)", err)
	}
	if _, err := os.Stat(f.key("public/image-root.1.json")); err != nil {
		t.Errorf("the root before is gone: %v", err)
	}

	f.refused("no release key", f.flags, release("1.1.0", first, second)...)
	f.must(release("1.1.0", second, third+".key")...)

	theirs := filepath.Join(colleague, "image-root.json")
	contains(t, "the colleague's", f.must("keys", "fetch-root", "image", "--image-root", theirs), "image root 2", "2 of 2")
	if own, err := os.ReadFile(theirs); err != nil || !bytes.Equal(own, want) {
		t.Errorf("the colleague's root is not the new one (%v)", err)
	}
}

// TestAReplacedDirectorKeyReachesDevices has the root drop the director key
// that fleetd uses, as after a theft: fleetd gets the new key, and a device
// follows the root and obeys.
func TestAReplacedDirectorKeyReachesDevices(t *testing.T) {
	f := newFleetd(t)
	ctx := t.Context()
	firmware, err := devstack.Firmware(ctx, "1.0.0", true)
	if err != nil {
		t.Fatal(err)
	}
	f.must("device", "create", "cam-1", "--region", "eu")
	f.must("cohort", "create", "eu", "--selector", "region=eu")
	if _, err := f.stack.StartAgent(ctx, stack.AgentOptions{ID: "cam-1", Model: "cam-a", Hardware: "a", Firmware: firmware, Version: "1.0.0"}); err != nil {
		t.Fatal(err)
	}
	obeys := func() {
		t.Helper()
		versions, err := f.stack.ManifestVersions(ctx, "eu")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.stack.AwaitManifests(ctx, versions); err != nil {
			t.Fatal(err)
		}
	}
	devtest.Eventually(t, 0, "the device's first contact", func() error {
		_, err := f.stack.Devices(ctx, url.Values{"version": {"1.0.0"}})
		return err
	})
	obeys()

	key := newKey(t, "director-2")
	draft := filepath.Join(t.TempDir(), "root.json")
	mustRun(t, append([]string{"keys", "rotate-root", "director", "--out", draft, "--key", f.key("offline/director-root.key"),
		"--remove", "director=" + f.key("public/director.pub"), "--add", "director=" + key + ".pub"}, f.offline()...)...)
	contains(t, "published", f.must("keys", "publish-root", "director", "--root", draft), "trust.director_key")

	if err := f.stack.Fleetd.Stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(key + ".key")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.key("online/director.key"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.stack.RestartFleetd(ctx); err != nil {
		t.Fatal(err)
	}
	if err := f.stack.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	before, err := f.stack.ManifestVersions(ctx, "eu")
	if err != nil {
		t.Fatal(err)
	}
	// A rollout makes a manifest that is new for sure, by the new key.
	if err := f.stack.Publish(ctx, "camera", "1.1.0", firmware, []string{"cam-a"}); err != nil {
		t.Fatal(err)
	}
	f.must("rollout", "create", "camera@1.1.0", "--cohort", "eu", "--start")
	devtest.Eventually(t, 0, "a newer manifest", func() error {
		after, err := f.stack.ManifestVersions(ctx, "eu")
		if err == nil && after["eu"] == before["eu"] {
			return os.ErrDeadlineExceeded
		}
		return err
	})
	obeys()
}

func TestARootThatNobodyCouldSignIsNotMade(t *testing.T) {
	dir := initKeys(t)
	config := []string{"--config", filepath.Join(dir, "fleetctl.yaml")}
	key := newKey(t, "k")
	refusals := []struct {
		name string
		args []string
		code int
		says string
	}{
		{"more signatures than keys", []string{"--threshold", "release=3"}, cli.Failed, "3 signatures of 2 keys"},
		{"the last key of a role", []string{"--remove", "root=" + filepath.Join(dir, "public/image-root.pub")}, cli.Failed, "1 signatures of 0 keys"},
		{"a key that is not there", []string{"--remove", "release=" + key + ".pub"}, cli.Failed, "no such key"},
		{"a key twice", []string{"--add", "release=" + filepath.Join(dir, "public/release-1.pub")}, cli.Failed, "has that key already"},
		{"a private key in the place of a public one", []string{"--add", "release=" + key + ".key"}, cli.Failed, "--add"},
		{"a role of the other repository", []string{"--add", "director=" + key + ".pub"}, cli.Usage, "root, release, snapshot, timestamp"},
		{"no role", []string{"--add", key + ".pub"}, cli.Usage, "ROLE=VALUE"},
		{"a threshold of none", []string{"--threshold", "release=0"}, cli.Usage, "not a number of keys"},
		{"a key id too short to mean one key", []string{"--remove", "release=ab"}, cli.Failed, "8 digits"},
		{"signed by another role's key", []string{"--key", filepath.Join(dir, "offline/release-1.key")}, cli.Failed, "no root key"},
		{"no lifetime", []string{"--lifetime", "0s"}, cli.Usage, "not positive"},
	}
	for _, c := range refusals {
		out := filepath.Join(t.TempDir(), "root.json")
		code, _, errOut := run(t, append(append([]string{"keys", "rotate-root", "image", "--out", out}, c.args...), config...)...)
		if code != c.code || !strings.Contains(errOut, c.says) {
			t.Errorf("%s: exit code %d, want %d with %q: %s", c.name, code, c.code, c.says, errOut)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: a root was written all the same", c.name)
		}
	}
	if code, _, errOut := run(t, "keys", "new", strings.TrimSuffix(key, ".key")); code != cli.Failed || !strings.Contains(errOut, "never overwritten") {
		t.Errorf("a key was overwritten: %d %s", code, errOut)
	}
}

func TestARootIsShownForProgramsToo(t *testing.T) {
	dir := initKeys(t)
	config := []string{"--config", filepath.Join(dir, "fleetctl.yaml"), "-o", "json"}
	var shown rootView
	if err := json.Unmarshal([]byte(mustRun(t, append([]string{"keys", "show-root", "image"}, config...)...)), &shown); err != nil {
		t.Fatal(err)
	}
	if shown.Version != 1 || shown.Repository != string(trust.Image) || shown.Roles["release"].Threshold != 2 || len(shown.Roles["release"].Keys) != 2 {
		t.Errorf("%+v", shown)
	}
	// By its id, as show-root prints it.
	var draft draftView
	out := filepath.Join(t.TempDir(), "root.json")
	raw := mustRun(t, append([]string{"keys", "rotate-root", "image", "--out", out, "--key", filepath.Join(dir, "offline/image-root.key"),
		"--remove", "release=" + shown.Roles["release"].Keys[0][:16], "--threshold", "release=1"}, config...)...)
	if err := json.Unmarshal([]byte(raw), &draft); err != nil {
		t.Fatal(err)
	}
	if draft.Version != 2 || !draft.Complete || len(draft.Roles["release"].Keys) != 1 || draft.Roles["release"].Keys[0] != shown.Roles["release"].Keys[1] {
		t.Errorf("%+v", draft)
	}
}

// isServed reports whether fleetd serves a file of a repository.
func isServed(t *testing.T, f fleetd, repository, file string) bool {
	t.Helper()
	a, err := f.stack.Call(t.Context(), stack.Request{Method: "GET", Path: "/v1/repository/" + repository + "/" + file})
	if err != nil {
		t.Fatal(err)
	}
	return a.Status == 200
}
