package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/wake"
	"groundswell/internal/backoff"
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
	// the next MinRate x Stall bytes. Metadata has twice that for an answer and the first
	// 2 x MinRate x Stall bytes, and again for the next. Time in which nobody waits, since
	// what came is being used, does not count. Default 30 s.
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
