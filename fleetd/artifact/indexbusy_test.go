package artifact_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/fleetd/artifact"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/ops"
)

// TestWhoWouldWaitLongForADeltaIsBetterOffWithout: 404, so that nothing else is done without.
func TestWhoWouldWaitLongForADeltaIsBetterOffWithout(t *testing.T) {
	s := startS3(t)
	a := blockIndex(1, 300)
	old, new := a.Bytes(), mixed(a, blockIndex(2, 9), 9).Bytes()
	store(t, s.open(1<<20), old, new)
	for name, limit := range map[string]func(c *artifact.DownloadsConfig) (most int){
		"in the queue": func(*artifact.DownloadsConfig) int { return artifact.WaitingIndexDeltas },
		"by the limits": func(c *artifact.DownloadsConfig) int {
			limits := artifact.DefaultLimits()
			limits.Concurrent, limits.PerDevice = 3, 3
			c.Limits = artifact.NewLimits(limits)
			return 3
		},
	} {
		t.Run(name, func(t *testing.T) {
			blobs, registry, most := slowly(t, s), ops.NewRegistry(), 0
			server := serve(t, blobs.Blobs, func(c *artifact.DownloadsConfig) {
				c.IndexDeltas, c.Metrics = artifact.NewIndexDeltas(blobs.Blobs), artifact.NewMetrics(registry)
				most = limit(c)
			})
			release := blobs.holds(old)
			defer release()
			var wg sync.WaitGroup
			defer wg.Wait()
			defer release()
			served := make(chan int, most)
			for range most {
				wg.Go(func() {
					req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, server.URL+between(new, old), nil)
					if err != nil {
						t.Error(err)
						return
					}
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					_ = resp.Body.Close() // the status is enough
					served <- resp.StatusCode
				})
			}
			devtest.Eventually(t, time.Minute, "all to wait", func() error {
				_, look := blobs.asked(new)
				if running := fmt.Sprintf(`groundswell_downloads_running{kind="index"} %d`+"\n", most); look < most || !strings.Contains(scrape(registry), running) {
					return fmt.Errorf("%d have looked", look)
				}
				return nil
			})
			within, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			req, err := http.NewRequestWithContext(within, http.MethodGet, server.URL+between(new, old), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close() // the status is enough
			if resp.StatusCode != 404 || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Retry-After") != "" {
				t.Errorf("%s %v", resp.Status, resp.Header)
			}
			if text := scrape(registry); !strings.Contains(text, `groundswell_downloads_refused_total{kind="index",reason="busy"}`) {
				t.Error("it is not counted")
			}
			release()
			made := 0
			for range most {
				if status := <-served; status == 200 {
					made++
				}
			}
			if made < most-1 { // one may have been on its way into the queue
				t.Errorf("%d of %d that waited were served", made, most)
			}
		})
	}
}

// TestWhereAnIndexNeedsASignatureNoDeltaGivesItAway.
func TestWhereAnIndexNeedsASignatureNoDeltaGivesItAway(t *testing.T) {
	blobs := openedBlobs(t)
	a := blockIndex(1, 300)
	old, new := a.Bytes(), mixed(a, blockIndex(2, 9), 9).Bytes()
	store(t, blobs, old, new)
	server := serve(t, blobs, func(c *artifact.DownloadsConfig) {
		c.IndexDeltas, c.Signatures = artifact.NewIndexDeltas(blobs), signatures(t, time.Hour, keyA)
	})
	if resp, _ := get(t, server.URL+between(new, old)); resp.StatusCode != 404 {
		t.Errorf("%s", resp.Status)
	}
}

// TestAShortIndexHasNoDelta: no agent asks for one.
func TestAShortIndexHasNoDelta(t *testing.T) {
	blobs := openedBlobs(t)
	deltas := artifact.NewIndexDeltas(blobs)
	for blocks, want := range map[int]bool{50: false, 70: true} {
		a := blockIndex(byte(blocks), blocks)
		old, new := a.Bytes(), mixed(a, blockIndex(2, 3), 3).Bytes()
		store(t, blobs, old, new)
		if n, err := deltas.Length(t.Context(), digest(new), digest(old)); (err == nil) != want {
			t.Errorf("%d bytes: %d, %v", len(new), n, err)
		}
	}
}

func openedBlobs(t *testing.T) *artifact.Blobs {
	t.Helper()
	blobs, err := artifact.OpenBlobs(filepath.Join(t.TempDir(), "artifacts"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() }) // of files
	return blobs
}
