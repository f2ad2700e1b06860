package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/clock"
	"groundswell/agent/wake"
	"groundswell/topics"
)

// TestARateIsNoReasonToLeaveASource: what the device takes slowly does not come slowly.
func TestARateIsNoReasonToLeaveASource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		document := firmware[:200_000]
		digest := sha256.Sum256(document)
		name := hex.EncodeToString(digest[:])
		asked := 0
		handler := func(w http.ResponseWriter, r *http.Request) {
			asked++
			if r.URL.Path == "/artifacts/"+name {
				_, _ = w.Write(document)
				return
			}
			honest(w, r)
		}
		// At 2 KiB/s the rate is below what a source has to send, and the document takes
		// longer than short files may.
		allowed := allowance.New(allowance.Config{Rate: 2048}, "camera-1", clock.New(time.Now(), nil), slog.New(slog.DiscardHandler))
		c := New(Config{Sources: func() []string { return []string{"http://source"} }, MinRate: 4096, Allowance: allowed})
		defer overPipes(c, handler, allowed.Count)()
		path := filepath.Join(t.TempDir(), "staging")
		began := time.Now()
		if err := c.Artifact(t.Context(), artifact(), path, nil); err != nil {
			t.Fatal(err)
		}
		mustBe(t, path, firmware)
		if _, err := c.Document(t.Context(), topics.Document{SHA256: name, Length: int64(len(document))}); err != nil {
			t.Error(err)
		}
		if asked != 2 {
			t.Errorf("%d requests", asked)
		}
		if took, least := time.Since(began), time.Duration(len(firmware)+len(document)-16<<10)*time.Second/2048; took < least {
			t.Errorf("took %v, at least %v are allowed", took, least)
		}
	})
}

// TestAShutWindowStopsADownloadUnderWay: what came is kept.
func TestAShutWindowStopsADownloadUnderWay(t *testing.T) {
	now := time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)
	clk := clock.New(now, func() time.Time { return now })
	s := newSource(t, honest)
	c := client(t, s.URL)
	c.cfg.Allowance = allowance.New(allowance.Config{Windows: []topics.Window{{Start: "06:00", End: "14:00"}}}, "camera-1", clk, slog.New(slog.DiscardHandler))
	path := filepath.Join(t.TempDir(), "staging")
	var have int64
	err := c.Artifact(t.Context(), artifact(), path, func(n int64) { have, now = n, now.Add(3*time.Hour) })
	if !errors.Is(err, wake.ErrSpent) || have == 0 || have == int64(len(firmware)) {
		t.Fatalf("%d bytes: %v", have, err)
	}
	if err := c.Artifact(t.Context(), artifact(), path, nil); !errors.Is(err, wake.ErrSpent) || len(s.asked()) != 1 {
		t.Errorf("asked %q: %v", s.asked(), err)
	}
	now = now.Add(18 * time.Hour)
	if err := c.Artifact(t.Context(), artifact(), path, nil); err != nil {
		t.Fatal(err)
	}
	mustBe(t, path, firmware)
}
