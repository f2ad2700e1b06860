package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/delta"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
	"groundswell/topics"
)

// TestADeviceIsToldOfADeltaFromWhatItRunsBeforeTheFirstWaveOpens, gets it where artifacts
// are, and what it says about its bytes stands in the rollout.
func TestADeviceIsToldOfADeltaFromWhatItRunsBeforeTheFirstWaveOpens(t *testing.T) {
	p := start(t, 1, stack.Options{WithoutInflux: true, Deltas: true})
	old := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(old) // never fails
	target := bytes.Clone(old)
	copy(target[1<<20:], "the new version")
	for v, raw := range map[string][]byte{before: old, version: target} {
		file := filepath.Join(p.Dir, "image-"+v)
		if err := os.WriteFile(file, raw, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := p.Publish(t.Context(), release, v, file, []string{model}); err != nil {
			t.Fatal(err)
		}
	}
	d := p.devices[0]
	p.connect(d)
	if err := d.Beat(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	p.runs(before, 1)
	r, err := p.CreateRollout(t.Context(), map[string]any{
		"release": map[string]string{"name": release, "version": version}, "cohorts": []string{cohort},
		"policy": map[string]any{"waves": []map[string]any{{"percent": 100, "spread": "0s"}}, "delta_wait": "5m"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if r.Waves[0].State != "pending" || r.State != "running" {
		t.Fatalf("it did not wait for the delta: %+v", r)
	}
	var entry topics.Entry
	devtest.Eventually(t, time.Minute, "an open wave", func() error {
		held, _ := d.Held()
		for _, entry = range held[cohort].Entries {
			if len(entry.Waves) > 0 {
				return nil
			}
		}
		return errors.New("none yet")
	})
	if entry.Deltas == nil {
		t.Fatalf("the wave is open, and the device knows of no deltas: %+v", entry)
	}
	tls, err := certs.ClientTLS(p.tls(d.ID), certs.ServiceFleetd)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tls}}
	fetch := func(doc topics.Document) []byte {
		t.Helper()
		resp, err := client.Get(p.DownloadURL() + "/artifacts/" + doc.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if digest := sha256.Sum256(raw); err != nil || int64(len(raw)) != doc.Length || hex.EncodeToString(digest[:]) != doc.SHA256 {
			t.Fatalf("%+v: %d, %d bytes, %v", doc, resp.StatusCode, len(raw), err)
		}
		return raw
	}
	index, err := topics.DecodeDeltaIndex(fetch(*entry.Deltas))
	if digest := sha256.Sum256(old); err != nil || index.Artifact != entry.Target.SHA256 || len(index.Deltas) != 1 || index.Deltas[0].From != hex.EncodeToString(digest[:]) {
		t.Fatalf("the delta index: %+v, %v", index, err)
	}
	raw := fetch(index.Deltas[0].Document)
	head, err := delta.ReadHead(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	decoder, err := delta.NewDecoder(head, bytes.NewReader(old))
	if err != nil {
		t.Fatal(err)
	}
	var made, segment []byte
	for i, s := range head.Segments {
		if segment, err = decoder.Segment(segment[:0], i, raw[s.Offset:s.Offset+s.Length]); err != nil {
			t.Fatal(err)
		}
		made = append(made, segment...)
	}
	if !bytes.Equal(made, target) || len(head.Segments) < 2 || len(raw) > 2000 {
		t.Errorf("a delta of %d bytes in %d segments makes something else", len(raw), len(head.Segments))
	}

	s := status(r, topics.StateVerified)
	s.Transfer = &topics.Transfer{Local: 3<<20 - 70_000, Delta: int64(len(raw)), Index: entry.Deltas.Length}
	if _, err := d.Report(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, time.Minute, "the bytes in the rollout", func() error {
		var now struct {
			Transfer struct {
				Delta int64 `json:"delta_bytes"`
				Saved int64 `json:"saved_by_delta_bytes"`
			} `json:"transfer"`
		}
		if err := p.API(t.Context(), "GET", "/v1/rollouts/"+r.ID, nil, &now); err != nil {
			return err
		}
		if got := now.Transfer; got.Delta != int64(len(raw)) || got.Saved != 3<<20-int64(len(raw))-entry.Deltas.Length {
			return fmt.Errorf("it is %+v", got)
		}
		return nil
	})
}

// runs waits until fleetd knows that so many devices run a version.
func (p *platform) runs(v string, n int) {
	p.t.Helper()
	devtest.Eventually(p.t, time.Minute, "devices that run "+v, func() error {
		devices, err := p.Devices(p.t.Context(), nil)
		if err != nil {
			return err
		}
		found := 0
		for _, d := range devices {
			if d.Versions[topics.DefaultComponent] == v {
				found++
			}
		}
		if found != n {
			return fmt.Errorf("%d of %d", found, n)
		}
		return nil
	})
}

// tls is a certificate of a device.
func (p *platform) tls(id string) certs.TLSOptions {
	p.t.Helper()
	ca, err := p.CA()
	if err != nil {
		p.t.Fatal(err)
	}
	options, err := p.DeviceTLS(ca, id, model, "rev1")
	if err != nil {
		p.t.Fatal(err)
	}
	return options
}
