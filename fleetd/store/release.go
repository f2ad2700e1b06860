package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"groundswell/fleetd/fleet"
	"groundswell/topics"
)

// PutArtifact records that the bytes are stored. It is idempotent.
func (s *Store) PutArtifact(ctx context.Context, by fleet.Actor, a fleet.Artifact) (out fleet.Artifact, created bool, err error) {
	if err := topics.CheckDigest("sha256", a.SHA256); err != nil {
		return out, false, fleet.Invalid("/sha256", "%v", err)
	}
	err = s.change(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO artifact (sha256, length, created_by) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, a.SHA256, a.Length, by.Name)
		if err != nil {
			return fmt.Errorf("put artifact %s: %w", a.SHA256, err)
		}
		if created = tag.RowsAffected() == 1; created {
			if err := record(ctx, tx, by, "artifact.put", "artifact/"+a.SHA256, 0, 1, map[string]any{"length": a.Length}); err != nil {
				return err
			}
		}
		out, err = readArtifact(ctx, tx, a.SHA256)
		return err
	})
	return out, created, err
}

// Artifact reads what is known about stored bytes.
func (s *Store) Artifact(ctx context.Context, sha256 string) (fleet.Artifact, error) {
	return readArtifact(ctx, s.pool, sha256)
}

func readArtifact(ctx context.Context, q querier, sha256 string) (a fleet.Artifact, err error) {
	err = q.QueryRow(ctx, `SELECT sha256, length, created_at, created_by FROM artifact WHERE sha256 = $1`, sha256).
		Scan(&a.SHA256, &a.Length, &a.CreatedAt, &a.CreatedBy)
	a.CreatedAt = a.CreatedAt.UTC()
	return a, absent(err, "artifact", sha256)
}

const releaseColumns = `
	component, name, version, path, length, sha256, models, hardware, security_floor, notes, created_at, created_by, coalesce(requires, '[]')::text,
	index_length, index_sha256 FROM release `

func scanRelease(row pgx.CollectableRow) (r fleet.Release, err error) {
	var requires string
	var length *int64
	var digest *string
	err = row.Scan(&r.Component, &r.Name, &r.Version, &r.Path, &r.Length, &r.SHA256, &r.Models, &r.Hardware, &r.SecurityFloor, &r.Notes, &r.CreatedAt, &r.CreatedBy, &requires,
		&length, &digest)
	if err != nil {
		return r, err
	}
	if length != nil {
		r.Index = &topics.Document{Length: *length, SHA256: *digest}
	}
	r.CreatedAt = r.CreatedAt.UTC()
	return r, json.Unmarshal([]byte(requires), &r.Requires)
}

// Release reads one release.
func (s *Store) Release(ctx context.Context, name, version string) (fleet.Release, error) {
	return readRelease(ctx, s.pool, name, version)
}

