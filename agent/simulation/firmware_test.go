package simulation

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"groundswell/agent/verify"
	"groundswell/certs/trust"
	"groundswell/topics"
)

const (
	domain    = "fleet.test"
	deviceID  = "cam-1"
	cohort    = "lobby"
	model     = "cam-a"
	component = "system"
	magic     = "BOOT" // without it, a bootloader loads nothing
	partition = 8 << 10
)

// epoch is when simulated time begins (package testing/synctest).
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// maxUpdates is how many versions there are after the first.
const maxUpdates = 6

// version is that of update n; 0 is what the device leaves the factory with.
func version(n int) string { return fmt.Sprintf("1.%d.0", n) }

// catalogue is what was signed, once for all runs.
type catalogue struct {
	director   *trust.Key
	roots      verify.Roots
	snapshot   []byte
	targets    []byte
	pin        topics.SnapshotPin
	images     map[int][]byte
	release    map[int]trust.ReleaseImage
	bySHA      map[string]int // number of the version
	assignment []byte
}

var theCatalogue = sync.OnceValue(func() *catalogue {
	c, err := newCatalogue()
	if err != nil {
		panic(err)
	}
	return c
})

func newCatalogue() (*catalogue, error) {
	var root, release, snapshot, timestamp *trust.Key
	c := &catalogue{images: map[int][]byte{}, release: map[int]trust.ReleaseImage{}, bySHA: map[string]int{}}
	for _, k := range []**trust.Key{&root, &release, &snapshot, &timestamp, &c.director} {
		var err error
		if *k, err = trust.GenerateKey(); err != nil {
			return nil, err
		}
	}
	keys := func(k *trust.Key) trust.RoleKeys {
		return trust.RoleKeys{Threshold: 1, Keys: []trust.PublicKey{k.Public()}}
	}
	until := epoch.AddDate(20, 0, 0)
	var err error
	if c.roots.Image, err = trust.InitRoot(trust.RootSpec{
		TrustDomain: domain, Repository: trust.Image, Expires: until,
		Root: keys(root), Targets: keys(release), Snapshot: keys(snapshot), Timestamp: keys(timestamp),
	}, root); err != nil {
		return nil, err
	}
	if c.roots.Director, err = trust.InitRoot(trust.RootSpec{
		TrustDomain: domain, Repository: trust.Director, Expires: until, Root: keys(root), Targets: keys(c.director),
	}, root); err != nil {
		return nil, err
	}
	var add []trust.ReleaseImage
	for n := range maxUpdates + 1 {
		data := system(n)
		sum := sha256.Sum256(data)
		r := trust.Release{Schema: 1, Component: component, Name: "camera", Version: version(n), Models: []string{model}}
		image := trust.ReleaseImage{Path: trust.ReleasePath(r), Length: int64(len(data)), SHA256: hex.EncodeToString(sum[:]), Release: r}
		c.images[n], c.release[n], c.bySHA[image.SHA256] = data, image, n
		add = append(add, image)
	}
	if c.targets, err = trust.SignTargets(trust.TargetsSpec{Root: c.roots.Image, Now: epoch, Expires: until, Add: add}, release); err != nil {
		return nil, err
	}
	if c.snapshot, c.pin, err = trust.MakeSnapshot(c.targets, 1, until, snapshot); err != nil {
		return nil, err
	}
	c.assignment, err = trust.SignAssignment(topics.Assignment{
		Schema: topics.Schema, Kind: "assignment", TrustDomain: domain, Device: deviceID, Version: 1, Issued: epoch,
		Cohorts: []string{cohort}, Polling: topics.Polling{Mode: topics.ModeConnected},
	}, until, c.director)
	return c, err
}

// system is the whole system of a version: of several sectors, and the last not full.
func system(n int) []byte {
	data := fmt.Appendf(nil, "%s version=%s\n", magic, version(n))
	body := make([]byte, 5000+n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(body) // never fails
	return append(data, body...)
}

// nature is how a version behaves.
type nature int

const (
	good    nature = iota
	panics         // in its kernel, at each boot
	hangs          // until the hardware watchdog resets it
	crashes        // after a while, again and again
	deaf           // its network is broken: the broker is never heard
	another        // says that it is another version
	flaky          // boots only every other time
	natures
)

// may reports whether a version of this nature may be confirmed.
func (n nature) may() bool { return n == good || n == flaky }

func (n nature) String() string {
	return [...]string{"good", "panics", "hangs", "crashes", "deaf", "another", "flaky"}[n]
}
