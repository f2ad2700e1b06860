package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

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
	d := &download{Artifact: a, client: c, file: file, progress: progress, wrong: map[string]int{}}
	for round := 0; ; {
		before := d.have
		d.least = d.client.least(a.Length)
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
	blamed   string         // owner of what was thrown away last
	broken   error          // of the disk: no source can mend it
	wrong    map[string]int // by source: whole but wrong artifacts
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

// complete hashes the file when it is long enough to be all, and empties it
// when it is too long or wrong.
func (d *download) complete() (bool, error) {
	info, err := d.file.Stat()
	if err != nil {
		return false, d.disk(err)
	}
	d.have = info.Size()
	if d.have < d.Length {
		return false, nil
	}
	if d.have == d.Length {
		reader := trust.NewReader(eof{}, d.Length, d.SHA256)
		if err := d.prefix(reader); err != nil {
			return false, err
		}
		if _, err := reader.Read(make([]byte, 1)); err == io.EOF {
			return true, d.sync()
		}
	}
	return false, d.restart()
}

// sync makes the file durable. Where that fails, what was written may never get onto the
// disk, though it is read: it is thrown away.
func (d *download) sync() error {
	err := d.disk(d.file.Sync())
	if err != nil {
		_ = d.file.Truncate(0) // a disk that fails may refuse this as well
	}
	return err
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// prefix feeds what is in the file to the reader and leaves the file's position
// behind it.
func (d *download) prefix(reader *trust.Reader) error {
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return d.disk(err)
	}
	n, err := reader.Prefix(d.file)
	if err != nil {
		return d.disk(err)
	}
	d.have = n
	return nil
}

// restart throws away what is there.
func (d *download) restart() error {
	if err := d.file.Truncate(0); err != nil {
		return d.disk(err)
	}
	d.have, d.blamed, d.owner = 0, d.owner, ""
	_, err := d.file.Seek(0, io.SeekStart)
	return d.disk(err)
}

// disk remembers an error that no source can mend.
func (d *download) disk(err error) error {
	if err != nil {
		d.broken = err
	}
	return err
}

// from takes from one source what it gives.
func (d *download) from(ctx context.Context, base string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if d.mixed && d.have > 0 && d.owner != base {
		if err := d.restart(); err != nil {
			return err
		}
	}
	end, err := d.end()
	if err != nil {
		return err
	}
	header := http.Header{}
	if end < d.Length {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", d.have, end-1))
	} else if d.have > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.have))
	}
	if d.have > 0 {
		// Without it a source that has something else by now would send the
		// rest of that. The tag is strong and known: the digest.
		header.Set("If-Range", `"`+d.SHA256+`"`)
	}
	resp, err := d.client.get(ctx, base, "artifacts/"+d.SHA256, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := plain(resp); err != nil && resp.StatusCode/100 == 2 {
		return err
	}
	skip := int64(0)
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if err := d.checkRange(resp, end); err != nil {
			return err
		}
	case http.StatusOK:
		// It does not do ranges, or has another idea of what it sends. What is there
		// stays: whoever answers so must not undo what another has sent.
		if resp.ContentLength >= 0 && resp.ContentLength != d.Length {
			return fmt.Errorf("it has %d bytes instead of %d", resp.ContentLength, d.Length)
		}
		skip = d.have
	case http.StatusRequestedRangeNotSatisfiable:
		if d.owner == base || d.owner == "" {
			if err := d.restart(); err != nil {
				return err
			}
		}
		return errors.New("it does not have the range")
	default:
		return statusError(base, resp)
	}
	if d.have == 0 {
		d.owner = base
	} else if d.owner != base {
		d.owner = "" // several
	}
	stall := d.client.cfg.Stall
	body := &rated{Reader: resp.Body, stall: stall, least: d.least, watchdog: time.AfterFunc(stall, func() { cancel(ErrSlow) })}
	defer body.watchdog.Stop()
	if err = d.copy(body, skip); err != nil && context.Cause(ctx) == ErrSlow && !errors.Is(err, trust.ErrDigest) {
		err = fmt.Errorf("%w: fewer than %d bytes in %v", ErrSlow, d.least, stall)
	}
	return err
}

// rated puts the watchdog off whenever least bytes have come.
type rated struct {
	io.Reader
	watchdog     *time.Timer
	stall        time.Duration
	since, least int64
}

func (r *rated) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.since += int64(n); r.since >= r.least {
		r.watchdog.Reset(r.stall)
		r.since = 0
	}
	return n, err
}

// end is up to where may be fetched now: the artifact's length, or less, but more than
// is there.
func (d *download) end() (int64, error) {
	left, limited := d.client.Left()
	switch {
	case !limited:
		return d.Length, nil
	case left == 0:
		return 0, wake.ErrSpent
	}
	return min(d.Length, d.have+left), nil
}

// checkRange refuses any range but what was asked for of exactly this artifact.
func (d *download) checkRange(resp *http.Response, end int64) error {
	want := fmt.Sprintf("bytes %d-%d/%d", d.have, end-1, d.Length)
	if got := resp.Header.Values("Content-Range"); d.have == 0 && end == d.Length || len(got) != 1 || got[0] != want {
		return fmt.Errorf("it sent the range %.80q instead of %q", got, want)
	}
	if tag := resp.Header.Get("ETag"); tag != "" && tag != `"`+d.SHA256+`"` {
		return fmt.Errorf("it sent the rest of something else, tagged %.80s", tag)
	}
	if n := resp.ContentLength; n >= 0 && n != end-d.have {
		return fmt.Errorf("it sent %d bytes of a range of %d", n, end-d.have)
	}
	return nil
}

// copy writes the body to the file, but for what it begins with and is there
// already. Whole but wrong bytes are thrown away; a part is kept for next time.
func (d *download) copy(body io.Reader, skip int64) error {
	if _, err := io.CopyN(io.Discard, body, skip); err != nil {
		return err
	}
	reader := trust.NewReader(body, d.Length, d.SHA256)
	if err := d.prefix(reader); err != nil {
		return err
	}
	buffer := make([]byte, 128<<10)
	for {
		n, err := reader.Read(buffer)
		if n > 0 {
			if _, errDisk := d.file.Write(buffer[:n]); errDisk != nil {
				return d.disk(errDisk)
			}
			d.have += int64(n)
			d.client.cfg.Wake.Spent(int64(n))
			if d.progress != nil {
				d.progress(d.have)
			}
		}
		// A source that does not do ranges would send the rest as well.
		if left, limited := d.client.Left(); limited && left == 0 && d.have < d.Length {
			return errors.Join(wake.ErrSpent, d.sync())
		}
		switch {
		case err == io.EOF:
			return d.sync()
		case errors.Is(err, trust.ErrDigest):
			return errors.Join(err, d.restart())
		case err != nil:
			// Sent too little, too much, or nothing any more.
			if d.have < d.Length {
				_ = d.sync() // the part is hashed again
				return err
			}
			done, errDisk := d.complete()
			if done || errDisk != nil {
				return errDisk
			}
			return fmt.Errorf("%w: %w", trust.ErrDigest, err)
		}
	}
}
