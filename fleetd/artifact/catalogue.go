package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"groundswell/certs/trust"
	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
)

// Names of the files of a repository, as fleetd/store keeps them.
const (
	rootFile      = "root.json"
	targetsFile   = "targets.json"
	snapshotFile  = "snapshot.json"
	timestampFile = Timestamp
)

// ErrNotRelease: the release cannot be listed by this version of fleetd.
var ErrNotRelease = errors.New("release cannot be listed")

// CatalogueConfig is what a Catalogue is made of. All of it is required.
type CatalogueConfig struct {
	TrustDomain string
	Store       *store.Store
	Blobs       *Blobs
	// ImageRoot and DirectorRoot are the roots to begin with. Later ones come
	// by RotateRoot.
	ImageRoot, DirectorRoot []byte
	// SnapshotKey and TimestampKey are the online keys of the image repository.
	SnapshotKey, TimestampKey *trust.Key
	// DirectorKey is this replica's; only whether the root names it is looked at.
	DirectorKey trust.PublicKey
	Log         *slog.Logger
}

// Catalogue keeps the metadata of both repositories.
type Catalogue struct{ cfg CatalogueConfig }

// NewCatalogue does no I/O.
func NewCatalogue(cfg CatalogueConfig) *Catalogue { return &Catalogue{cfg} }

// byItself is the catalogue in the audit trail.
var byItself = fleet.Actor{Name: "catalogue"}

// Begin stores the configured roots when the database has none yet, refuses a
// database that began with other ones, and notes what a fleetd of before did not.
func (c *Catalogue) Begin(ctx context.Context) error {
	for _, r := range []struct {
		repo trust.Repository
		raw  []byte
	}{{trust.Image, c.cfg.ImageRoot}, {trust.Director, c.cfg.DirectorRoot}} {
		info, err := trust.CheckRoot(c.cfg.TrustDomain, r.repo, r.raw)
		if err != nil {
			return fmt.Errorf("configured root: %w", err)
		}
		stored, err := c.cfg.Store.RepositoryFile(ctx, string(r.repo), rootFile, info.Version)
		switch {
		case err == nil && !bytes.Equal(stored.Bytes, r.raw):
			return fmt.Errorf("configured %s root %d is not the one in the database: another fleet's database, or another fleet's root", r.repo, info.Version)
		case err == nil:
			continue
		case !errors.Is(err, fleet.ErrNotFound):
			return err
		}
		if newest, err := c.cfg.Store.RepositoryFile(ctx, string(r.repo), rootFile, 0); err == nil {
			return fmt.Errorf("configured %s root %d is unknown to the database, which has %d: rotate by PUT /v1/repository/%s/root", r.repo, info.Version, newest.Version, r.repo)
		} else if !errors.Is(err, fleet.ErrNotFound) {
			return err
		}
		if info.Version != 1 {
			c.cfg.Log.Warn("the first root of this database is not version 1: devices that hold an older one cannot follow", "repository", r.repo, "version", info.Version)
		}
		err = c.cfg.Store.PutRepositoryFile(ctx, byItself, fleet.RepositoryFile{Repository: string(r.repo), Name: rootFile, Version: info.Version, Bytes: r.raw})
		if err != nil {
			return fmt.Errorf("store %s root %d: %w", r.repo, info.Version, err)
		}
	}
	if err := c.fillRequires(ctx); err != nil {
		c.cfg.Log.Error("what releases require is not noted yet", "err", err) // Run tries again
	}
	if err := c.fillIndexes(ctx); err != nil {
		c.cfg.Log.Error("block indexes of releases are not noted yet", "err", err) // the same
	}
	return nil
}

