package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"groundswell/topics"
)

var (
	// ErrRange: a source sent another range than was asked for, or none.
	ErrRange = errors.New("source does not send the range")
	// ErrCut: a range ended before its end.
	ErrCut = errors.New("source stopped sending")
)

// Sources are the base URLs to ask, in order of preference.
func (c *Client) Sources() []string { return c.cfg.Sources() }

// Left is how many bytes may still be fetched now, by the wake and by the allowance;
// limited is false when any number may be.
func (c *Client) Left() (bytes int64, limited bool) {
	bytes, limited = c.cfg.Wake.Left()
	if allowed, too := c.cfg.Allowance.Left(); too && (!limited || allowed < bytes) {
		return allowed, true
	}
	return bytes, limited
}

// Sleeps reports whether the device sleeps between its wakes.
func (c *Client) Sleeps() bool {
	sleeps, _ := c.cfg.Wake.Sleeps()
	return sleeps
}

// Metered reports whether the link costs by the byte, by the allowance.
func (c *Client) Metered() bool { return c.cfg.Allowance.Metered() }

// Document fetches a document by its digest, from the first source that has it, and
// returns it verified. Where a link breaks it goes on with the rest, but never with that of
// another source. ErrNotFound when no source has it.
func (c *Client) Document(ctx context.Context, d topics.Document) ([]byte, error) {
	var raw []byte
	err := c.metadata(ctx, "artifacts/"+d.SHA256, d.SHA256, d.Length, func(data []byte) error {
		if sum := sha256.Sum256(data); int64(len(data)) != d.Length || hex.EncodeToString(sum[:]) != d.SHA256 {
			return fmt.Errorf("%w: %d bytes that are not the document", ErrWrongBytes, len(data))
		}
		raw = data
		return nil
	})
	return raw, err
}

// Table fetches how long the packed blocks of an artifact are, at most limit bytes.
// Nobody has signed it.
func (c *Client) Table(ctx context.Context, artifact string, limit int64, accept func([]byte) error) error {
	return c.metadata(ctx, "packs/"+artifact+"/table", "", limit, accept)
}

// IndexDelta fetches what makes a block index of another one, both by their digests, at most
// limit bytes. Nobody has signed it. ErrNotFound where no source has it.
func (c *Client) IndexDelta(ctx context.Context, index, from string, limit int64, accept func([]byte) error) error {
	return c.metadata(ctx, "indexes/"+index+"/from/"+from, "", limit, accept)
}

// Object is something by whose name alone its bytes are known, so that any part of it
// may come from anybody.
type Object struct {
	Path   string // below a source
	Tag    string // strong ETag without its quotes
	Length int64  // bytes
}

// Range asks one source for the bytes [from, to) of an object. The reader gives exactly
// these, or an error: ErrRange, ErrCut, ErrSlow, ErrEncoding. Whoever is done with it
// closes it.
func (c *Client) Range(ctx context.Context, base string, o Object, from, to int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	header := http.Header{}
	header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	header.Set("If-Range", `"`+o.Tag+`"`)
	resp, err := c.get(ctx, base, o.Path, header)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if err := checkPart(base, resp, o, from, to); err != nil {
		cancel(nil)
		resp.Body.Close()
		return nil, fmt.Errorf("%s: %w", host(base), err)
	}
	body := &rated{body: io.LimitReader(resp.Body, to-from), slow: func() { cancel(ErrSlow) }, stall: c.cfg.Stall, least: c.least(to-from, c.cfg.Stall)}
	return &part{ctx: ctx, cancel: cancel, client: c, rated: body, body: resp.Body, left: to - from}, nil
}

func checkPart(base string, resp *http.Response, o Object, from, to int64) error {
	switch {
	case resp.StatusCode == http.StatusPartialContent:
		want := fmt.Sprintf("bytes %d-%d/%d", from, to-1, o.Length)
		if got := resp.Header.Values("Content-Range"); len(got) != 1 || got[0] != want {
			return fmt.Errorf("%w: it sent %.80q instead of %q", ErrRange, strings.Join(got, ", "), want)
		}
	case resp.StatusCode == http.StatusOK && from == 0 && to == o.Length:
	case resp.StatusCode == http.StatusOK && resp.Header.Get("ETag") != `"`+o.Tag+`"` && resp.ContentLength >= 0 && resp.ContentLength != o.Length:
		// A portal, as like as not: it says nothing about the source.
		return errors.New("it answers with something else")
	case resp.StatusCode/100 == 2, resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%w: it answers %d", ErrRange, resp.StatusCode)
	default:
		return statusError(base, resp)
	}
	if err := plain(resp); err != nil {
		return err
	}
	if tag := resp.Header.Get("ETag"); tag != "" && tag != `"`+o.Tag+`"` {
		return fmt.Errorf("%w: it has something else, tagged %.80s", ErrRange, tag)
	}
	if n := resp.ContentLength; n >= 0 && n != to-from {
		return fmt.Errorf("%w: it sends %d bytes of %d", ErrRange, n, to-from)
	}
	return nil
}

// part is a range on its way.
type part struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	client *Client
	rated  *rated
	body   io.ReadCloser
	left   int64
}

func (p *part) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n, err := p.rated.Read(b)
	p.left -= int64(n)
	p.client.cfg.Wake.Spent(int64(n))
	switch {
	case p.left == 0:
		err = nil
	case err == nil:
	case context.Cause(p.ctx) == ErrSlow:
		err = p.rated.judge(p.ctx, err)
	case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%w: %d bytes before the end", ErrCut, p.left)
	}
	return n, err
}

func (p *part) Close() error {
	p.cancel(nil)
	return p.body.Close()
}
