package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"groundswell/internal/cli"
	"groundswell/internal/config"
)

// maxAnswer bounds an answer of fleetd, in bytes.
const maxAnswer = 64 << 20

// client speaks to fleetd's REST interface.
type client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// client makes the connection settings into a client. It does no network I/O.
func (g *Global) client() (*client, error) {
	if err := errors.Join(need("server", g.Server), need("token-file", g.TokenFile)); err != nil {
		return nil, err
	}
	base, err := url.Parse(g.Server)
	if err != nil || base.Host == "" || (base.Scheme != "https" && base.Scheme != "http") {
		return nil, cli.UsageError("--server %q is not of the form https://host:port", g.Server)
	}
	token, err := config.SecretFile(g.TokenFile).Read()
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS13}
	if g.CA != "" {
		pem, err := os.ReadFile(g.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no certificate", g.CA)
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = tlsConfig
	return &client{base: base, token: strings.TrimSpace(token), http: &http.Client{Transport: transport}}, nil
}

// request is one call. Body is sent as JSON unless it is an io.Reader.
type request struct {
	method, path string
	query        url.Values
	body         any
	length       int64 // of an io.Reader body
	// ifMatch is the ETag that the object must still have.
	ifMatch string
	// create sends an idempotency key, so that repeating after a lost answer does
	// not create twice.
	create bool
	// repeat says that the same request twice does no more than once.
	repeat bool
}

// answer is what fleetd said to a request that succeeded.
type answer struct {
	raw      []byte
	etag     string
	location string
	status   int
}

// decode reads the answer's JSON into v.
func (a *answer) decode(v any) error {
	if err := json.Unmarshal(a.raw, v); err != nil {
		return fmt.Errorf("fleetd's answer cannot be read: %w", err)
	}
	return nil
}

// do makes the call. GET, creations and what says so are repeated over a lost connection;
// nothing else is, because it may have been done.
func (c *client) do(ctx context.Context, r request) (*answer, error) {
	key := ""
	if r.create {
		var random [16]byte
		_, _ = rand.Read(random[:]) // never fails
		key = hex.EncodeToString(random[:])
	}
	_, streams := r.body.(io.Reader)
	tries := 1
	if !streams && (r.create || r.repeat || r.method == http.MethodGet) {
		tries = 4
	}
	for n := 1; ; n++ {
		a, err := c.once(ctx, r, key)
		var netErr *url.Error
		if err == nil || n == tries || ctx.Err() != nil || !errors.As(err, &netErr) {
			return a, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(n) * 300 * time.Millisecond):
		}
	}
}

func (c *client) once(ctx context.Context, r request, idempotencyKey string) (*answer, error) {
	target := *c.base
	target.Path = strings.TrimSuffix(target.Path, "/") + r.path
	target.RawQuery = r.query.Encode()
	var body io.Reader
	contentType := "application/json"
	switch b := r.body.(type) {
	case nil:
	case io.Reader:
		body, contentType = b, "application/octet-stream"
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), body)
	if err != nil {
		return nil, err
	}
	if r.length > 0 {
		req.ContentLength = r.length
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json, application/problem+json")
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if r.ifMatch != "" {
		req.Header.Set("If-Match", r.ifMatch)
	}
	if idempotencyKey != "" {
		req.Header.Set("Idempotency-Key", idempotencyKey)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read fleetd's answer: %w", err)
	}
	if len(raw) > maxAnswer {
		return nil, fmt.Errorf("fleetd's answer is larger than %d bytes", maxAnswer)
	}
	if resp.StatusCode/100 != 2 {
		return nil, problem(resp.StatusCode, raw)
	}
	return &answer{raw: raw, etag: resp.Header.Get("ETag"), location: resp.Header.Get("Location"), status: resp.StatusCode}, nil
}

