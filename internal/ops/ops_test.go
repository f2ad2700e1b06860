package ops

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func get(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String()
}

func TestReadyNamesWhatIsMissing(t *testing.T) {
	s := NewServer(Config{}, NewRegistry(), slog.New(slog.DiscardHandler))
	down := errors.New("connection refused")
	s.Ready("postgres", func(context.Context) error { return down })
	s.Ready("broker", func(context.Context) error { return nil })

	code, body := get(t, s.Handler(), "/readyz")
	var got struct {
		Ready   bool
		Missing []Missing
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	if code != 503 || got.Ready || len(got.Missing) != 1 || got.Missing[0] != (Missing{"postgres", "connection refused"}) {
		t.Fatalf("got %d %s", code, body)
	}
	down = nil
	if code, body := get(t, s.Handler(), "/readyz"); code != 200 || !strings.Contains(body, `"missing":[]`) {
		t.Fatalf("got %d %s", code, body)
	}
}

func TestMetricsShowWhatWasCounted(t *testing.T) {
	r := NewRegistry()
	r.NewCounter("a_total", "A.").Add(2)
	r.NewCounterVec("b_total", "B.", "kind").With("x").Inc()
	r.NewGaugeFunc("c", "C.", func() float64 { return 7 })
	r.NewHistogram("d_seconds", "D.", nil).Observe(0.15)
	_, body := get(t, NewServer(Config{}, r, slog.New(slog.DiscardHandler)).Handler(), "/metrics")
	for _, want := range []string{"a_total 2", `b_total{kind="x"} 1`, "c 7", `d_seconds_bucket{le="0.2"} 1`, "go_goroutines"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
}

func TestServerBindsBeforeRunAndStops(t *testing.T) {
	s := NewServer(Config{Listen: "127.0.0.1:0"}, NewRegistry(), slog.New(slog.DiscardHandler))
	if err := s.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	resp, err := http.Get("http://" + s.Addr() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(body) != "ok\n" {
		t.Fatalf("got %q", body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := http.Get("http://" + s.Addr() + "/healthz"); err == nil {
		t.Fatal("still answers after Run returned")
	}
}

func TestAddressesFileHoldsOnlyWhatIsBound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "addresses.json")
	if err := WriteAddresses(path, map[string]string{"mqtt": "127.0.0.1:1", "ops": ""}); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(path)
	if string(data) != "{\"mqtt\":\"127.0.0.1:1\"}\n" {
		t.Fatalf("got %s", data)
	}
	if err := WriteAddresses("", nil); err != nil {
		t.Fatal(err)
	}
}