// Ready says what stands in the way: an online key that the root in force does
// not name, so that nobody would believe what it signs.
func (c *Catalogue) Ready(ctx context.Context) error {
	image, _, err := c.root(ctx, trust.Image)
	if err != nil {
		return err
	}
	director, _, err := c.root(ctx, trust.Director)
	if err != nil {
		return err
	}
	return errors.Join(
		names(image, trust.Image, trust.RoleSnapshot, c.cfg.SnapshotKey.ID()),
		names(image, trust.Image, trust.RoleTimestamp, c.cfg.TimestampKey.ID()),
		names(director, trust.Director, trust.RoleTargets, c.cfg.DirectorKey.ID()),
	)
}

func names(root trust.RootInfo, repo trust.Repository, role, key string) error {
	if slices.ContainsFunc(root.Roles[role].Keys, func(k trust.PublicKey) bool { return k.ID() == key }) {
		return nil
	}
	return fmt.Errorf("%s root %d does not name our key %.16s for %s: rotate the root or configure another key", repo, root.Version, key, role)
}

// root is the root in force.
func (c *Catalogue) root(ctx context.Context, repo trust.Repository) (trust.RootInfo, []byte, error) {
	file, err := c.cfg.Store.RepositoryFile(ctx, string(repo), rootFile, 0)
	if err != nil {
		return trust.RootInfo{}, nil, fmt.Errorf("%s root: %w", repo, err)
	}
	info, err := trust.CheckRoot(c.cfg.TrustDomain, repo, file.Bytes)
	return info, file.Bytes, err
}

// newest is the newest file of the image repository; the zero value when there
// is none.
func (c *Catalogue) newest(ctx context.Context, name string) (fleet.RepositoryFile, error) {
	file, err := c.cfg.Store.RepositoryFile(ctx, string(trust.Image), name, 0)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		return file, err
	}
	return file, nil
}

// Publish takes a signed list of releases in the place of the one in force,
// and returns those that are new in it. The refusals are those of
// trust.CheckTargets, ErrNotRelease, ErrNoArtifact and trust.ErrLength for the
// bytes of a new release, ErrIndex for its block index, and fleet.ErrConflict when another list came in
// between. The list in force again is no change.
func (c *Catalogue) Publish(ctx context.Context, by fleet.Actor, raw []byte) ([]fleet.Release, error) {
	_, root, err := c.root(ctx, trust.Image)
	if err != nil {
		return nil, err
	}
	// The snapshot is read first: when somebody publishes in between, ours is
	// not made from what is there any more, and is the conflict.
	snapshot, err := c.newest(ctx, snapshotFile)
	if err != nil {
		return nil, err
	}
	current, err := c.newest(ctx, targetsFile)
	if err != nil {
		return nil, err
	}
	images, err := trust.CheckTargets(c.cfg.TrustDomain, root, current.Bytes, raw, time.Now())
	if err != nil {
		return nil, err
	}
	known, err := c.releases(ctx)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(current.Bytes, raw) {
		return slices.DeleteFunc(known, func(r fleet.Release) bool { return r.CreatedAt.Before(current.CreatedAt) }), nil
	}
	added, err := c.added(ctx, images, known)
	if err != nil {
		return nil, err
	}
	publication, err := c.sign(ctx, raw, snapshot.Version)
	if err != nil {
		return nil, err
	}
	publication.Releases = added
	publication.Files = append(publication.Files, fleet.RepositoryFile{Repository: string(trust.Image), Name: targetsFile, Version: images.Version(), Bytes: raw})
	return c.cfg.Store.PublishReleases(ctx, by, publication)
}

// releases lists all that the database knows.
func (c *Catalogue) releases(ctx context.Context) ([]fleet.Release, error) {
	var all []fleet.Release
	page := store.Page{Limit: 1000}
	for {
		some, next, err := c.cfg.Store.Releases(ctx, "", "", page)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
		if next == "" {
			return all, nil
		}
		page.Cursor = next
	}
}