func readRelease(ctx context.Context, q querier, name, version string) (fleet.Release, error) {
	rows, err := q.Query(ctx, `SELECT`+releaseColumns+`WHERE name = $1 AND version = $2`, name, version)
	if err != nil {
		return fleet.Release{}, fmt.Errorf("release %s %s: %w", name, version, err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanRelease)
	return r, absent(err, "release", name+" "+version)
}

// Releases lists releases by name, then by version as text. Absent arguments
// admit all.
func (s *Store) Releases(ctx context.Context, component, name string, p Page) ([]fleet.Release, string, error) {
	if err := checkFilters(map[string]string{"/component": component, "/name": name}); err != nil {
		return nil, "", err
	}
	var afterName, afterVersion string
	limit, err := p.start(&afterName, &afterVersion)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.pool.Query(ctx, `
		SELECT`+releaseColumns+`
		WHERE ($1 = '' OR component = $1) AND ($2 = '' OR name = $2) AND (name, version) > ($3, $4)
		ORDER BY name, version LIMIT $5`, component, name, afterName, afterVersion, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("list releases: %w", err)
	}
	releases, err := pgx.CollectRows(rows, scanRelease)
	if err != nil {
		return nil, "", fmt.Errorf("list releases: %w", err)
	}
	releases, next := cut(releases, limit, func(r fleet.Release) []any { return []any{r.Name, r.Version} })
	return releases, next, nil
}

// Publication is a new state of the image repository.
type Publication struct {
	// Releases that are new in it; may be empty when metadata is only renewed.
	Releases []fleet.Release
	// Files are the signed metadata: targets, snapshot, timestamp.
	Files []fleet.RepositoryFile
	// Base is the version of the newest snapshot when Files were made; 0: there
	// was none. If there is another by now, ErrConflict: what Files say is not
	// made from what is there.
	Base int64
	// Pin, if not nil, is the snapshot that manifests pin from now on.
	Pin *topics.SnapshotPin
}

// PublishReleases stores a new state of the image repository. Verifying the
// signatures is the caller's matter. A release whose artifact is not stored is
// a FieldError; one that exists, or a file whose version exists with other
// bytes, is ErrConflict. With a new pin all manifests are signed anew: the cost
// grows with the number of cohorts.
func (s *Store) PublishReleases(ctx context.Context, by fleet.Actor, p Publication) (created []fleet.Release, err error) {
	for i, r := range p.Releases {
		if err := r.Validate(fmt.Sprintf("/releases/%d", i)); err != nil {
			return nil, err
		}
	}
	err = s.change(ctx, func(tx pgx.Tx) error {
		created = []fleet.Release{}
		// A cohort that is created meanwhile must not miss the new pin.
		if err := lockMembership(ctx, tx, false); err != nil {
			return err
		}
		// One at a time: the pin must not go back.
		if _, err := tx.Exec(ctx, `LOCK TABLE image_pin IN SHARE ROW EXCLUSIVE MODE`); err != nil {
			return err
		}
		if err := based(ctx, tx, p); err != nil {
			return err
		}
		files := map[string]any{}
		for _, f := range p.Files {
			isNew, err := putFile(ctx, tx, f)
			if err != nil {
				return err
			}
			if isNew {
				files[f.Repository+"/"+f.Name] = f.Version
			}
		}
		if len(files) > 0 { // also a list that only lives longer
			if err := record(ctx, tx, by, "repository.publish", "repository/image", 0, 0, files); err != nil {
				return err
			}
		}
		for _, r := range p.Releases {
			if err := s.createRelease(ctx, tx, by, r); err != nil {
				return err
			}
			stored, err := readRelease(ctx, tx, r.Name, r.Version)
			if err != nil {
				return err
			}
			created = append(created, stored)
		}
		if p.Pin == nil {
			return nil
		}
		return s.pin(ctx, tx, *p.Pin)
	})
	return created, err
}

// based is ErrConflict unless p is made from what is there.
func based(ctx context.Context, tx pgx.Tx, p Publication) error {
	if len(p.Files) == 0 {
		return nil
	}
	var newest int64
	err := tx.QueryRow(ctx, `
		SELECT coalesce(max(version), 0) FROM repository_file WHERE repository = 'image' AND name = 'snapshot.json'`).Scan(&newest)
	if err != nil {
		return fmt.Errorf("read the newest snapshot: %w", err)
	}
	if newest != p.Base {
		return fmt.Errorf("snapshot %d was published meanwhile, this was made from %d: %w", newest, p.Base, fleet.ErrConflict)
	}
	return nil
}

// uploaded is a FieldError unless what a release is made of is stored.
func uploaded(ctx context.Context, tx pgx.Tx, r fleet.Release, what string, d topics.Document) error {
	a, err := readArtifact(ctx, tx, d.SHA256)
	if errors.Is(err, fleet.ErrNotFound) {
		return fleet.Invalid("/targets", "%s: the %s %s was not uploaded", r.Path, what, d.SHA256)
	}
	if err != nil {
		return err
	}
	if a.Length != d.Length {
		return fleet.Invalid("/targets", "%s: the %s has %d bytes, not %d", r.Path, what, a.Length, d.Length)
	}
	return nil
}

func (s *Store) createRelease(ctx context.Context, tx pgx.Tx, by fleet.Actor, r fleet.Release) error {
	if err := uploaded(ctx, tx, r, "artifact", topics.Document{Length: r.Length, SHA256: r.SHA256}); err != nil {
		return err
	}
	var indexLength *int64
	var indexDigest *string
	if r.Index != nil {
		if err := uploaded(ctx, tx, r, "block index", *r.Index); err != nil {
			return err
		}
		indexLength, indexDigest = &r.Index.Length, &r.Index.SHA256
	}
	key, err := fleet.VersionKey(r.Version)
	if err != nil {
		return err
	}
	hardware := r.Hardware
	if hardware == nil {
		hardware = []string{}
	}
	requires, err := toJSON(nonNil(r.Requires))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO release (name, version, sort_key, component, path, length, sha256, models, hardware, security_floor, notes, created_by, requires, index_length, index_sha256)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		r.Name, r.Version, key, r.Component, r.Path, r.Length, r.SHA256, r.Models, hardware, r.SecurityFloor, r.Notes, by.Name, requires,
		indexLength, indexDigest)
	if sqlState(err) == uniqueViolation {
		return fmt.Errorf("release %s %s exists: %w", r.Name, r.Version, fleet.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("create release %s %s: %w", r.Name, r.Version, err)
	}
	return record(ctx, tx, by, "release.create", "release/"+r.Name+"@"+r.Version, 0, 1, map[string]any{"sha256": r.SHA256, "path": r.Path})
}

// FillRequires notes what releases require, where that is not known yet, and tells the
// cohorts of their rollouts. read is called if there are such releases, and says it by
// target path. It reports for how many releases that was.
func (s *Store) FillRequires(ctx context.Context, read func() (map[string][]fleet.Requirement, error)) (n int, err error) {
	err = s.change(ctx, func(tx pgx.Tx) error {
		n = 0
		rows, err := tx.Query(ctx, `SELECT path FROM release WHERE requires IS NULL FOR UPDATE`)
		if err != nil {
			return fmt.Errorf("find releases: %w", err)
		}
		unknown, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("find releases: %w", err)
		}
		if len(unknown) == 0 {
			return nil
		}
		requires, err := read()
		if err != nil {
			return err
		}
		var changed []string
		for _, path := range unknown {
			q, ok := requires[path]
			if !ok {
				continue // it is in a list that is newer than this one
			}
			text, err := toJSON(nonNil(q))
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `UPDATE release SET requires = $2 WHERE path = $1`, path, text); err != nil {
				return fmt.Errorf("note what %s requires: %w", path, err)
			}
			n++
			if len(q) > 0 {
				changed = append(changed, path)
			}
		}
		if len(changed) == 0 {
			return nil
		}
		rows, err = tx.Query(ctx, `
			SELECT DISTINCT rc.cohort FROM rollout_cohort rc JOIN rollout r ON r.id = rc.rollout
			JOIN release l ON l.name = r.release AND l.version = r.version
			WHERE l.path = ANY($1) AND r.state IN ('running', 'paused', 'completed')`, changed)
		if err != nil {
			return fmt.Errorf("find cohorts: %w", err)
		}
		cohorts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("find cohorts: %w", err)
		}
		return s.signManifests(ctx, tx, cohorts)
	})
	return n, err
}

