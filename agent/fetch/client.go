package fetch

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/wake"
	"groundswell/certs/trust"
	"groundswell/internal/backoff"
	"groundswell/topics"
)

var (
	// ErrNotFound: no source has it.
	ErrNotFound = errors.New("no source has it")
	// ErrNoSource: no source is configured or assigned.
	ErrNoSource = errors.New("no source to fetch from")
	// ErrTooLarge: a source sent more than the bytes that may be there.
	ErrTooLarge = errors.New("source sent too much")
	// ErrWrongBytes: every source sent whole artifacts that were wrong.
	ErrWrongBytes = errors.New("sources have other bytes")
	// ErrAnother: each block is as the index says, and the whole is not as the release says.
	ErrAnother = errors.New("the blocks of the index make another artifact")
	// ErrUnsure: a source says that it does not have it, and what the others would
	// say is not known: they did not answer, or with something that was refused.
	ErrUnsure = errors.New("not every source could be asked")
	// ErrRefused: a source has sent metadata, and it was refused; others could not be
	// asked, or were refused as well.
	ErrRefused = errors.New("what a source sent was refused")
	// ErrSlow: a source sent too little for too long.
	ErrSlow = errors.New("source is too slow")
	// ErrEncoding: a source sent something compressed that was not asked for.
	ErrEncoding = errors.New("source sent a content encoding")
)

// Config is everything about fetching. The zero values of durations mean the
// defaults.
type Config struct {
	// Sources returns base URLs in order of preference. It is asked again for
	// every attempt.
	Sources func() []string
	// TLS is for https sources. Nil means the library's defaults.
	TLS *tls.Config
	// Backoff between rounds over all sources: from 0 to min(Max, Min x 2^n).
	// Default 1 s to 5 min.
	BackoffMin, BackoffMax time.Duration
	// Stall is the longest wait for a connection, for an answer to begin, and for
	// the next MinRate x Stall bytes. Default 30 s.
	Stall time.Duration
	// MinRate is how many bytes a second a source has to send, on average over
	// Stall, before the next source is asked. What it has sent is kept, so a link
	// that is slower still gets everything in the end. Default 1,024.
	MinRate int64
	// Wake says how much may be fetched now; nil: any amount. Metadata counts, but
	// is fetched whatever is left: it is short, and may be what a device needs to
	// recover.
	Wake *wake.Wake
	// Allowance says how fast, when and how much in a day may be fetched; nil: there are
	// no limits. For metadata as above, but that it comes no faster.
	Allowance *allowance.Allowance
	Log       *slog.Logger
}

// Client fetches. It is safe for concurrent use, but for two downloads to one
// file.
type Client struct {
	cfg   Config
	http  *http.Client
	alone alone
}

