package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"groundswell/agent/clock"
	"groundswell/certs"
	"groundswell/internal/backoff"
)

// Renewal is where the device gets a new certificate for the one that it has. Without
// servers somebody else has to put it in place.
type Renewal struct {
	// Servers are base URLs of fleetd's renewal listener, such as
	// https://fleetd:8445, tried in order.
	Servers []string `yaml:"servers"`
	// After is how long the broker must not have been heard before they are asked
	// although by the device's clock the certificate is good: the clock may be years
	// behind. Default 10 min.
	After time.Duration `yaml:"after"`
}

func (r *Renewal) validate() error {
	for i, s := range r.Servers {
		if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("renewal.servers[%d]: must be an https URL", i)
		}
	}
	if r.After <= 0 {
		return errors.New("renewal.after: must be above 0")
	}
	return nil
}

// errNotDue: the server says that the certificate is good for long enough.
var errNotDue = errors.New("certificate is not due to be renewed")

// renewer keeps the device's certificate from running out, and brings the device back
// when it has.
type renewer struct {
	cfg       Config
	current   *renewed
	authority *certs.Authority
	clock     *clock.Clock
	heard     func() (ago time.Duration, ok bool) // since the broker was
	log       *slog.Logger
	http      *http.Client
	began     time.Duration // by the clock's Uptime
}

func newRenewer(cfg Config, current *renewed, authority *certs.Authority, clk *clock.Clock, heard func() (time.Duration, bool), log *slog.Logger) (*renewer, error) {
	config, err := current.client(authority, clk.Now, certs.ServiceFleetd)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return &renewer{
		cfg: cfg, current: current, authority: authority, clock: clk, heard: heard, log: log, began: clk.Uptime(),
		http: &http.Client{
			Timeout:       time.Minute,
			Transport:     &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10, Proxy: http.ProxyFromEnvironment},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// run asks for a new certificate when it is time, until ctx ends.
func (r *renewer) run(ctx context.Context) {
	if len(r.cfg.Renewal.Servers) == 0 {
		return
	}
	for failures := 0; ctx.Err() == nil; {
		wait := min(time.Minute, r.cfg.Renewal.After)
		if why := r.due(); why != "" {
			err := r.renew(ctx)
			if err == nil {
				failures = 0
				continue // looks at the new one
			}
			if ctx.Err() == nil {
				r.log.Warn("certificate not renewed", "why", why, "err", err)
			}
			failures++
			if backoff.Range(r.cfg.Retry).Pause(ctx, failures) != nil {
				return
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// due is why a new certificate is asked for; empty: it is not.
func (r *renewer) due() string {
	cert := r.current.credential().Certificate
	life := cert.NotAfter.Sub(cert.NotBefore)
	switch now := r.clock.Now(); {
	case now.After(cert.NotAfter):
		return "it has expired"
	case now.After(cert.NotBefore.Add(life / 3 * 2)):
		return "a third of its life is left"
	}
	ago, ok := r.heard()
	if !ok {
		ago = r.clock.Uptime() - r.began
	}
	if ago > r.cfg.Renewal.After {
		return "the broker is not heard"
	}
	return ""
}

// renew asks one server after the other, and puts what it gets in place.
func (r *renewer) renew(ctx context.Context) error {
	var failures []error
	for _, base := range r.cfg.Renewal.Servers {
		err := r.from(ctx, base)
		if err == nil {
			return nil
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

func (r *renewer) from(ctx context.Context, base string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(base, "/")+"/renew", nil)
	if err != nil {
		return err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusConflict:
		return fmt.Errorf("%w: %.200q", errNotDue, body)
	default:
		return fmt.Errorf("%s answers %d: %.200q", req.URL.Host, resp.StatusCode, body)
	}
	next, err := r.current.credential().Renewed(body, r.authority)
	if err != nil {
		return err
	}
	return next.SaveCertificate(r.cfg.TLS.Cert)
}