// NoteIndex notes the block index of a release that was added without.
func (s *Store) NoteIndex(ctx context.Context, path string, index topics.Document) error {
	_, err := s.pool.Exec(ctx, `
		UPDATE release SET index_length = $2, index_sha256 = $3 WHERE path = $1 AND index_sha256 IS NULL`, path, index.Length, index.SHA256)
	if err != nil {
		return fmt.Errorf("note the block index of %s: %w", path, err)
	}
	return nil
}

func (s *Store) pin(ctx context.Context, tx pgx.Tx, pin topics.SnapshotPin) error {
	before, err := imagePin(ctx, tx)
	if err != nil {
		return err
	}
	if before != nil && *before == pin {
		return nil
	}
	if before != nil && before.Version >= pin.Version {
		return fmt.Errorf("snapshot %d is pinned already, %d is not newer: %w", before.Version, pin.Version, fleet.ErrConflict)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO image_pin (version, length, sha256) VALUES ($1, $2, $3)
		ON CONFLICT (only_row) DO UPDATE SET version = $1, length = $2, sha256 = $3`, pin.Version, pin.Length, pin.SHA256)
	if err != nil {
		return fmt.Errorf("pin snapshot %d: %w", pin.Version, err)
	}
	rows, err := tx.Query(ctx, `SELECT name FROM cohort`)
	if err != nil {
		return fmt.Errorf("pin snapshot %d: %w", pin.Version, err)
	}
	cohorts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("pin snapshot %d: %w", pin.Version, err)
	}
	return s.signManifests(ctx, tx, cohorts)
}

// PutRepositoryFile stores signed metadata. The same again is no change; other
// bytes for a version that exists are ErrConflict.
func (s *Store) PutRepositoryFile(ctx context.Context, by fleet.Actor, f fleet.RepositoryFile) error {
	return s.change(ctx, func(tx pgx.Tx) error {
		if isNew, err := putFile(ctx, tx, f); err != nil || !isNew {
			return err
		}
		return record(ctx, tx, by, "repository.put", fmt.Sprintf("repository/%s/%d.%s", f.Repository, f.Version, f.Name), f.Version-1, f.Version, nil)
	})
}

func putFile(ctx context.Context, tx pgx.Tx, f fleet.RepositoryFile) (isNew bool, err error) {
	tag, err := tx.Exec(ctx, `
		INSERT INTO repository_file (repository, name, version, bytes) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
		f.Repository, f.Name, f.Version, f.Bytes)
	if err != nil {
		return false, fmt.Errorf("put %s %d.%s: %w", f.Repository, f.Version, f.Name, err)
	}
	if tag.RowsAffected() == 1 {
		return true, nil
	}
	there, err := readFile(ctx, tx, f.Repository, f.Name, f.Version)
	if err != nil {
		return false, err
	}
	if !bytes.Equal(there.Bytes, f.Bytes) {
		return false, fmt.Errorf("%s %d.%s exists with other content: %w", f.Repository, f.Version, f.Name, fleet.ErrConflict)
	}
	return false, nil
}

// RepositoryFile reads signed metadata; version 0 is the newest.
func (s *Store) RepositoryFile(ctx context.Context, repository, name string, version int64) (fleet.RepositoryFile, error) {
	return readFile(ctx, s.pool, repository, name, version)
}

func readFile(ctx context.Context, q querier, repository, name string, version int64) (f fleet.RepositoryFile, err error) {
	err = q.QueryRow(ctx, `
		SELECT repository, name, version, bytes, created_at FROM repository_file
		WHERE repository = $1 AND name = $2 AND ($3 = 0 OR version = $3) ORDER BY version DESC LIMIT 1`, repository, name, version).
		Scan(&f.Repository, &f.Name, &f.Version, &f.Bytes, &f.CreatedAt)
	f.CreatedAt = f.CreatedAt.UTC()
	return f, absent(err, "file", fmt.Sprintf("%s %d.%s", repository, version, name))
}
