package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/certs/trust"
	"groundswell/topics"
)

// TestMetadataComesByALinkJustFastEnough: however long it is; from who sends less it does
// not, nor from who sends nothing but redirects.
func TestMetadataComesByALinkJustFastEnough(t *testing.T) {
	paced := func(rate int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for rest := firmware; ; rest = rest[rate:] {
				_, err := w.Write(rest[:min(rate, len(rest))])
				w.(http.Flusher).Flush()
				if err != nil || len(rest) <= rate {
					return
				}
				pause(r, time.Second)
			}
		}
	}
	for _, c := range []struct {
		name    string
		length  int
		handler http.HandlerFunc
		want    error
		took    time.Duration
	}{
		{"a long list", 300_000, paced(1200), nil, 249 * time.Second},
		{"a long list, too slowly", 300_000, paced(1000), ErrSlow, time.Minute},
		{"a short one has twice the time", 25_000, func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(firmware[:20_000])
			w.(http.Flusher).Flush()
			pause(r, 50*time.Second)
			_, _ = w.Write(firmware[20_000:25_000])
		}, nil, 50 * time.Second},
		{"all of it, and no end", 1000, func(w http.ResponseWriter, r *http.Request) {
			for i := range 1000 {
				_, _ = w.Write(firmware[i : i+1])
				w.(http.Flusher).Flush()
				pause(r, 50*time.Millisecond)
			}
			<-r.Context().Done()
		}, ErrSlow, time.Minute},
		{"redirects that take their time", 1000, func(w http.ResponseWriter, r *http.Request) {
			pause(r, 25*time.Second)
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}, ErrSlow, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := New(Config{Sources: func() []string { return []string{"http://source"} }})
				defer overPipes(client, c.handler, func(c net.Conn) net.Conn { return c })()
				began := time.Now()
				err := client.Targets(t.Context(), trust.TargetsPin{Version: 1, Length: int64(c.length)}, func(raw []byte) error {
					if len(raw) != c.length {
						t.Errorf("%d bytes", len(raw))
					}
					return nil
				})
				if took := time.Since(began); !errors.Is(err, c.want) || took < c.took-time.Second || took > c.took+time.Second {
					t.Errorf("after %v, want %v: %v", took, c.took, err)
				}
			})
		})
	}
}

// pause lasts no longer than somebody waits for the answer.
func pause(r *http.Request, d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.Context().Done():
	}
}

// TestADocumentGoesOnWhereItBroke: with who sends enough of it, as far as that is the
// document.
func TestADocumentGoesOnWhereItBroke(t *testing.T) {
	document := topics.Document{SHA256: artifact().SHA256, Length: int64(len(firmware))}
	poisoned := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(firmware)))
		_, _ = w.Write(make([]byte, 100_000))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	for _, c := range []struct {
		name          string
		first         []http.HandlerFunc
		asked, second []string
	}{
		{"breaks twice", []http.HandlerFunc{breaksAfter(100_000), breaksAfter(90_000), honest}, []string{"", "bytes=100000-299999", "bytes=190000-299999"}, nil},
		{"breaks at once", []http.HandlerFunc{breaksAfter(10_000)}, []string{""}, []string{""}},
		{"breaks at once the second time", []http.HandlerFunc{breaksAfter(100_000), breaksAfter(10_000)}, []string{"", "bytes=100000-299999"}, []string{""}},
		{"does no ranges", []http.HandlerFunc{breaksAfter(100_000), noRanges}, []string{"", "bytes=100000-299999"}, []string{""}},
		{"begins with something else", []http.HandlerFunc{poisoned, honest}, []string{"", "bytes=100000-299999"}, []string{""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			first, second := newSource(t, c.first...), newSource(t, honest)
			client := client(t, first.URL, second.URL)
			raw, err := client.Document(t.Context(), document)
			if err != nil || len(raw) != len(firmware) {
				t.Fatalf("%d bytes: %v", len(raw), err)
			}
			if got := first.asked(); !slices.Equal(got, c.asked) {
				t.Errorf("asked the first for %q, want %q", got, c.asked)
			}
			if got := second.asked(); !slices.Equal(got, c.second) {
				t.Errorf("asked the second for %q, want %q", got, c.second)
			}
		})
	}
}

// TestADocumentIsNotWaitedForWhereItStopped: from who sends nothing more, that is, however
// much it has sent.
func TestADocumentIsNotWaitedForWhereItStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := New(Config{Sources: func() []string { return []string{"http://source"} }})
		defer overPipes(c, func(w http.ResponseWriter, r *http.Request) {
			if asked++; asked == 1 {
				breaksAfter(100_000)(w, r)
			}
			honest(&cutting{ResponseWriter: w, left: 100_000, then: func() { pause(r, time.Hour) }}, r)
		}, func(c net.Conn) net.Conn { return c })()
		_, err := c.Document(t.Context(), topics.Document{SHA256: artifact().SHA256, Length: int64(len(firmware))})
		if !errors.Is(err, ErrSlow) || asked != 2 {
			t.Errorf("asked %d times: %v", asked, err)
		}
	})
}

// TestWhatEndsBecauseNobodyWaitsIsNotAll: it is no reason to refuse what the source has.
func TestWhatEndsBecauseNobodyWaitsIsNotAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Sources: func() []string { return []string{"http://source"} }})
		c.http.Transport = ending{}
		err := c.Root(t.Context(), trust.Image, 2, func(raw []byte) error {
			t.Errorf("%d bytes are taken for all", len(raw))
			return nil
		})
		if !errors.Is(err, ErrSlow) {
			t.Error(err)
		}
	})
}

// ending answers nothing, and ends that when its peer leaves.
type ending struct{}

func (ending) RoundTrip(r *http.Request) (*http.Response, error) {
	body, end := io.Pipe()
	context.AfterFunc(r.Context(), func() { _ = end.Close() })
	return &http.Response{StatusCode: http.StatusOK, Body: body, Request: r}, nil
}

// TestAListBeginsAnewWhereItBroke: only a digest says what a file goes on with.
func TestAListBeginsAnewWhereItBroke(t *testing.T) {
	s := newSource(t, breaksAfter(100_000))
	c := client(t, s.URL)
	for range 2 {
		err := c.Targets(t.Context(), trust.TargetsPin{Version: 1, Length: int64(len(firmware))}, func([]byte) error { return nil })
		if err == nil {
			t.Fatal("no error")
		}
	}
	if got := s.asked(); !slices.Equal(got, []string{"", ""}) {
		t.Errorf("asked for %q", got)
	}
}

// breaksAfter is honest until it hangs up, n bytes later.
func breaksAfter(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { honest(&cutting{ResponseWriter: w, left: n}, r) }
}

// cutting is an answer that breaks off.
type cutting struct {
	http.ResponseWriter
	left int
	then func() // before it hangs up; nil: nothing
}

func (c *cutting) Write(p []byte) (int, error) {
	n, _ := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		if c.then != nil {
			c.then()
		}
		panic(http.ErrAbortHandler)
	}
	return n, nil
}