// New does no I/O.
func New(cfg Config) *Client {
	or := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	or(&cfg.BackoffMin, time.Second)
	or(&cfg.BackoffMax, 5*time.Minute)
	or(&cfg.Stall, 30*time.Second)
	if cfg.MinRate <= 0 {
		cfg.MinRate = 1024
	}
	// A source is not too slow for what the device takes no faster, several downloads
	// together.
	if r := cfg.Allowance.Rate(); r > 0 {
		cfg.MinRate = min(cfg.MinRate, max(1, r/4))
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	transport := &http.Transport{
		DialContext:            cfg.Allowance.DialContext(net.Dialer{Timeout: cfg.Stall}),
		TLSClientConfig:        cfg.TLS,
		TLSHandshakeTimeout:    cfg.Stall,
		ResponseHeaderTimeout:  cfg.Stall,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // lengths and ranges are of the bytes as they are
		Proxy:                  http.ProxyFromEnvironment,
	}
	return &Client{cfg: cfg, http: &http.Client{Transport: transport, CheckRedirect: redirect}}
}

// redirect allows a few, never from https to http.
func redirect(req *http.Request, via []*http.Request) error {
	if len(via) > 3 {
		return errors.New("too many redirects")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("redirect from https to " + req.URL.Scheme)
	}
	return nil
}

// least is how many bytes of length a source has to send within some time.
func (c *Client) least(length int64, within time.Duration) int64 {
	return max(1, min(length, int64(float64(c.cfg.MinRate)*within.Seconds())))
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Root fetches version n of a repository's root, from the first source that
// sends one that is accepted. ErrNotFound when there is none (yet).
func (c *Client) Root(ctx context.Context, repo trust.Repository, n int64, accept func([]byte) error) error {
	return c.metadata(ctx, fmt.Sprintf("repository/%s/%d.root.json", repo, n), trust.MaxRoot, accept)
}

// Snapshot fetches the snapshot that a manifest pins.
func (c *Client) Snapshot(ctx context.Context, pin topics.SnapshotPin, accept func([]byte) error) error {
	return c.metadata(ctx, fmt.Sprintf("repository/image/%d.snapshot.json", pin.Version), min(pin.Length, trust.MaxSnapshot), accept)
}

// Targets fetches the list of releases that a snapshot names.
func (c *Client) Targets(ctx context.Context, pin trust.TargetsPin, accept func([]byte) error) error {
	return c.metadata(ctx, fmt.Sprintf("repository/image/%d.targets.json", pin.Version), min(pin.Length, trust.MaxTargets), accept)
}

// metadata asks each source once, until what one sent is accepted. Otherwise the
// error is ErrNotFound when no source has the file, ErrUnsure when at least one
// has it not, and what it was refused for only when every source was refused:
// what another source would have sent may be good. It is ErrRefused besides when what
// was refused looks like metadata (JSON: not what a portal sends in place of all pages), and
// none says that it has it not. Of the time that ctx leaves each source has its share, so that
// who says nothing does not speak for the others; a long list has all of it.
func (c *Client) metadata(ctx context.Context, path string, limit int64, accept func([]byte) error) error {
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
		data, err := c.small(within, base, path, limit)
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

func (c *Client) small(ctx context.Context, base, path string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience(limit))
	defer cancel()
	resp, err := c.get(ctx, base, path, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, statusError(base, resp)
	}
	if err := plain(resp); err != nil {
		return nil, fmt.Errorf("%s: %w", host(base), err)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	c.cfg.Wake.Spent(int64(len(data)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", host(base), err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", host(base), ErrTooLarge, limit)
	}
	return data, nil
}

// patience is how long a short file may take that has at most limit bytes.
func (c *Client) patience(limit int64) time.Duration {
	patience := 2 * c.cfg.Stall
	if r := c.cfg.Allowance.Rate(); r > 0 {
		patience += time.Duration(float64(limit) / float64(r) * 4 * float64(time.Second))
	}
	return patience
}

func (c *Client) get(ctx context.Context, base, path string, header http.Header) (*http.Response, error) {
	if err := c.alone.ask(base, path); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "groundswell-agent")
	resp, err := c.http.Do(req)
	if err == nil {
		c.alone.note(base, path, resp)
	}
	return resp, err
}

// plain is ErrEncoding for an answer that says it is compressed: "identity" was
// asked for, and nothing is ever unpacked before it is verified.
func plain(resp *http.Response) error {
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return fmt.Errorf("%w: %.40q", ErrEncoding, encoding)
	}
	return nil
}

// statusError is what an unexpected answer means. It wraps ErrNotFound for 404
// and 410.
func statusError(base string, resp *http.Response) error {
	if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone {
		return fmt.Errorf("%s: %w", host(base), ErrNotFound)
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		return busy(base, resp)
	}
	return fmt.Errorf("%s answers %d", host(base), resp.StatusCode)
}

// host names a source in errors without what a URL may hold besides.
func host(base string) string {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" {
		return "source"
	}
	return u.Host
}

// Pause waits before round n (from 0) of something that failed: nothing before
// the first, then a random time from 0 to min(BackoffMax, BackoffMin x 2^(n-1)).
// It returns ctx's error when that ends first.
func (c *Client) Pause(ctx context.Context, n int) error {
	if n == 0 {
		return ctx.Err()
	}
	return backoff.Range{Min: c.cfg.BackoffMin, Max: c.cfg.BackoffMax}.Pause(ctx, n)
}