// Problem is fleetd's refusal (RFC 9457).
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Errors []struct {
		Pointer   string `json:"pointer"`
		Parameter string `json:"parameter"`
		Header    string `json:"header"`
		Detail    string `json:"detail"`
	} `json:"errors"`
}

func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	if text == "" {
		text = http.StatusText(p.Status)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "fleetd refused (%d): %s", p.Status, text)
	for _, e := range p.Errors {
		fmt.Fprintf(&b, "\n  %s: %s", e.Pointer+e.Parameter+e.Header, e.Detail)
	}
	return b.String()
}

// problem makes an error with the exit code that belongs to the status.
func problem(status int, raw []byte) error {
	p := &Problem{}
	if json.Unmarshal(raw, p) != nil || p.Status == 0 && p.Title == "" {
		p.Detail = strings.TrimSpace(string(raw[:min(len(raw), 300)]))
	}
	p.Status = status
	switch status {
	case http.StatusNotFound:
		return cli.Exit(exitNotFound, p)
	case http.StatusPreconditionFailed:
		return cli.Exit(exitStale, p)
	}
	return p
}

// Guard is how a change is held to what the operator has seen: with --revision
// to that, else to what the object is when the command looks, a moment before.
type Guard struct {
	Revision int64 `help:"Only if it still has this revision; else exit code 4." placeholder:"N"`
}

// etag is the ETag for If-Match.
func (g *Guard) etag(ctx context.Context, api *client, path string) (string, error) {
	if g.Revision > 0 {
		return strconv.Quote(strconv.FormatInt(g.Revision, 10)), nil
	}
	a, err := api.get(ctx, path, nil)
	if err != nil {
		return "", err
	}
	return a.etag, nil
}

// patch changes what body names.
func (g *Guard) patch(ctx context.Context, global *Global, path string, body map[string]any) (*answer, error) {
	if len(body) == 0 {
		return nil, cli.UsageError("nothing to change is named")
	}
	return g.do(ctx, global, path, request{method: http.MethodPatch, path: path, body: body})
}

// do makes a change of the object at path. The request may go to a path below.
func (g *Guard) do(ctx context.Context, global *Global, path string, r request) (*answer, error) {
	api, err := global.client()
	if err != nil {
		return nil, err
	}
	if r.ifMatch, err = g.etag(ctx, api, path); err != nil {
		return nil, err
	}
	return api.do(ctx, r)
}

// given puts a flag that was given into a request, also when it is empty.
func given[T any](body map[string]any, key string, value *T) {
	if value != nil {
		body[key] = *value
	}
}

// notFound reports whether err is fleetd's 404.
func notFound(err error) bool {
	var p *Problem
	return errors.As(err, &p) && p.Status == http.StatusNotFound
}

// get fetches one object.
func (c *client) get(ctx context.Context, path string, query url.Values) (*answer, error) {
	return c.do(ctx, request{method: http.MethodGet, path: path, query: query})
}

// list fetches the items of a collection, page by page, until there are limit
// of them (0: all).
func (c *client) list(ctx context.Context, path string, query url.Values, limit int) ([]json.RawMessage, error) {
	items := []json.RawMessage{}
	query = cloneQuery(query)
	for {
		page := 500
		if limit > 0 {
			page = min(page, limit-len(items))
		}
		query.Set("limit", fmt.Sprint(page))
		a, err := c.get(ctx, path, query)
		if err != nil {
			return nil, err
		}
		var body struct {
			Items []json.RawMessage `json:"items"`
			Next  string            `json:"next"`
		}
		if err := a.decode(&body); err != nil {
			return nil, err
		}
		items = append(items, body.Items...)
		if body.Next == "" || limit > 0 && len(items) >= limit {
			return items, nil
		}
		query.Set("cursor", body.Next)
	}
}

func cloneQuery(q url.Values) url.Values {
	out := url.Values{}
	for k, v := range q {
		if len(v) > 0 && v[0] != "" {
			out[k] = v
		}
	}
	return out
}
