package artifact

import (
	"context"
	"errors"
	"fmt"
	"io"

	"groundswell/certs/trust"
	"groundswell/internal/block"
	"groundswell/topics"
)

// ErrIndex: what the list pins as a release's block index is not that of its artifact.
var ErrIndex = errors.New("wrong block index")

// checkIndex refuses the block index of a release unless it is in place, reads, and is of
// the artifact: a device would find each block wrong that is not, whoever sends it. The
// artifact is read as a whole, a block at a time. ErrNoArtifact, trust.ErrLength,
// trust.ErrDigest, ErrIndex.
func (c *Catalogue) checkIndex(ctx context.Context, artifact string, length int64, pin topics.Document) error {
	if pin.Length > trust.MaxIndex {
		return fmt.Errorf("%w: the list says %d bytes, at most %d", ErrIndex, pin.Length, trust.MaxIndex)
	}
	size, err := c.cfg.Blobs.Size(ctx, pin.SHA256)
	if err != nil {
		return fmt.Errorf("block index: %w", err)
	}
	if size != pin.Length {
		return fmt.Errorf("block index: %w: it has %d bytes, the list says %d", trust.ErrLength, size, pin.Length)
	}
	source, err := c.cfg.Blobs.Open(ctx, pin.SHA256)
	if err != nil {
		return fmt.Errorf("block index: %w", err)
	}
	defer source.Close()
	raw, err := io.ReadAll(trust.NewReader(source, pin.Length, pin.SHA256))
	if err != nil {
		return fmt.Errorf("block index: %w", err)
	}
	index, err := block.Read(raw, length)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIndex, err)
	}
	bytes, err := c.cfg.Blobs.Open(ctx, artifact)
	if err != nil {
		return err
	}
	defer bytes.Close()
	buffer := make([]byte, block.MaxBlock)
	for _, b := range index.Blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.ReadFull(bytes, buffer[:b.Length]); err != nil {
			return fmt.Errorf("read the artifact: %w", err)
		}
		if err := b.Check(buffer[:b.Length]); err != nil {
			return fmt.Errorf("%w: it is of other bytes: %w", ErrIndex, err)
		}
	}
	return nil
}

// fillIndexes notes the block indexes of releases that were added by a fleetd which did
// not: one of the version before, while both ran. It looked at no index, so that a wrong
// one may be among them: that is left out, and devices find out themselves.
func (c *Catalogue) fillIndexes(ctx context.Context) error {
	targets, err := c.newest(ctx, targetsFile)
	if err != nil || targets.Bytes == nil {
		return err
	}
	images, err := trust.ReadTargets(targets.Bytes)
	if err != nil {
		return fmt.Errorf("read the list of releases: %w", err)
	}
	known, err := c.releases(ctx)
	if err != nil {
		return err
	}
	for _, r := range known {
		image, ok := images.Lookup(r.Path)
		if !ok || r.Index != nil || image.Release.Index == nil {
			continue
		}
		if err := c.checkIndex(ctx, image.SHA256, image.Length, *image.Release.Index); err != nil {
			c.cfg.Log.Warn("release has no usable block index", "release", r.Path, "err", err)
			continue
		}
		if err := c.cfg.Store.NoteIndex(ctx, r.Path, *image.Release.Index); err != nil {
			return err
		}
		c.cfg.Log.Info("block index noted", "release", r.Path)
	}
	return nil
}
