package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"groundswell/certs/trust"
)

// packEvery is how often Pack looks for releases that are not packed. Somebody else may
// have taken them.
const packEvery = 10 * time.Second

// Pack packs the artifacts of all releases that have a block index, until ctx ends. One
// that cannot be packed is tried again; meanwhile devices fetch the artifact itself.
func (c *Catalogue) Pack(ctx context.Context, p *Packs) error {
	var last int64 // version of the list of releases that was packed
	for {
		version, err := c.packAll(ctx, p, last)
		if err != nil && ctx.Err() == nil {
			c.cfg.Log.Error("not all releases are packed", "err", err)
		}
		if err == nil {
			last = version
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(packEvery):
		}
	}
}

// packAll packs what is not packed, unless the list of releases is the one of version
// last.
func (c *Catalogue) packAll(ctx context.Context, p *Packs, last int64) (version int64, err error) {
	targets, err := c.newest(ctx, targetsFile)
	if err != nil || targets.Bytes == nil || targets.Version == last {
		return targets.Version, err
	}
	images, err := trust.ReadTargets(targets.Bytes)
	if err != nil {
		return 0, fmt.Errorf("read the list of releases: %w", err)
	}
	var failures []error
	for _, image := range slices.Backward(images.All()) { // the newer versions of a release first, mostly
		if image.Release.Index == nil {
			continue
		}
		if there, err := p.Has(ctx, image.SHA256); err != nil || there {
			failures = append(failures, err)
			continue
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		began := time.Now()
		index, err := c.blob(ctx, image.Release.Index.SHA256)
		if err == nil {
			err = p.Make(ctx, image.SHA256, index, image.Length)
		}
		if err != nil {
			failures = append(failures, fmt.Errorf("release %s: %w", image.Path, err))
			continue
		}
		length, _ := p.Length(ctx, image.SHA256) // it was just made
		c.cfg.Log.Info("release is packed", "release", image.Path, "bytes", image.Length, "packed", length, "took", time.Since(began).Round(time.Millisecond))
	}
	return targets.Version, errors.Join(failures...)
}

// blob reads a stored document.
func (c *Catalogue) blob(ctx context.Context, sha256 string) ([]byte, error) {
	r, err := c.cfg.Blobs.Open(ctx, sha256)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if r.Size() > trust.MaxIndex {
		return nil, fmt.Errorf("%s has %d bytes", sha256, r.Size())
	}
	return io.ReadAll(r)
}
