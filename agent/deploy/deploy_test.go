package deploy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"groundswell/agent/condition"
	"groundswell/agent/fetch"
	"groundswell/agent/journal"
	"groundswell/agent/slot"
	"groundswell/certs/trust"
	"groundswell/topics"
)

var now = time.Date(2027, 3, 3, 12, 0, 0, 0, time.UTC)

// signed is a list of one release, whose artifact is an x, and that requires something, signed for real.
func signed(t *testing.T, requires ...trust.Requirement) (trust.Images, topics.Entry) {
	t.Helper()
	key := func() (*trust.Key, trust.RoleKeys) {
		k, err := trust.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		return k, trust.RoleKeys{Keys: []trust.PublicKey{k.Public()}, Threshold: 1}
	}
	rootKey, root := key()
	releaseKey, release := key()
	_, online := key()
	rootRaw, err := trust.InitRoot(trust.RootSpec{TrustDomain: "fleet.test", Repository: trust.Image, Expires: now.AddDate(1, 0, 0),
		Root: root, Targets: release, Snapshot: online, Timestamp: online}, rootKey)
	if err != nil {
		t.Fatal(err)
	}
	r := trust.Release{Schema: 1, Component: "system", Name: "camera", Version: "1.1.0", Models: []string{"cam-a"}, Requires: requires}
	image := trust.ReleaseImage{Path: trust.ReleasePath(r), Length: 1, SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte("x"))), Release: r}
	raw, err := trust.SignTargets(trust.TargetsSpec{Root: rootRaw, Add: []trust.ReleaseImage{image}, Now: now, Expires: now.AddDate(0, 1, 0)}, releaseKey)
	if err != nil {
		t.Fatal(err)
	}
	images, err := trust.CheckTargets("fleet.test", rootRaw, nil, raw, now)
	if err != nil {
		t.Fatal(err)
	}
	return images, topics.Entry{Component: "system", Release: "camera", Version: "1.1.0", Models: r.Models,
		Target: topics.Target{Path: image.Path, Length: image.Length, SHA256: image.SHA256}}
}

// floor is a device that remembers a security floor.
type floor string

func (f floor) Images(context.Context, topics.SnapshotPin) (trust.Images, error) {
	return trust.Images{}, errors.New("not asked for here")
}
func (f floor) FromPeers(context.Context, topics.SnapshotPin, func(context.Context, topics.Document) ([]byte, error)) (trust.Images, error) {
	return trust.Images{}, errors.New("not asked for here")
}
func (f floor) ImageRoots(context.Context) (int, error) {
	return 0, errors.New("not asked for here")
}
func (f floor) Held() (trust.Images, error) { return trust.Images{}, errors.New("not asked for here") }
func (f floor) Floor(trust.Images, string, trust.Facts) (string, error) {
	if f == "full" {
		return "", syscall.ENOSPC
	}
	return string(f), nil
}

func TestReleaseIsOnlyForWhoMeetsIt(t *testing.T) {
	dir, err := slot.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		requires []trust.Requirement
		model    string
		floor    floor
		want     error
		slug     string
	}{
		{"nothing required", nil, "cam-a", "", nil, ""},
		{"met", []trust.Requirement{{Component: "system", Versions: "<1.0"}}, "cam-a", "", nil, ""},
		{"other version required", []trust.Requirement{{Component: "system", Versions: ">=1.0"}}, "cam-a", "", errStone, "stepping-stone"},
		{"component is not here", []trust.Requirement{{Component: "modem", Versions: ">=1.0"}}, "cam-a", "", errRequires, "requires"},
		{"other model", nil, "cam-b", "", trust.ErrHardware, "hardware"},
		{"at the floor", nil, "cam-a", "1.1.0", nil, ""},
		{"below a floor that the list does not have any more", nil, "cam-a", "1.1.1", trust.ErrSecurityFloor, "security-floor"},
		{"floors cannot be written down", nil, "cam-a", "full", syscall.ENOSPC, "disk-full"},
	} {
		t.Run(c.name, func(t *testing.T) {
			images, entry := signed(t, c.requires...)
			d := New(Config{Component: "system", Model: c.model}, NewDevice(nil, condition.Config{}), slot.New(dir, slot.Config{}), c.floor, nil, nil, nil, nil)
			d.dep = journal.Deployment{Entry: entry} // 0.0.0 runs: nothing
			err := d.eligible(images)
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if slug, final := reasonOf(err); err != nil && (slug != c.slug || !final) {
				t.Errorf("reason %s, final %v", slug, final)
			}
		})
	}
}

func TestOnlyWhatCannotMendItselfEndsTheAttempt(t *testing.T) {
	for _, c := range []struct {
		err   error
		slug  string
		final bool
	}{
		{fmt.Errorf("download: %w", syscall.ENOSPC), "disk-full", true},
		{fmt.Errorf("download: %w", syscall.EDQUOT), "disk-full", true},
		{fmt.Errorf("download: %w", syscall.EROFS), "disk", true},
		{fmt.Errorf("download: %w", syscall.EIO), "disk", true},
		{fmt.Errorf("download: %w: %w", fetch.ErrWrongBytes, trust.ErrDigest), "wrong-bytes", true},
		{fmt.Errorf("%w: stage: %w", errDisk, slot.ErrInstaller), "installer", true},
		{trust.ErrSecurityFloor, "security-floor", true},
		{fmt.Errorf("%w: %w", errDisk, slot.ErrArtifact), "artifact", true},
		{trust.ErrExpired, "metadata", false},
		{trust.ErrPin, "metadata", false},
		{trust.ErrKey, "metadata", false},
		{fetch.ErrNotFound, "fetch", false},
		{fetch.ErrNoSource, "fetch", false},
		{errNoManifest, "fetch", false},
		{errors.New("connection refused"), "fetch", false},
	} {
		if slug, final := reasonOf(c.err); slug != c.slug || final != c.final {
			t.Errorf("%v: got %s, %v; want %s, %v", c.err, slug, final, c.slug, c.final)
		}
		if err := topics.CheckID("reason", c.slug); err != nil {
			t.Error(err)
		}
	}
}
