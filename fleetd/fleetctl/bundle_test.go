package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/certs/token"
	"groundswell/certs/trust"
	"groundswell/internal/cli"
	"groundswell/internal/devstack/stack"
	"groundswell/topics"
)

// fleetd is a real one with a fleet's keys, and the flags that lead to it.
type fleetd struct {
	t     *testing.T
	stack *stack.Stack
	flags []string
}

func newFleetd(t *testing.T) fleetd {
	t.Helper()
	s, err := stack.Start(t.Context(), stack.Options{WithoutInflux: true, FleetdConfig: func(c stack.Config) { c.Set("EUR", "costs", "currency") }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	f := fleetd{t: t, stack: s}
	f.flags = append(f.offline(), "--server", s.APIURL(), "--token-file", s.TokenFile(token.Admin))
	return f
}

// offline are the flags of whoever has keys and roots, but no network.
func (f fleetd) offline() []string { return []string{"--config", f.key("fleetctl.yaml")} }

func (f fleetd) key(name string) string { return filepath.Join(f.stack.Keys, name) }

func (f fleetd) must(args ...string) string {
	f.t.Helper()
	return mustRun(f.t, append(args, f.flags...)...)
}

// refused runs a command that has to fail and to say why.
func (f fleetd) refused(says string, flags []string, args ...string) {
	f.t.Helper()
	code, _, errOut := run(f.t, append(args, flags...)...)
	if code != cli.Failed || !strings.Contains(errOut, says) {
		f.t.Errorf("fleetctl %v: exit code %d instead of a refusal with %q: %s", args, code, says, errOut)
	}
}

func write(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestHoldersSignABundleOneAfterTheOtherWithoutAServer(t *testing.T) {
	f := newFleetd(t)
	firmware := write(t, "fw", "firmware 1.0.0")
	bundle := filepath.Join(t.TempDir(), "bundle.json")
	f.must("release", "prepare", "--bundle", bundle, "--name", "camera", "--version", "1.0.0", "--artifact", firmware, "--model", "cam-a")

	// Nobody has signed, then one of two: fleetd refuses.
	f.refused("fleetd refused (422)", f.flags, "release", "publish", "--bundle", bundle)
	first := []string{"release", "sign", "--bundle", bundle, "--key", f.key("offline/release-1.key")}
	shown := mustRun(t, append(first, f.offline()...)...)
	for _, part := range []string{"adds camera 1.0.0", "models cam-a", "14 bytes", "block index of", "keeps 0 releases", "1 signatures, 2 needed"} {
		if !strings.Contains(shown, part) {
			t.Errorf("a signer is not shown %q:\n%s", part, shown)
		}
	}
	f.refused("fleetd refused (422)", f.flags, "release", "publish", "--bundle", bundle)
	f.refused("signed already", f.offline(), first...)
	f.refused("no release key", f.offline(), "release", "sign", "--bundle", bundle, "--key", f.key("online/director.key"))
	f.refused("not what the bundle releases", f.offline(), "release", "sign", "--bundle", bundle, "--artifact", write(t, "other", "other firmware"))

	// A bundle that shows one thing and would have another signed.
	b, err := readBundle(bundle)
	if err != nil {
		t.Fatal(err)
	}
	b.Add[0].Release.Models = []string{"cam-z"}
	forged := filepath.Join(t.TempDir(), "forged.json")
	if err := b.write(forged); err != nil {
		t.Fatal(err)
	}
	f.refused("do not sign it", f.offline(), "release", "sign", "--bundle", forged, "--key", f.key("offline/release-2.key"))

	// A bundle whose block index is of other bytes than the artifact that the signer has.
	other, _, err := blockIndex(t.Context(), write(t, "fw", "firmware 0.0.1"), 14)
	if err != nil {
		t.Fatal(err)
	}
	b, err = readBundle(bundle)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(other)
	b.Add[0].Release.Index = &topics.Document{Length: int64(len(other)), SHA256: hex.EncodeToString(digest[:])}
	root, err := os.ReadFile(f.key("public/image-root.json"))
	if err != nil {
		t.Fatal(err)
	}
	if b.Targets, err = b.list(root, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := b.write(forged); err != nil {
		t.Fatal(err)
	}
	f.refused("not that of the file", f.offline(), "release", "sign", "--bundle", forged, "--artifact", firmware, "--key", f.key("offline/release-2.key"))

	second := []string{"release", "sign", "--bundle", bundle, "--key", f.key("offline/release-2.key"), "--artifact", firmware}
	if shown := mustRun(t, append(second, f.offline()...)...); !strings.Contains(shown, "2 signatures, 2 needed") {
		t.Errorf("after the second holder:\n%s", shown)
	}
	if out := f.must("release", "publish", "--bundle", bundle); !strings.Contains(out, "1.0.0") {
		t.Errorf("published: %s", out)
	}
	if out := f.must("release", "show", "camera@1.0.0"); !strings.Contains(out, "cam-a") || !strings.Contains(out, "yes") {
		t.Errorf("released: %s", out)
	}
}

func TestARefreshRenewsTheListAndReleasesNothing(t *testing.T) {
	f := newFleetd(t)
	keys := []string{"--key", f.key("offline/release-1.key"), "--key", f.key("offline/release-2.key")}
	f.refused("no list of releases", f.flags, append([]string{"release", "refresh"}, keys...)...)
	f.must(append([]string{"release", "create", "--name", "camera", "--version", "1.0.0", "--artifact", write(t, "fw", "firmware"), "--model", "cam-a", "--lifetime", "24h"}, keys...)...)
	f.must(append([]string{"release", "refresh", "--lifetime", "72h"}, keys...)...)

	bundle := filepath.Join(t.TempDir(), "bundle.json")
	f.must("release", "refresh", "--bundle", bundle, "--lifetime", "96h")
	if shown := mustRun(t, append(append([]string{"release", "sign", "--bundle", bundle}, keys...), f.offline()...)...); !strings.Contains(shown, "List of releases 3") || !strings.Contains(shown, "keeps 1 releases") {
		t.Errorf("a signer is shown:\n%s", shown)
	}
	f.must("release", "publish", "--bundle", bundle)

	root, err := os.ReadFile(f.key("public/image-root.json"))
	if err != nil {
		t.Fatal(err)
	}
	raw := served(t, f, "image", "3.targets.json")
	images, err := trust.CheckTargets(f.stack.TrustDomain, root, nil, raw, inDays(3))
	if err != nil || len(images.All()) != 1 {
		t.Errorf("the list in force has %d releases, err %v", len(images.All()), err)
	}
}

// served is a file of a repository as fleetd gives it out.
func served(t *testing.T, f fleetd, repository, file string) []byte {
	t.Helper()
	var g Global
	g.Server, g.CA, g.TokenFile = f.stack.APIURL(), f.key("public/ca.crt"), f.key("admin.token")
	api, err := g.client()
	if err != nil {
		t.Fatal(err)
	}
	a, err := api.get(t.Context(), "/v1/repository/"+repository+"/"+file, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a.raw
}

func inDays(n int) time.Time { return time.Now().Add(time.Duration(n) * 24 * time.Hour) }
