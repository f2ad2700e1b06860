package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"groundswell/agent/agenttest"
	"groundswell/certs/trust"
	"groundswell/internal/block"
	"groundswell/topics"
)

// document serves a document by its digest.
func (f *fleet) document(raw []byte) topics.Document {
	f.t.Helper()
	sum := sha256.Sum256(raw)
	d := topics.Document{Length: int64(len(raw)), SHA256: hex.EncodeToString(sum[:])}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files["/artifacts/"+d.SHA256] = raw
	return d
}

// indexed gives a release the block index of its artifact.
func (f *fleet) indexed(artifact []byte) (block.Index, func(*trust.ReleaseImage)) {
	f.t.Helper()
	index, err := block.Make(f.t.Context(), bytes.NewReader(artifact), int64(len(artifact)))
	if err != nil {
		f.t.Fatal(err)
	}
	pin := f.document(index.Bytes())
	return index, func(i *trust.ReleaseImage) { i.Release.Index = &pin }
}

// TestDeviceFetchesOnlyWhatItDoesNotRun and reports where the bytes came from.
func TestDeviceFetchesOnlyWhatItDoesNotRun(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	artifact := agenttest.Firmware(t, "1.1.0", "healthy").Bytes
	_, indexed := f.indexed(artifact)
	image := f.publishRelease("1.1.0", artifact, indexed)
	d := f.newDevice(t, "cam-1", "")
	e := entry(image)
	f.manifest("lobby", e)
	f.assign("cam-1", []string{"lobby"})
	d.start("")
	s := d.ends(e.Rollout, topics.StateCommitted)
	if s.Transfer == nil || s.Transfer.Local < image.Length/2 || s.Transfer.Received() > image.Length/10 || s.Transfer.Index != image.Release.Index.Length {
		t.Errorf("of %d bytes: %+v", image.Length, s.Transfer)
	}
	d.runs("1.1.0", image.SHA256)
}
