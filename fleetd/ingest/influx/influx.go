// Package influx writes points to InfluxDB, 2.x or 1.8 by its v2 API, and is
// the only package that knows the client library.
//
// It uses the library's blocking write only: the asynchronous one drops points
// once the server has been away for a while. A call to Write is one attempt;
// the caller keeps the points and calls again until it succeeds, which is safe
// because a point that is written twice (same measurement, tags and time)
// overwrites itself.
//
// The one thing that is not tried again is what the server will never take (a
// field that changes its type, a time beyond the retention). The server then
// answers 400 and may have stored the other points of the batch, so Write
// halves the batch until the bad points stand alone, and hands those back.
package influx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	influxdb "github.com/influxdata/influxdb-client-go/v2"
	"github.com/influxdata/influxdb-client-go/v2/api"
	apihttp "github.com/influxdata/influxdb-client-go/v2/api/http"
	"github.com/influxdata/influxdb-client-go/v2/api/write"
	"github.com/influxdata/influxdb-client-go/v2/log"
)

func init() { log.Log = nil } // the library's logger writes plain text to stderr; every error also comes back to the caller

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 1 << 20

// attemptTimeout bounds one request.
const attemptTimeout = 30 * time.Second

// Config says where to write. URL and Bucket are required.
type Config struct {
	URL string // http://host:port
	// Org is empty for InfluxDB 1.8.
	Org string
	// Bucket is "database/retention-policy" for InfluxDB 1.8.
	Bucket string
	// Token is "user:password" for InfluxDB 1.8. Empty: no authentication.
	Token string
}

// Point is one row of a measurement.
type Point struct {
	Measurement string
	// Tags make the series: each value must come from a small set.
	Tags map[string]string
	// Fields are string, bool, int64 or float64; at least one.
	Fields map[string]any
	Time   time.Time
}

// Rejected is a point that the server will never take.
type Rejected struct {
	Index  int // in the slice that was written
	Reason string
}

// Client writes to one bucket. It is safe for concurrent use.
type Client struct {
	http   *http.Client
	client influxdb.Client
	write  api.WriteAPIBlocking
}

// New checks cfg. It does no I/O.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("influx: url %q is not of the form http://host:port", cfg.URL)
	}
	if cfg.Bucket == "" {
		return nil, errors.New("influx: no bucket")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	hc := &http.Client{Timeout: attemptTimeout, Transport: bounded{transport}}
	client := influxdb.NewClientWithOptions(cfg.URL, cfg.Token,
		influxdb.DefaultOptions().SetHTTPClient(hc).SetMaxRetries(0).SetApplicationName("groundswell"))
	return &Client{http: hc, client: client, write: client.WriteAPIBlocking(cfg.Org, cfg.Bucket)}, nil
}

// Write stores points, or says which of them can never be stored; the others
// are stored then. After an error any part of them may be stored, and all are
// to be written again.
func (c *Client) Write(ctx context.Context, points []Point) ([]Rejected, error) {
	encoded := make([]*write.Point, len(points))
	for i, p := range points {
		encoded[i] = write.NewPoint(p.Measurement, p.Tags, p.Fields, p.Time)
	}
	var rejected []Rejected
	err := c.writeRange(ctx, encoded, 0, &rejected)
	if err != nil {
		return nil, fmt.Errorf("write %d points: %w", len(points), err)
	}
	return rejected, nil
}

// writeRange writes points, of which the first has the given index.
func (c *Client) writeRange(ctx context.Context, points []*write.Point, first int, rejected *[]Rejected) error {
	if len(points) == 0 {
		return nil
	}
	err := c.write.WritePoint(ctx, points...)
	if err == nil {
		return nil
	}
	if !isPointsFault(err) {
		return err
	}
	if len(points) == 1 {
		*rejected = append(*rejected, Rejected{first, err.Error()})
		return nil
	}
	half := len(points) / 2
	if err := c.writeRange(ctx, points[:half], first, rejected); err != nil {
		return err
	}
	return c.writeRange(ctx, points[half:], first+half, rejected)
}

// isPointsFault reports whether no repetition will help. Everything else will
// pass or can be put right by an operator: no connection, 5xx, 429, and also a
// missing bucket (404) or a wrong token (401, 403).
func isPointsFault(err error) bool {
	var answer *apihttp.Error
	if !errors.As(err, &answer) {
		return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) // it could not be encoded
	}
	switch answer.StatusCode {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge:
		return true
	}
	return false
}

// Ping asks whether the server answers.
func (c *Client) Ping(ctx context.Context) error {
	if ok, err := c.client.Ping(ctx); err != nil || !ok {
		return fmt.Errorf("ping influx: %w", err)
	}
	return nil
}

// Close lets go of idle connections.
func (c *Client) Close() {
	c.client.Close()
	c.http.CloseIdleConnections()
}

// bounded cuts off answers that are larger than any sensible one: the library
// reads them whole.
type bounded struct{ next *http.Transport }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	return resp, nil
}

// CloseIdleConnections is what http.Client looks for.
func (b bounded) CloseIdleConnections() { b.next.CloseIdleConnections() }
