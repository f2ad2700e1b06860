package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/certs/trust"
	"groundswell/topics"
)

// TestABusySourceIsLeftAloneForAsLongAsItSays: by whatever is fetched, but for the
// repositories.
func TestABusySourceIsLeftAloneForAsLongAsItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		document := firmware[:1000]
		digest := sha256.Sum256(document)
		pin := topics.Document{SHA256: hex.EncodeToString(digest[:]), Length: int64(len(document))}
		var asked []string
		began := time.Now()
		looked := 0
		c := New(Config{Sources: func() []string { looked++; return []string{"http://source"} }, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond})
		defer overPipes(c, func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, r.URL.Path[:5])
			switch {
			case r.URL.Path[:5] == "/repo":
				_, _ = w.Write([]byte("root"))
			case time.Since(began) < 40*time.Second:
				w.Header().Set("Retry-After", "40")
				w.WriteHeader(http.StatusServiceUnavailable)
			case r.URL.Path == "/artifacts/"+pin.SHA256:
				_, _ = w.Write(document)
			default:
				honest(w, r)
			}
		}, func(c net.Conn) net.Conn { return c })()

		if _, err := c.Document(t.Context(), pin); !errors.As(err, new(Busy)) {
			t.Fatal(err)
		}
		_, err := c.Range(t.Context(), "http://source", Object{Path: "artifacts/x", Length: 10}, 0, 10)
		if _, again := c.Document(t.Context(), pin); !errors.As(err, new(Busy)) || !errors.As(again, new(Busy)) {
			t.Errorf("%v, %v", err, again)
		}
		if err := c.Root(t.Context(), trust.Image, 1, func([]byte) error { return nil }); err != nil {
			t.Error(err)
		}
		path := filepath.Join(t.TempDir(), "staging")
		if err := c.Artifact(t.Context(), artifact(), path, nil); err != nil {
			t.Fatal(err)
		}
		mustBe(t, path, firmware)
		if took := time.Since(began); took < 40*time.Second || took > 41*time.Second {
			t.Errorf("took %v", took)
		}
		if looked > 10 { // or it would be awake all the time
			t.Errorf("it looked %d times whether it may ask", looked)
		}
		if raw, err := c.Document(t.Context(), pin); err != nil || len(raw) != len(document) {
			t.Errorf("%d bytes, %v", len(raw), err)
		}
		if want := []string{"/arti", "/repo", "/arti", "/arti"}; !slices.Equal(asked, want) {
			t.Errorf("asked for %q, want %q", asked, want)
		}
	})
}

// TestOneBusySourceKeepsNobodyWaiting: for the other one.
func TestOneBusySourceKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		c := New(Config{Sources: func() []string { return []string{"http://busy", "http://other"} }, BackoffMin: time.Millisecond, BackoffMax: time.Millisecond})
		asked := map[string]int{}
		defer overPipes(c, func(w http.ResponseWriter, r *http.Request) {
			if asked[r.Host]++; r.Host == "busy" {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(http.StatusTooManyRequests)
				return
			}
			if asked[r.Host] < 5 {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			honest(w, r)
		}, func(c net.Conn) net.Conn { return c })()
		if err := c.Artifact(t.Context(), artifact(), filepath.Join(t.TempDir(), "staging"), nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > time.Second || asked["busy"] != 1 || asked["other"] != 5 {
			t.Errorf("took %v, asked %v", took, asked)
		}
	})
}

// TestNoSourceIsLeftAloneForLong: an hour is all that one may ask for, in seconds.
func TestNoSourceIsLeftAloneForLong(t *testing.T) {
	for after, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"-40":                           0,
		"40":                            40 * time.Second,
		"3600":                          time.Hour,
		"3601":                          time.Hour,
		"2147483647":                    time.Hour,
		"99999999999999999999":          0,
		"1e3":                           0,
		"Fri, 31 Dec 2038 23:59:59 GMT": 0,
	} {
		t.Run(after, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := New(Config{Sources: func() []string { return []string{"http://source"} }})
				defer overPipes(c, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Retry-After", after)
					w.WriteHeader(http.StatusServiceUnavailable)
				}, func(c net.Conn) net.Conn { return c })()
				var busy Busy
				_, err := c.Document(t.Context(), topics.Document{SHA256: "x", Length: 1})
				if !errors.As(err, &busy) || busy.After != want {
					t.Errorf("%v, want %v", err, want)
				}
				began := time.Now()
				if err := c.Rest(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != want {
					t.Errorf("left alone for %v, want %v", took, want)
				}
			})
		})
	}
}
