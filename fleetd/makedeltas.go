package main

import (
	"context"
	"io"
	"log/slog"

	"groundswell/fleetd/artifact"
	"groundswell/fleetd/deltas"
	"groundswell/fleetd/store"
	"groundswell/internal/ops"
)

// newDeltas makes the worker that makes deltas; nil when others do, or nobody.
func newDeltas(cfg Config, db *store.Store, blobs *artifact.Blobs, packs *artifact.Packs, name string, metrics *ops.Registry, log *slog.Logger) *deltas.Worker {
	if cfg.Deltas.PerRelease == 0 || cfg.Deltas.Jobs == 0 {
		return nil
	}
	d := cfg.Deltas
	return deltas.New(deltas.Config{
		Store: db, Blobs: deltaBlobs{blobs}, Encoder: deltas.Child{CPUs: d.cpus(), Memory: d.Memory}, Coder: d.Coder,
		Packed: packed(packs), Jobs: d.Jobs, Memory: d.Memory, Timeout: d.Timeout, Dir: d.Dir, Holder: name, PublishEvery: d.PublishEvery, Metrics: metrics, Log: log,
	})
}

// deltaBlobs makes artifact.Blobs what a worker takes.
type deltaBlobs struct{ blobs *artifact.Blobs }

func (b deltaBlobs) Open(ctx context.Context, sha256 string) (io.ReadCloser, error) {
	return b.blobs.Open(ctx, sha256)
}

func (b deltaBlobs) Put(ctx context.Context, sha256 string, length int64, source io.Reader) error {
	_, err := b.blobs.Put(ctx, sha256, length, source)
	return err
}

// packed says how many bytes an artifact has when its blocks are fetched packed; not ok
// if they are not packed yet.
func packed(packs *artifact.Packs) func(ctx context.Context, sha256 string) (int64, bool) {
	return func(ctx context.Context, sha256 string) (int64, bool) {
		n, err := packs.Length(ctx, sha256)
		return n, err == nil
	}
}

// indexDelta says how long the delta between two block indexes is.
func indexDelta(deltas *artifact.IndexDeltas) func(ctx context.Context, new, old string) (int64, bool) {
	return func(ctx context.Context, new, old string) (int64, bool) {
		n, err := deltas.Length(ctx, new, old)
		return n, err == nil
	}
}
