package devstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Influx is a private InfluxDB 1.8 with Flux enabled, on a loopback port that
// stays the same over restarts.
type Influx struct {
	addr    string
	spec    Spec
	process *Process
	discard func()
}

// InfluxOptions shape the server. The zero value suits tests.
type InfluxOptions struct {
	// Dir keeps the data across runs, and is left in place by Stop. When empty, a
	// temporary directory is made and removed.
	Dir string
}

// StartInflux starts a server. ErrSetup if influxd was not built.
func StartInflux(ctx context.Context, options InfluxOptions) (*Influx, error) {
	root, err := Root()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(root, ".cache", "bin", "influxd")
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("InfluxDB (.cache/bin/influxd) is %w", ErrSetup)
	}
	in := &Influx{discard: func() {}}
	dir := options.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "groundswell-influx-"); err != nil {
			return nil, fmt.Errorf("start InfluxDB: %w", err)
		}
		if in.discard, err = janitor(dir, ""); err != nil {
			return nil, fmt.Errorf("start InfluxDB: %w", err)
		}
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("start InfluxDB: %w", err)
	}
	// The port was free a moment ago; if somebody took it since, take another.
	for attempt := 0; ; attempt++ {
		if in.addr, err = FreeAddr(); err != nil {
			break
		}
		in.spec = influxSpec(path, dir, in.addr)
		if err = in.Restart(ctx); err == nil {
			return in, nil
		}
		if attempt == 3 || ctx.Err() != nil {
			break
		}
	}
	in.discard()
	return nil, fmt.Errorf("start InfluxDB: %w", err)
}

func influxSpec(path, dir, addr string) Spec {
	return Spec{
		Name: "influxd", Path: path, Args: []string{"run", "-config", "/dev/null"}, Dir: dir,
		LogFile: filepath.Join(dir, "influxd.log"),
		Env: []string{
			"INFLUXDB_REPORTING_DISABLED=true",
			"INFLUXDB_BIND_ADDRESS=127.0.0.1:0",
			"INFLUXDB_META_DIR=" + filepath.Join(dir, "meta"),
			"INFLUXDB_DATA_DIR=" + filepath.Join(dir, "data"),
			"INFLUXDB_DATA_WAL_DIR=" + filepath.Join(dir, "wal"),
			"INFLUXDB_HTTP_BIND_ADDRESS=" + addr,
			"INFLUXDB_HTTP_FLUX_ENABLED=true",
			"INFLUXDB_HTTP_LOG_ENABLED=false",
			"INFLUXDB_MONITOR_STORE_ENABLED=false",
			"INFLUXDB_SUBSCRIBER_ENABLED=false",
			"INFLUXDB_CONTINUOUS_QUERIES_ENABLED=false",
		},
	}
}

// URL is the server's base URL.
func (in *Influx) URL() string { return "http://" + in.addr }

// CreateDatabase makes a database; the v2 API calls it the bucket
// "NAME/autogen".
func (in *Influx) CreateDatabase(ctx context.Context, name string) error {
	_, err := in.InfluxQL(ctx, "", fmt.Sprintf("CREATE DATABASE %q", name))
	return err
}

// InfluxQL runs a query of the 1.x language and returns the JSON answer.
func (in *Influx) InfluxQL(ctx context.Context, database, query string) (string, error) {
	form := url.Values{"q": {query}, "db": {database}}
	return in.post(ctx, "/query", "application/x-www-form-urlencoded", form.Encode())
}

// Query runs a Flux query and returns the CSV answer.
func (in *Influx) Query(ctx context.Context, flux string) (string, error) {
	return in.post(ctx, "/api/v2/query", "application/vnd.flux", flux)
}

func (in *Influx) post(ctx context.Context, path, contentType, body string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, "POST", in.URL()+path, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", "application/csv")
	if path == "/query" {
		req.Header.Set("Accept", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode/100 != 2 || strings.Contains(string(answer), `"error"`) {
		return "", fmt.Errorf("influx %s: %s: %s", path, resp.Status, strings.TrimSpace(string(answer)))
	}
	return string(answer), nil
}

// Kill ends the server with SIGKILL. Restart brings it back.
func (in *Influx) Kill() { in.process.Kill() }

// Halt stops the server and keeps its data. Restart brings it back.
func (in *Influx) Halt() error { return in.process.Stop(20 * time.Second) }

// Restart starts the server on the same address and waits until it answers.
func (in *Influx) Restart(ctx context.Context) error {
	process, err := Start(ctx, in.spec)
	if err != nil {
		return err
	}
	in.process = process
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if err = in.ping(ctx); err == nil {
			return nil
		}
		select {
		case <-process.Done():
			err = errors.New("influxd ended at start")
		case <-ctx.Done():
			process.Kill()
			err = fmt.Errorf("influxd did not become ready: %w", err)
		case <-time.After(25 * time.Millisecond):
			continue
		}
		return fmt.Errorf("%w\n%s", err, process.LogTail(20))
	}
}

func (in *Influx) ping(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, "GET", in.URL()+"/ping", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("ping: %s", resp.Status)
	}
	return nil
}

// Stop ends the server and removes a temporary data directory.
func (in *Influx) Stop() error {
	err := in.Halt()
	in.discard()
	return err
}
