package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"groundswell/agent/wake"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// Artifact is what to download, all of it from verified metadata.
type Artifact struct {
	Length int64  // bytes
	SHA256 string // lower-case hex
	// Index pins its block index; nil: it has none. Deltas pins its delta index; nil:
	// it has none. Seed is what the device runs; nil: it cannot be read. Client.Artifact
	// needs none of them.
	Index, Deltas *topics.Document
	Seed          *Seed
	// Waits is called with what went wrong before each pause, however long that is. It
	// must not block. Nil: nobody wants to know.
	Waits func(why error)
	// Skipped is called with how many bytes came that were there already: of a source that
	// sends all of it where a part was asked for. progress does not tell of them. It must
	// not block. Nil: nobody wants to know.
	Skipped func(bytes int64)
}

// Interrupted calls Waits.
func (a Artifact) Interrupted(why error) {
	if a.Waits != nil {
		a.Waits(why)
	}
}

// Seed is an artifact that the device has, perhaps changed since.
type Seed struct {
	SHA256 string // lower-case hex
	Length int64  // bytes
	Open   func() (ReadAtCloser, error)
}

// ReadAtCloser is what a Seed is read by.
type ReadAtCloser interface {
	io.ReaderAt
	io.Closer
}

// maxWrong is how often a source may send whole but wrong bytes before it is
// no longer asked.
const maxWrong = 3

// Artifact downloads into the file at path, going on with what is there. It
// returns nil when the file is complete, verified and synced. It keeps trying
// while the sources fail; it gives up with ErrWrongBytes when each of them has
// sent whole but wrong bytes three times, with a disk's error (a full one is
// syscall.ENOSPC), with wake.ErrSpent when no more may be fetched now, by the wake or by
// the allowance, and with ctx's. progress, if not nil, gets the number of
// bytes that are there.
func (c *Client) Artifact(ctx context.Context, a Artifact, path string, progress func(int64)) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("download: %w", err)
	}
	defer file.Close() // synced before, or worth nothing
	d := &download{Artifact: a, client: c, file: file, progress: progress, wrong: map[string]int{}, whole: map[string]bool{}}
	for round := 0; ; {
		before := d.have
		d.least = d.client.least(a.Length, c.cfg.Stall)
		err := d.round(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if d.broken != nil {
			return fmt.Errorf("download: %w", d.broken)
		}
		if errors.Is(err, ErrWrongBytes) || errors.Is(err, wake.ErrSpent) {
			return fmt.Errorf("download: %w", err)
		}
		// It gets on, however slowly. A source that sends a byte and hangs up does
		// not count: all that is there is read again for each.
		if d.have-before >= d.least {
			round = 0
		}
		round++
		c.cfg.Log.Warn("download interrupted", "have", d.have, "of", a.Length, "round", round, "err", err)
		a.Interrupted(err)
		if err := c.Rest(ctx, round); err != nil {
			return err
		}
	}
}

// download is a file in the making.
type download struct {
	Artifact
	client *Client
	file   *os.File
	have   int64 // bytes in the file
	least  int64 // bytes that a source has to send within Config.Stall
	// owner is the source that sent all that is in the file; "": nobody knows, or
	// several did.
	owner string
	// mixed: what several had a part in was wrong, and nobody knows by whose fault.
	// From then on no source goes on with what another has begun.
	mixed    bool
	blamed   string          // owner of what was thrown away last
	broken   error           // of the disk: no source can mend it
	wrong    map[string]int  // by source: whole but wrong artifacts
	whole    map[string]bool // sources to be asked for all of it next time
	progress func(int64)
}

// round asks each source once, until the file is complete.
func (d *download) round(ctx context.Context) error {
	if done, err := d.complete(); done || err != nil {
		return err
	}
	sources := d.client.cfg.Sources()
	if len(sources) == 0 {
		return ErrNoSource
	}
	var failures []error
	for _, base := range d.order(sources) {
		if d.wrong[base] >= maxWrong {
			continue
		}
		err := d.from(ctx, base)
		if err == nil {
			return nil
		}
		if errors.Is(err, trust.ErrDigest) {
			if d.blamed == base {
				d.wrong[base]++
			} else {
				d.mixed = true
			}
		}
		failures = append(failures, fmt.Errorf("%s: %w", host(base), err))
		if ctx.Err() != nil || d.broken != nil || errors.Is(err, wake.ErrSpent) {
			break
		}
	}
	if len(failures) == 0 {
		return ErrWrongBytes
	}
	if err := d.spent(failures); err != nil {
		return err
	}
	return errors.Join(failures...)
}

// order is in which to ask the sources. Where each has to begin anew, the one whose
// part is there goes first, or those before it would throw it away.
func (d *download) order(sources []string) []string {
	if i := slices.Index(sources, d.owner); d.mixed && i > 0 {
		return slices.Concat(sources[i:i+1], sources[:i], sources[i+1:])
	}
	return sources
}
