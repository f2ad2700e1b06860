package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"groundswell/agent/wake"
	"groundswell/certs/trust"
)

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
	header := d.asked(end)
	if d.whole[base] {
		if err := d.worth(); err != nil {
			return err
		}
		delete(d.whole, base) // the time after that it may do ranges again
		header = nil
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
		if err := d.checkRange(resp, header, end); err != nil {
			return err
		}
	case http.StatusOK:
		// It does not do ranges, or has another idea of what it sends. What is there
		// stays: whoever answers so must not undo what another has sent.
		if resp.ContentLength >= 0 && resp.ContentLength != d.Length {
			return fmt.Errorf("it has %d bytes instead of %d", resp.ContentLength, d.Length)
		}
		if err := d.worth(); err != nil {
			d.whole[base] = true
			return err
		}
		skip = d.have
	case http.StatusRequestedRangeNotSatisfiable:
		// Each range that is asked for lies within the artifact: this says nothing about
		// what is there.
		d.whole[base] = true
		return fmt.Errorf("%w: it does not have the range", ErrRange)
	default:
		return statusError(base, resp)
	}
	if d.have == 0 {
		d.owner = base
	} else if d.owner != base {
		d.owner = "" // several
	}
	body := &rated{body: resp.Body, slow: func() { cancel(ErrSlow) }, stall: d.client.cfg.Stall, least: d.least}
	if err = d.copy(body, skip); errors.Is(err, trust.ErrDigest) {
		return err
	}
	return body.judge(ctx, err)
}

// asked are the headers that ask for what is missing before end.
func (d *download) asked(end int64) http.Header {
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
	return header
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

// errAgain: a source would send nothing but what is there.
var errAgain = errors.New("it sends no ranges")

// worth is errAgain where all that may be fetched now would be what is there already, from a
// source that sends all of it.
func (d *download) worth() error {
	if left, limited := d.client.Left(); limited && left <= d.have {
		return fmt.Errorf("%w: %d bytes are there, and it would send them again, of %d that may come now", errAgain, d.have, left)
	}
	return nil
}

// spent is wake.ErrSpent where the sources would use up the budget of this wake for nothing: it
// is over then, or a device that sleeps would stay awake for it.
func (d *download) spent(failures []error) error {
	if slices.ContainsFunc(failures, func(err error) bool { return !errors.Is(err, errAgain) }) {
		return nil
	}
	left, limited := d.client.cfg.Wake.Left()
	if !limited {
		return nil // it is the day's: whoever is awake waits for the next
	}
	d.client.cfg.Wake.Spent(left)
	return fmt.Errorf("%w: %w", wake.ErrSpent, errors.Join(failures...))
}

// checkRange refuses any range but what was asked for of exactly this artifact.
func (d *download) checkRange(resp *http.Response, asked http.Header, end int64) error {
	want := fmt.Sprintf("bytes %d-%d/%d", d.have, end-1, d.Length)
	if got := resp.Header.Values("Content-Range"); asked.Get("Range") == "" || len(got) != 1 || got[0] != want {
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
	if err := d.skip(body, skip); err != nil {
		return err
	}
	reader := trust.NewReader(body, d.Length, d.SHA256)
	if err := d.prefix(reader); err != nil {
		return err
	}
	buffer := make([]byte, 128<<10)
	for {
		room := int64(len(buffer))
		if left, limited := d.client.Left(); limited {
			room = max(1, min(room, left)) // the reader sees the end only if it is asked for a byte
		}
		n, err := reader.Read(buffer[:room])
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

// skip reads n bytes that are there already. They have come all the same, and are counted.
func (d *download) skip(body io.Reader, n int64) error {
	buffer := make([]byte, 32<<10)
	for n > 0 {
		k, err := body.Read(buffer[:min(n, int64(len(buffer)))])
		n -= int64(k)
		d.client.cfg.Wake.Spent(int64(k))
		if d.Skipped != nil {
			d.Skipped(int64(k))
		}
		if left, limited := d.client.Left(); limited && left == 0 {
			return wake.ErrSpent
		}
		switch {
		case err == io.EOF && n > 0:
			return io.ErrUnexpectedEOF
		case err != nil && n > 0:
			return err
		}
	}
	return nil
}
