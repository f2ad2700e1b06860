package deltas

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"groundswell/certs/trust"
	"groundswell/fleetd/fleet"
	"groundswell/internal/block"
	"groundswell/topics"
)

// Blobs is where artifacts lie.
type Blobs interface {
	Open(ctx context.Context, sha256 string) (io.ReadCloser, error)
	Put(ctx context.Context, sha256 string, length int64, source io.Reader) error
}

// Encoder makes deltas that make new from old, into out, which is empty. All are files that
// nobody else has; index is the block index of new; coder is fleet.CoderMixed or CoderZstd.
type Encoder interface {
	Encode(ctx context.Context, coder string, old, new, index, out *os.File) (Effort, error)
	// Expand makes one that looks through compression. It leaves out empty where none is
	// much smaller than the plain one, which has so many bytes.
	Expand(ctx context.Context, coder string, plain int64, old, new, index, out *os.File) (Effort, error)
	// Need is how many bytes of memory it takes at least for artifacts of so many bytes.
	Need(old, new int64) int64
}

// Effort is what a delta took.
type Effort struct {
	Peak int64 // bytes of memory; 0: not known
}

// worth is the share of what would be fetched without it that a delta may have at most,
// in per cent. More is not worth that the device reads what it runs.
const worth = 90

// try makes the delta of a job and stores it.
func (w *Worker) try(ctx context.Context, job fleet.DeltaJob) fleet.DeltaResult {
	began := time.Now()
	result := fleet.DeltaResult{State: fleet.DeltaFailed}
	if need := w.cfg.Encoder.Need(job.Source.Length, job.Target.Length); need > w.cfg.Memory {
		result.Error = fmt.Sprintf("it would need %d bytes of memory, deltas.memory allows %d", need, w.cfg.Memory)
		return result
	}
	coder, through, err := w.coder(ctx, job)
	if result.Coder = coder; err == nil {
		err = w.make(ctx, job, through, &result)
	}
	result.Seconds = time.Since(began).Seconds()
	if err != nil {
		result.State, result.Error, result.Again = fleet.DeltaFailed, err.Error(), !errors.Is(err, ErrMemory)
	}
	return result
}

// coder is how a delta is to be coded, and through whether one may look through compression:
// the rollout's word, or else that of the configuration.
func (w *Worker) coder(ctx context.Context, job fleet.DeltaJob) (coder string, through bool, err error) {
	coder, plain := strings.CutPrefix(job.Coder, fleet.CoderPlain)
	if coder == "" {
		coder = w.cfg.Coder
	}
	if coder != fleet.CoderAuto {
		return coder, !plain, nil
	}
	sleepy, err := w.cfg.Store.Sleepy(ctx, job.Source.SHA256)
	if sleepy {
		return fleet.CoderZstd, !plain, err
	}
	return fleet.CoderMixed, !plain, err
}

// leastThrough is how long looking through compression may take in any case, unless the
// job's time is over; else twice as long as the plain delta took. Other deltas wait
// meanwhile.
const leastThrough = 2 * time.Minute

// make makes the plain delta, which is to be known to devices before anything else is tried;
// or the one that looks through compression, if that is the job, or if the plain one is not
// worth its bytes and the other may be made (through).
func (w *Worker) make(ctx context.Context, job fleet.DeltaJob, through bool, result *fleet.DeltaResult) error {
	var files [4]*os.File
	for i := range files {
		f, err := w.scratch()
		if err != nil {
			return err
		}
		defer f.Close()
		files[i] = f
	}
	m := making{w, files[0], files[1], files[2], files[3], w.most(ctx, job), result}
	for _, c := range []struct {
		to *os.File
		d  topics.Document
	}{
		{m.old, topics.Document{Length: job.Source.Length, SHA256: job.Source.SHA256}},
		{m.target, topics.Document{Length: job.Target.Length, SHA256: job.Target.SHA256}},
		{m.index, job.Index},
	} {
		if err := w.fetch(ctx, c.to, c.d); err != nil {
			return fmt.Errorf("read %s: %w", c.d.SHA256, err)
		}
	}
	if job.Through {
		limit := max(leastThrough, time.Duration(2*job.Took*float64(time.Second))) * time.Duration(job.Attempt)
		return m.through(ctx, limit, job.Plain.Length)
	}
	began := time.Now()
	effort, err := w.cfg.Encoder.Encode(ctx, result.Coder, m.old, m.target, m.index, m.out)
	result.Peak = effort.Peak
	if err != nil {
		return err
	}
	if result.Delta, err = measure(ctx, m.out); err != nil {
		return err
	}
	if result.Delta.Length <= m.most {
		if err := w.store(ctx, m.out, result.Delta); err != nil {
			return err
		}
		result.State, result.Later = fleet.DeltaReady, true
		return nil
	}
	if !through { // until a rollout lets it be made
		result.State, result.Later = fleet.DeltaUseless, true
		return nil
	}
	limit := max(leastThrough, 2*time.Since(began))
	if end, bounded := ctx.Deadline(); bounded { // what is known by then is to be noted
		limit = min(limit, time.Until(end)/2)
	}
	if err := m.out.Truncate(0); err != nil {
		return err
	}
	err = m.through(ctx, limit, result.Delta.Length)
	if err != nil && ctx.Err() == nil {
		w.cfg.Log.Warn("a delta does not look through compression yet", "target", job.Target.SHA256, "source", job.Source.SHA256, "err", err)
		result.State, result.Later, err = fleet.DeltaUseless, true, nil
	}
	result.PlainUseless = result.State == fleet.DeltaReady
	return err
}

