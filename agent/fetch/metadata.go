package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"groundswell/certs/trust"
	"groundswell/topics"
)

// Root fetches version n of a repository's root, from the first source that
// sends one that is accepted. ErrNotFound when there is none (yet).
func (c *Client) Root(ctx context.Context, repo trust.Repository, n int64, accept func([]byte) error) error {
	return c.metadata(ctx, fmt.Sprintf("repository/%s/%d.root.json", repo, n), "", trust.MaxRoot, accept)
}

// Snapshot fetches the snapshot that a manifest pins.
func (c *Client) Snapshot(ctx context.Context, pin topics.SnapshotPin, accept func([]byte) error) error {
	return c.metadata(ctx, fmt.Sprintf("repository/image/%d.snapshot.json", pin.Version), "", min(pin.Length, trust.MaxSnapshot), accept)
}

// Targets fetches the list of releases that a snapshot names.
func (c *Client) Targets(ctx context.Context, pin trust.TargetsPin, accept func([]byte) error) error {
	return c.metadata(ctx, fmt.Sprintf("repository/image/%d.targets.json", pin.Version), "", min(pin.Length, trust.MaxTargets), accept)
}

// metadata asks each source once, until what one sent is accepted. Otherwise the
// error is ErrNotFound when no source has the file, ErrUnsure when at least one
// has it not, and what it was refused for only when every source was refused:
// what another source would have sent may be good. It is ErrRefused besides when what
// was refused looks like metadata (JSON: not what a portal sends in place of all pages), and
// none says that it has it not. Of the time that ctx leaves each source has its share, so that
// who says nothing does not speak for the others; a long list has all of it. digest is the
// SHA-256 that the file is named by, in lower-case hex; "": it is not.
func (c *Client) metadata(ctx context.Context, path, digest string, limit int64, accept func([]byte) error) error {
	sources := c.cfg.Sources()
	if len(sources) == 0 {
		return ErrNoSource
	}
	var refusals, failures []error
	missing, metadata := 0, false // what was refused looks like some
	for i, base := range sources {
		within, cancel := ctx, context.CancelFunc(func() {})
		if end, ok := ctx.Deadline(); ok && limit <= trust.MaxRoot {
			within, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(len(sources)-i))
		}
		data, err := c.small(within, base, path, digest, limit)
		cancel()
		switch {
		case err == nil:
			if err = accept(data); err == nil {
				return nil
			}
			refusals = append(refusals, fmt.Errorf("%s: %w", host(base), err))
			metadata = metadata || json.Valid(data)
		case errors.Is(err, ErrNotFound):
			missing++
		case errors.Is(err, ErrTooLarge), errors.Is(err, ErrEncoding):
			refusals = append(refusals, err)
		default:
			failures = append(failures, err)
		}
	}
	refused, others := errors.Join(refusals...), len(failures) > 0
	if metadata {
		failures = append(failures, ErrRefused)
	}
	switch {
	case missing == len(sources):
		return fmt.Errorf("%s: %w", path, ErrNotFound)
	case missing > 0:
		return fmt.Errorf("%s: %w: %v", path, ErrUnsure, errors.Join(refused, errors.Join(failures...)))
	case refused != nil && others:
		return fmt.Errorf("fetch %s: %w: %v", path, errors.Join(failures...), refused)
	case refused != nil:
		return fmt.Errorf("fetch %s: %w", path, errors.Join(append(failures, refused)...))
	}
	return fmt.Errorf("fetch %s: %w", path, errors.Join(failures...))
}

// small fetches what has at most limit bytes. A source has to send MinRate bytes a second as
// it has for artifacts, but over twice Stall, the time until it answers included: so what is
// short has that, and nothing more than limit/MinRate besides.
func (c *Client) small(ctx context.Context, base, path, digest string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	within := 2 * c.cfg.Stall
	body := &rated{slow: func() { cancel(ErrSlow) }, stall: within, least: c.least(limit+1, within)} // all of it earns no more time
	var resp *http.Response
	var err error
	body.wait(func() { resp, err = c.get(ctx, base, path, nil) })
	if err = body.judge(ctx, err); errors.Is(err, ErrSlow) {
		return nil, fmt.Errorf("%s: %w", host(base), err)
	} else if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(base, resp)
	}
	if err := plain(resp); err != nil {
		return nil, fmt.Errorf("%s: %w", host(base), err)
	}
	body.body = io.LimitReader(resp.Body, limit+1)
	data, err := io.ReadAll(body)
	c.cfg.Wake.Spent(int64(len(data)))
	if err == nil {
		err = ctx.Err() // a source that sees its peer leave may end properly what it has not sent
	}
	if err = body.judge(ctx, err); err != nil && digest != "" && int64(len(data)) >= body.least {
		data, err = c.rest(ctx, base, Object{Path: path, Tag: digest, Length: limit}, data, body.least, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", host(base), err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", host(base), ErrTooLarge, limit)
	}
	return data, nil
}

// rest goes on with an object of which a source had sent some when err ended it, for as long
// as it sends at least so many bytes each time: links break. A source that is too slow is left.
func (c *Client) rest(ctx context.Context, base string, o Object, data []byte, least int64, err error) ([]byte, error) {
	for came := least; err != nil && !errors.Is(err, ErrSlow) && ctx.Err() == nil && came >= least && int64(len(data)) < o.Length; {
		part, errRange := c.Range(ctx, base, o, int64(len(data)), o.Length)
		if errRange != nil {
			return nil, errors.Join(err, errRange)
		}
		var more []byte
		more, err = io.ReadAll(part) // counted by part
		_ = part.Close()             // nothing is lost
		came, data = int64(len(more)), append(data, more...)
	}
	return data, err
}
