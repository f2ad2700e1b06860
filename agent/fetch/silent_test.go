package fetch

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/clock"
	"groundswell/certs/trust"
)

// TestSourcesThatHangDoNotSpeakForTheOthers: the last one is asked before the time is over.
func TestSourcesThatHangDoNotSpeakForTheOthers(t *testing.T) {
	silent := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, c := range map[string]struct {
		stall time.Duration
		rate  int64
		hangs http.HandlerFunc
	}{
		"nothing comes, and the device is patient": {stall: time.Minute, hangs: silent},
		"a byte comes now and then":                {hangs: drip(time.Second)},
		"by a slow link":                           {rate: 2048, hangs: drip(time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				allowed := allowance.New(allowance.Config{Rate: c.rate}, "camera-1", clock.New(time.Now(), nil), slog.New(slog.DiscardHandler))
				client := New(Config{
					Sources: func() []string { return []string{"http://hangs-1", "http://hangs-2", "http://good"} },
					Stall:   c.stall, Allowance: allowed,
				})
				defer overPipes(client, func(w http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.Host, "hangs") {
						c.hangs(w, r)
						return
					}
					_, _ = w.Write([]byte("root"))
				}, allowed.Count)()
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				if err := client.Root(ctx, trust.Image, 2, func([]byte) error { return nil }); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestALongListHasAllTheTime: it comes, by a link as slow as that.
func TestALongListHasAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := New(Config{Sources: func() []string { return []string{"http://slow", "http://away"} }, Stall: time.Minute})
		defer overPipes(client, func(w http.ResponseWriter, r *http.Request) {
			if r.Host != "slow" {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			drip(90*time.Second/time.Duration(len(firmware)))(w, r)
		}, func(c net.Conn) net.Conn { return c })()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		pin := trust.TargetsPin{Version: 1, Length: int64(len(firmware))} // more than trust.MaxRoot
		if err := client.Targets(ctx, pin, func([]byte) error { return nil }); err != nil {
			t.Error(err)
		}
	})
}
