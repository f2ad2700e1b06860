package stack

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"groundswell/certs/token"
	"groundswell/internal/devstack"
)

// api is an HTTP client for fleetd.
type api struct {
	http  *http.Client
	token string
}

// StatusError is an answer of fleetd that is not a success.
type StatusError struct {
	Status int
	Body   string
}

func (e *StatusError) Error() string { return fmt.Sprintf("fleetd answered %d: %s", e.Status, e.Body) }

// Request is one call of fleetd's REST interface.
type Request struct {
	Method, Path string
	Body         any    // JSON; nil for none
	IfMatch      string // ETag
	Token        string // the admin's when empty
}

// Answer is what came back.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// API calls fleetd as the admin and decodes the answer into the value into
// (nil: not at all). An answer other than 2xx is a *StatusError.
func (s *Stack) API(ctx context.Context, method, path string, body, into any) error {
	a, err := s.Call(ctx, Request{Method: method, Path: path, Body: body})
	if err != nil {
		return err
	}
	return a.into(into)
}

// into decodes a success, and makes anything else an error.
func (a *Answer) into(v any) error {
	if a.Status/100 != 2 {
		return &StatusError{a.Status, strings.TrimSpace(string(a.Body))}
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(a.Body, v)
}

// Call calls fleetd and returns the answer, whatever its status.
func (s *Stack) Call(ctx context.Context, r Request) (*Answer, error) {
	if s.api == nil {
		client, err := s.HTTPClient()
		if err != nil {
			return nil, err
		}
		admin, err := os.ReadFile(s.TokenFile(token.Admin))
		if err != nil {
			return nil, err
		}
		s.api = &api{client, strings.TrimSpace(string(admin))}
	}
	var body io.Reader
	if r.Body != nil {
		data, err := json.Marshal(r.Body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, s.APIURL()+r.Path, body)
	if err != nil {
		return nil, err
	}
	if r.Token == "" {
		r.Token = s.api.token
	}
	req.Header.Set("Authorization", "Bearer "+r.Token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.IfMatch != "" {
		req.Header.Set("If-Match", r.IfMatch)
	}
	resp, err := s.api.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	return &Answer{resp.StatusCode, resp.Header, data}, nil
}

// HTTPClient is a client that believes the fleet's CA.
func (s *Stack) HTTPClient() (*http.Client, error) {
	pem, err := os.ReadFile(s.key("public", "ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	return &http.Client{Transport: transport, Timeout: time.Minute}, nil
}

// awaitReady polls /readyz until nothing is missing.
func awaitReady(ctx context.Context, p *devstack.Process) error {
	var last string
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Addr("ops")+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16)) // for the message only
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			last = strings.TrimSpace(string(body))
		} else if ctx.Err() == nil {
			last = err.Error()
		}
		select {
		case <-p.Done():
			return fmt.Errorf("%s ended\n%s", p.Spec().Name, p.LogTail(20))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %s\n%s", p.Spec().Name, last, p.LogTail(20))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