// added are the releases that are not known yet, each with its bytes in place,
// and its block index, which costs as much as reading the artifact.
func (c *Catalogue) added(ctx context.Context, images trust.Images, known []fleet.Release) ([]fleet.Release, error) {
	paths := map[string]bool{}
	for _, r := range known {
		paths[r.Path] = true
	}
	var added []fleet.Release
	for _, image := range images.All() {
		if paths[image.Path] {
			continue
		}
		if err := image.Release.Validate(); err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrNotRelease, image.Path, err)
		}
		size, err := c.cfg.Blobs.Size(ctx, image.SHA256)
		if err != nil {
			return nil, fmt.Errorf("release %s: %w", image.Path, err)
		}
		if size != image.Length {
			return nil, fmt.Errorf("release %s: %w: the artifact has %d bytes, the list says %d", image.Path, trust.ErrLength, size, image.Length)
		}
		if pin := image.Release.Index; pin != nil {
			if err := c.checkIndex(ctx, image.SHA256, image.Length, *pin); err != nil {
				return nil, fmt.Errorf("release %s: %w", image.Path, err)
			}
		}
		r := image.Release
		added = append(added, fleet.Release{
			Component: r.Component, Name: r.Name, Version: r.Version, Path: image.Path, Length: image.Length, SHA256: image.SHA256,
			Models: r.Models, Hardware: r.Hardware, SecurityFloor: r.SecurityFloor, Notes: r.Notes, Requires: required(r), Index: r.Index,
		})
	}
	return added, nil
}

func required(r trust.Release) (list []fleet.Requirement) {
	for _, q := range r.Requires {
		list = append(list, fleet.Requirement{Component: q.Component, Versions: q.Versions})
	}
	return list
}

// fillRequires notes what releases require that were added by a fleetd which did not.
func (c *Catalogue) fillRequires(ctx context.Context) error {
	n, err := c.cfg.Store.FillRequires(ctx, func() (map[string][]fleet.Requirement, error) {
		targets, err := c.newest(ctx, targetsFile)
		if err != nil {
			return nil, err
		}
		images, err := trust.ReadTargets(targets.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read the list of releases: %w", err)
		}
		requires := map[string][]fleet.Requirement{}
		for _, image := range images.All() {
			requires[image.Path] = required(image.Release)
		}
		return requires, nil
	})
	if n > 0 {
		c.cfg.Log.Info("what releases require is noted", "releases", n)
	}
	return err
}

// How long what the online keys sign is valid. Manifests pin the snapshot and
// are renewed every week, so the snapshot must outlive several of them.
const (
	snapshotLife  = 90 * 24 * time.Hour
	timestampLife = 14 * 24 * time.Hour
)

// sign makes the snapshot that follows the one of version base (0: none), and the
// timestamp, for targets. Versions are numbered as manifests are
// (fleet.NextVersion): a database that is restored from an older backup must not
// give a version out twice, because devices and caches that hold the lost one
// would not ask for the other.
func (c *Catalogue) sign(ctx context.Context, targets []byte, base int64) (store.Publication, error) {
	now := time.Now()
	version := fleet.NextVersion(base, now)
	snapshot, pin, err := trust.MakeSnapshot(targets, version, now.Add(snapshotLife), c.cfg.SnapshotKey)
	if err != nil {
		return store.Publication{}, fmt.Errorf("sign snapshot %d: %w", version, err)
	}
	timestamp, err := c.signTimestamp(ctx, snapshot)
	if err != nil {
		return store.Publication{}, err
	}
	return store.Publication{
		Files: []fleet.RepositoryFile{
			{Repository: string(trust.Image), Name: snapshotFile, Version: version, Bytes: snapshot},
			timestamp,
		},
		Base: base,
		Pin:  &pin,
	}, nil
}