// most is how many bytes a delta may have to be worth them.
func (w *Worker) most(ctx context.Context, job fleet.DeltaJob) int64 {
	without := job.Target.Length
	if w.cfg.Packed != nil {
		if packed, ok := w.cfg.Packed(ctx, job.Target.SHA256); ok {
			without = min(without, packed)
		}
	}
	return without/100*worth + without%100*worth/100
}

// making is a delta at work: its files, how many bytes it may have, and what becomes of it.
type making struct {
	*Worker
	old, target, index, out *os.File
	most                    int64
	result                  *fleet.DeltaResult
}

// through makes a delta that looks through compression, within a time. It is useless if it
// saves too little. plain is how many bytes the other one has.
func (m making) through(ctx context.Context, limit time.Duration, plain int64) error {
	within, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w: %v to look through compression", ErrTimeout, limit))
	defer stop()
	if _, err := m.out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	effort, err := m.cfg.Encoder.Expand(within, m.result.Coder, plain, m.old, m.target, m.index, m.out)
	m.result.Peak = max(m.result.Peak, effort.Peak)
	if err != nil {
		return err
	}
	made, err := measure(ctx, m.out)
	if err != nil {
		return err
	}
	if m.result.State = fleet.DeltaUseless; made.Length == 0 || made.Length > m.most {
		return nil
	}
	if err := m.store(ctx, m.out, made); err != nil {
		return err
	}
	m.result.State, m.result.Expanded = fleet.DeltaReady, &made
	return nil
}

func (w *Worker) store(ctx context.Context, f *os.File, d topics.Document) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := w.cfg.Blobs.Put(ctx, d.SHA256, d.Length, f); err != nil {
		return fmt.Errorf("store the delta: %w", err)
	}
	return nil
}

// scratch makes a file that has no name any more, so that it is gone when fleetd is.
func (w *Worker) scratch() (*os.File, error) {
	f, err := os.CreateTemp(w.cfg.Dir, "groundswell-delta-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return f, nil
}

// fetch copies what d names to a file, and checks it.
func (w *Worker) fetch(ctx context.Context, to *os.File, d topics.Document) error {
	source, err := w.cfg.Blobs.Open(ctx, d.SHA256)
	if err != nil {
		return err
	}
	defer source.Close()
	if _, err := io.Copy(to, contextReader{ctx, trust.NewReader(source, d.Length, d.SHA256)}); err != nil {
		return err
	}
	_, err = to.Seek(0, io.SeekStart)
	return err
}

// measure is what a file is called and how long it is.
func measure(ctx context.Context, f *os.File) (d topics.Document, err error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return d, err
	}
	digest := sha256.New()
	d.Length, err = io.Copy(digest, contextReader{ctx, f})
	d.SHA256 = hex.EncodeToString(digest.Sum(nil))
	return d, err
}

// publish stores a delta index and has the manifests pin it.
func (w *Worker) publish(ctx context.Context, x topics.DeltaIndex) error {
	raw, err := topics.Encode(x)
	if err != nil {
		return fmt.Errorf("delta index of %s: %w", x.Artifact, err)
	}
	digest := sha256.Sum256(raw)
	pin := topics.Document{Length: int64(len(raw)), SHA256: hex.EncodeToString(digest[:])}
	// Before anybody is told of it.
	if err := w.cfg.Blobs.Put(ctx, pin.SHA256, pin.Length, bytes.NewReader(raw)); err != nil {
		return fmt.Errorf("store the delta index of %s: %w", x.Artifact, err)
	}
	if err := w.cfg.Store.PublishDeltas(ctx, x, pin); err != nil {
		return err
	}
	w.cfg.Log.Info("deltas published", "target", x.Artifact, "deltas", len(x.Deltas))
	return nil
}

// ends are where the segments of deltas to an artifact of that length end, by its block
// index.
func ends(index []byte, length int64) ([]int64, error) {
	x, err := block.Read(index, length)
	if err != nil {
		return nil, err
	}
	return x.Segments(), nil
}

type contextReader struct {
	ctx    context.Context
	source io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.source.Read(p)
}
