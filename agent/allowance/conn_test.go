package allowance

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// TestBytesComeAtTheRateThatIsAllowed: of all connections together, but for a burst.
func TestBytesComeAtTheRateThatIsAllowed(t *testing.T) {
	for name, c := range map[string]struct {
		cfg   Config
		burst int
	}{
		"a second's worth": {Config{Rate: 64 << 10}, 64 << 10},
		"given":            {Config{Rate: 64 << 10, Burst: 256 << 10}, 256 << 10},
		"slow":             {Config{Rate: 4096}, minBurst},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, c.cfg)
				const connections, each = 2, 512 << 10
				began := time.Now()
				done := make(chan int64)
				for range connections {
					ours, theirs := net.Pipe()
					go func() {
						_, _ = theirs.Write(make([]byte, each))
						_ = theirs.Close()
					}()
					go func() {
						n, _ := io.Copy(io.Discard, d.Count(ours))
						done <- n
					}()
				}
				if n := <-done + <-done; n != connections*each {
					t.Fatalf("%d bytes", n)
				}
				want := time.Duration(connections*each-c.burst) * time.Second / time.Duration(c.cfg.Rate)
				if took := time.Since(began).Round(time.Millisecond); took != want.Round(time.Millisecond) {
					t.Errorf("took %v, want %v", took, want)
				}
			})
		})
	}
}

// TestACloseEndsTheWait: a download that is paused must not wait for bytes that nobody
// wants.
func TestACloseEndsTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, Config{Rate: 4096})
		ours, theirs := net.Pipe()
		go func() { _, _ = theirs.Write(make([]byte, 1<<20)) }()
		c := d.Count(ours)
		began := time.Now()
		time.AfterFunc(time.Second, func() { _ = c.Close() })
		if _, err := io.Copy(io.Discard, c); err == nil {
			t.Error("all of it came")
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestAllThatGoesOverTheWireCounts: also headers, and what is refused afterwards.
func TestAllThatGoesOverTheWireCounts(t *testing.T) {
	d := newDevice(t, Config{DailyBudget: 10 * mib})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(make([]byte, mib))
	}))
	defer s.Close()
	client := &http.Client{Transport: &http.Transport{DialContext: d.DialContext(net.Dialer{})}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if left, _ := d.Left(); left > 9*mib-200 || left < 9*mib-2000 {
		t.Errorf("%d bytes are left of %d", left, 10*mib)
	}
}