func (c *Catalogue) signTimestamp(ctx context.Context, snapshot []byte) (fleet.RepositoryFile, error) {
	last, err := c.newest(ctx, timestampFile)
	if err != nil {
		return last, err
	}
	version := fleet.NextVersion(last.Version, time.Now())
	raw, err := trust.MakeTimestamp(snapshot, version, time.Now().Add(timestampLife), c.cfg.TimestampKey)
	if err != nil {
		return last, fmt.Errorf("sign timestamp %d: %w", version, err)
	}
	return fleet.RepositoryFile{Repository: string(trust.Image), Name: timestampFile, Version: version, Bytes: raw}, nil
}

// RotateRoot takes the root that follows the one in force, signed by the
// thresholds of both. After a new image root the snapshot and the timestamp
// are signed anew, because it may have changed their keys; after a new director
// root manifests and assignments are, if it dropped the key that signed them.
func (c *Catalogue) RotateRoot(ctx context.Context, by fleet.Actor, repo trust.Repository, raw []byte) (trust.RootInfo, error) {
	_, current, err := c.root(ctx, repo)
	if err != nil {
		return trust.RootInfo{}, err
	}
	if bytes.Equal(current, raw) {
		return trust.CheckRoot(c.cfg.TrustDomain, repo, raw)
	}
	info, err := trust.CheckRotation(c.cfg.TrustDomain, repo, current, raw)
	if err != nil {
		return trust.RootInfo{}, err
	}
	if err := c.cfg.Store.PutRepositoryFile(ctx, by, fleet.RepositoryFile{Repository: string(repo), Name: rootFile, Version: info.Version, Bytes: raw}); err != nil {
		return trust.RootInfo{}, err
	}
	// What follows can be done later as well: Run does it then.
	if repo == trust.Image {
		err = c.renew(ctx, true)
	} else {
		err = c.renewDirected(ctx)
	}
	if err != nil {
		c.cfg.Log.Error("not signed anew after the root was rotated", "repository", repo, "err", err)
	}
	return info, nil
}

// renew signs the snapshot and the timestamp again when half of their life is
// over, or in any case.
func (c *Catalogue) renew(ctx context.Context, inAnyCase bool) error {
	snapshot, err := c.newest(ctx, snapshotFile)
	if err != nil {
		return err
	}
	targets, err := c.newest(ctx, targetsFile)
	if err != nil || targets.Bytes == nil {
		return err // nothing is released yet
	}
	timestamp, err := c.newest(ctx, timestampFile)
	if err != nil {
		return err
	}
	var publication store.Publication
	switch {
	case inAnyCase || time.Since(snapshot.CreatedAt) > snapshotLife/2:
		publication, err = c.sign(ctx, targets.Bytes, snapshot.Version)
	case time.Since(timestamp.CreatedAt) > timestampLife/2:
		timestamp, err = c.signTimestamp(ctx, snapshot.Bytes)
		publication.Files, publication.Base = []fleet.RepositoryFile{timestamp}, snapshot.Version
	default:
		return nil
	}
	if err != nil {
		return err
	}
	_, err = c.cfg.Store.PublishReleases(ctx, byItself, publication)
	if errors.Is(err, fleet.ErrConflict) {
		return nil // another replica was faster
	}
	return err
}

// RepositoryFile gives out a file by the name under which it is served. It
// makes Catalogue the Files of Downloads.
func (c *Catalogue) RepositoryFile(ctx context.Context, repo trust.Repository, name string) ([]byte, error) {
	if !ValidFile(repo, name) {
		return nil, fmt.Errorf("%w: %.80q", ErrNoFile, string(repo)+"/"+name)
	}
	var version int64 // 0: newest
	if number, base, ok := strings.Cut(name, "."); ok && name != timestampFile {
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: %.80q", ErrNoFile, name)
		}
		version, name = n, base
	}
	file, err := c.cfg.Store.RepositoryFile(ctx, string(repo), name, version)
	if errors.Is(err, fleet.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s/%s", ErrNoFile, repo, name)
	}
	if err != nil {
		return nil, err
	}
	return file.Bytes, nil
}
