package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"groundswell/agent/wake"
	"groundswell/certs/trust"
)

// Artifact is what to download: length in bytes and SHA-256 in lower-case hex,
// both from verified metadata.
type Artifact struct {
	Length int64
	SHA256 string
}

// maxWrong is how often a source may send whole but wrong bytes before it is
// no longer asked.
const maxWrong = 3

// Artifact downloads into the file at path, going on with what is there. It
// returns nil when the file is complete, verified and synced. It keeps trying
// while the sources fail; it gives up with ErrWrongBytes when each of them has
// sent whole but wrong bytes three times, with a disk's error (a full one is
// syscall.ENOSPC), with wake.ErrSpent when no more may be fetched now, and with
// ctx's. progress, if not nil, gets the number of
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
		if d.have > before {
			round = 0 // it gets on, however slowly
		}
		round++
		c.cfg.Log.Warn("download interrupted", "have", d.have, "of", a.Length, "round", round, "err", err)
		if err := c.Pause(ctx, round); err != nil {
			return err
		}
	}
}

// download is a file in the making.
type download struct {
	Artifact
	client   *Client
	file     *os.File
	have     int64          // bytes in the file
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
	for _, base := range sources {
		if d.wrong[base] >= maxWrong {
			continue
		}
		err := d.from(ctx, base)
		if err == nil {
			return nil
		}
		if errors.Is(err, trust.ErrDigest) {
			d.wrong[base]++
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
			return true, d.disk(d.file.Sync())
		}
	}
	return false, d.restart()
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
	d.have = 0
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
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if err := d.checkRange(resp, end); err != nil {
			return err
		}
	case http.StatusOK:
		// It does not do ranges, or has another idea of what it sends.
		if resp.ContentLength >= 0 && resp.ContentLength != d.Length {
			return fmt.Errorf("it has %d bytes instead of %d", resp.ContentLength, d.Length)
		}
		if err := d.restart(); err != nil {
			return err
		}
	case http.StatusRequestedRangeNotSatisfiable:
		if err := d.restart(); err != nil {
			return err
		}
		return errors.New("it does not have the range")
	default:
		return statusError(base, resp)
	}
	return d.copy(resp.Body, cancel)
}

// end is up to where may be fetched now: the artifact's length, or less, but more than
// is there.
func (d *download) end() (int64, error) {
	left, limited := d.client.cfg.Wake.Left()
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

// copy writes the body to the file. Whole but wrong bytes are thrown away; a
// part is kept for next time.
func (d *download) copy(body io.Reader, cancel context.CancelCauseFunc) error {
	stall := d.client.cfg.Stall
	watchdog := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer watchdog.Stop()
	reader := trust.NewReader(body, d.Length, d.SHA256)
	if err := d.prefix(reader); err != nil {
		return err
	}
	buffer := make([]byte, 128<<10)
	for {
		n, err := reader.Read(buffer)
		if n > 0 {
			watchdog.Reset(stall)
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
		if left, limited := d.client.cfg.Wake.Left(); limited && left == 0 && d.have < d.Length {
			return errors.Join(wake.ErrSpent, d.disk(d.file.Sync()))
		}
		switch {
		case err == io.EOF:
			return d.disk(d.file.Sync())
		case errors.Is(err, trust.ErrDigest):
			return errors.Join(err, d.restart())
		case err != nil:
			// Sent too little, too much, or nothing any more.
			if d.have < d.Length {
				_ = d.file.Sync() // best effort: the part is hashed again
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

var errStalled = errors.New("no bytes for too long")
