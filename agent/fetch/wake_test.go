package fetch

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"groundswell/agent/wake"
)

func TestDownloadSpendsWhatAWakeHasAndGoesOnInTheNext(t *testing.T) {
	noRanges := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(firmware) }
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		ranges  []string
	}{
		"ranges":    {honest, []string{"bytes=0-119999", "bytes=120000-239999", "bytes=240000-"}},
		"no ranges": {noRanges, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSource(t, c.handler)
			client := client(t, s.URL)
			client.cfg.Wake = wake.New(wake.Limits{Bytes: 120_000})
			path := filepath.Join(t.TempDir(), "staging")
			for n := 1; ; n++ {
				client.cfg.Wake.Begin()
				err := client.Artifact(t.Context(), artifact(), path, nil)
				if c.ranges == nil {
					if info, _ := os.Stat(path); !errors.Is(err, wake.ErrSpent) || info.Size() != 120_000 {
						t.Fatalf("%v", err)
					}
					return
				}
				if n == len(c.ranges) {
					if err != nil {
						t.Fatal(err)
					}
					break
				}
				if !errors.Is(err, wake.ErrSpent) {
					t.Fatalf("wake %d: %v", n, err)
				}
				if info, err := os.Stat(path); err != nil || info.Size() != int64(n)*120_000 {
					t.Fatalf("wake %d: %v %v", n, info.Size(), err)
				}
				if again := client.Artifact(t.Context(), artifact(), path, nil); !errors.Is(again, wake.ErrSpent) {
					t.Fatalf("again in wake %d: %v", n, again)
				}
			}
			mustBe(t, path, firmware)
			if got := s.asked(); !slices.Equal(got, c.ranges) {
				t.Errorf("asked for %q, want %q", got, c.ranges)
			}
		})
	}
}
