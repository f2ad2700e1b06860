package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestTimeOfTheReaderIsNotTheSources: it unpacks what came, and waits for its disk.
func TestTimeOfTheReaderIsNotTheSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := New(Config{Sources: func() []string { return []string{"http://source"} }})
		defer overPipes(c, func(w http.ResponseWriter, r *http.Request) { asked++; honest(w, r) }, func(c net.Conn) net.Conn { return c })()
		path := filepath.Join(t.TempDir(), "staging")
		if err := c.Artifact(t.Context(), artifact(), path, func(int64) { time.Sleep(time.Minute) }); err != nil {
			t.Fatal(err)
		}
		mustBe(t, path, firmware)

		o := Object{Path: "artifacts/x", Tag: artifact().SHA256, Length: int64(len(firmware))}
		body, err := c.Range(t.Context(), "http://source", o, 1000, 290_000)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		got := make([]byte, 289_000)
		for rest := got; len(rest) > 0; rest = rest[min(len(rest), 10_000):] {
			if _, err := io.ReadFull(body, rest[:min(len(rest), 10_000)]); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		if !bytes.Equal(got, firmware[1000:290_000]) {
			t.Error("other bytes")
		}
		if asked != 2 {
			t.Errorf("%d requests", asked)
		}
	})
}

// TestAnArtifactWaitsForFasterSources, and says how slow they were.
func TestAnArtifactWaitsForFasterSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Sources: func() []string { return []string{"http://source"} }})
		defer overPipes(c, drip(time.Second), func(c net.Conn) net.Conn { return c })()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a, rounds := artifact(), 0
		a.Waits = func(why error) {
			if !errors.Is(why, ErrSlow) || !strings.Contains(why.Error(), "fewer than 30720 bytes in 30s") {
				t.Error(why)
			}
			rounds++
			cancel()
		}
		err := c.Artifact(ctx, a, filepath.Join(t.TempDir(), "staging"), nil)
		if !errors.Is(err, context.Canceled) || rounds != 1 {
			t.Errorf("after %d rounds: %v", rounds, err)
		}
	})
}

// TestASlowReaderMakesASlowSourceNoFaster: one that is waited for too long is left, also by
// who takes its time in between; one that is just fast enough is not, however long it takes.
func TestASlowReaderMakesASlowSourceNoFaster(t *testing.T) {
	for _, c := range []struct {
		rate int // bytes that come in a second of waiting; 1,024 are enough
		want error
		wait time.Duration
	}{
		{1000, ErrSlow, 30 * time.Second},
		{1250, nil, 160 * time.Second},
	} {
		t.Run(fmt.Sprint(c.rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := New(Config{Sources: func() []string { return []string{"http://source"} }})
				defer overPipes(client, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes 1-200000/%d", len(firmware)))
					w.WriteHeader(http.StatusPartialContent)
					for i := 1; i < 200_000; i += c.rate {
						if _, err := w.Write(firmware[i : i+c.rate]); err != nil {
							return
						}
						w.(http.Flusher).Flush()
						pause(r, 2*time.Second) // of which the reader spends one
					}
				}, func(c net.Conn) net.Conn { return c })()
				body, err := client.Range(t.Context(), "http://source", Object{Length: int64(len(firmware))}, 1, 200_001)
				if err != nil {
					t.Fatal(err)
				}
				defer body.Close()
				waited, buffer := time.Duration(0), make([]byte, c.rate)
				for range 200_000 / c.rate {
					began := time.Now()
					_, err = io.ReadFull(body, buffer)
					if waited += time.Since(began); err != nil {
						break
					}
					time.Sleep(time.Second)
				}
				if !errors.Is(err, c.want) || waited < c.wait-2*time.Second || waited > c.wait+2*time.Second {
					t.Errorf("waited %v, want %v: %v", waited, c.wait, err)
				}
			})
		})
	}
}
