package artifact_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"groundswell/fleetd/artifact"
	"groundswell/internal/block"
)

// packed is a directory of artifacts with these in it, packed.
func packed(t *testing.T, all ...[]byte) (*artifact.Packs, *artifact.Blobs, string, []block.Index) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "artifacts")
	blobs, err := artifact.OpenBlobs(dir, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	packs := artifact.NewPacks(blobs)
	var indexes []block.Index
	for _, data := range all {
		if _, err := blobs.Put(t.Context(), digest(data), int64(len(data)), bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		index, err := block.Make(t.Context(), bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if err := packs.Make(t.Context(), digest(data), index.Bytes(), index.Length); err != nil {
			t.Fatal(err)
		}
		indexes = append(indexes, index)
	}
	return packs, blobs, dir, indexes
}

// fetch gets a range, or everything for "".
func fetch(t *testing.T, url, ranges string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// TestPackedBlocksAreServedByRanges: each is what its index says, from wherever it is
// asked for.
func TestPackedBlocksAreServedByRanges(t *testing.T) {
	data := append(firmware(700_000), bytes.Repeat([]byte("compressible "), 60_000)...)
	packs, blobs, _, indexes := packed(t, data)
	server := serve(t, blobs, func(c *artifact.DownloadsConfig) { c.Packs = packs })
	base, index := server.URL+"/packs/"+digest(data), indexes[0]
	resp, raw := fetch(t, base+"/table", "")
	table, err := block.ReadTable(raw, index)
	if err != nil || resp.Header.Get("ETag") != `"`+digest(raw)+`"` || resp.Header.Get("Cache-Control") == "" {
		t.Fatalf("%v %v", err, resp.Header)
	}
	if table.Length() > int64(len(data))*95/100 {
		t.Errorf("%d bytes are packed into %d", len(data), table.Length())
	}
	unpacker, err := block.NewUnpacker()
	if err != nil {
		t.Fatal(err)
	}
	defer unpacker.Close()
	resp, all := fetch(t, base+"/"+digest(raw), "")
	if int64(len(all)) != table.Length() || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
		t.Fatalf("%d bytes, %v", len(all), resp.Header)
	}
	for i, b := range index.Blocks {
		from, to := table.Range(i)
		resp, part := fetch(t, base+"/"+digest(raw), fmt.Sprintf("bytes=%d-%d", from, to-1))
		if resp.StatusCode != http.StatusPartialContent || !bytes.Equal(part, all[from:to]) || resp.Header.Get("ETag") != `"`+digest(raw)+`"` {
			t.Fatalf("block %d: %d, %d bytes", i, resp.StatusCode, len(part))
		}
		got, err := unpacker.Unpack(nil, b, part)
		if err != nil || !bytes.Equal(got, data[b.Offset:b.Offset+int64(b.Length)]) {
			t.Fatalf("block %d: %v", i, err)
		}
	}
	// Over the edges of blocks.
	if _, part := fetch(t, base+"/"+digest(raw), "bytes=1000-300000"); !bytes.Equal(part, all[1000:300_001]) {
		t.Error("another range")
	}
}

// TestABlockIsStoredOnce, whatever versions have it.
func TestABlockIsStoredOnce(t *testing.T) {
	old := firmware(3 << 20)
	data := slices.Concat(old[:1<<20], []byte("something new"), old[1<<20:])
	_, _, dir, indexes := packed(t, old, data)
	var stored int64
	for _, file := range files(t, filepath.Join(dir, "blocks")) {
		info, err := os.Stat(file)
		if err != nil {
			if info, err = os.Stat(filepath.Join(dir, "blocks", file)); err != nil {
				t.Fatal(err)
			}
		}
		stored += info.Size()
	}
	if most := indexes[1].Length * 120 / 100; stored == 0 || stored > most {
		t.Errorf("%d bytes are stored for two versions of %d", stored, indexes[1].Length)
	}
}

func TestWhatIsNotPackedIsNotThere(t *testing.T) {
	data := firmware(100_000)
	packs, blobs, dir, _ := packed(t, data)
	server := serve(t, blobs, func(c *artifact.DownloadsConfig) { c.Packs = packs })
	other := digest([]byte("another"))
	for _, path := range []string{other + "/table", other + "/" + other, digest(data) + "/" + other, "x/table", "../table", digest(data)} {
		if resp, _ := fetch(t, server.URL+"/packs/"+path, ""); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	if there, err := packs.Has(context.Background(), other); there || err != nil {
		t.Error(there, err)
	}
	// An index of something else packs nothing.
	wrong, err := block.Make(t.Context(), bytes.NewReader(make([]byte, 100_000)), 100_000)
	if err != nil {
		t.Fatal(err)
	}
	if err := artifact.NewPacks(blobs).Make(t.Context(), digest(data), wrong.Bytes(), 100_000); !errors.Is(err, block.ErrWrong) {
		t.Errorf("packed by another index: %v", err)
	}
	// A block that has become shorter ends the answer before its end.
	for _, file := range files(t, filepath.Join(dir, "blocks")) {
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, "blocks", file)
		}
		if err := os.Truncate(file, 10); err != nil {
			t.Fatal(err)
		}
	}
	_, raw := fetch(t, server.URL+"/packs/"+digest(data)+"/table", "")
	resp, err := http.Get(server.URL + "/packs/" + digest(data) + "/" + digest(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("blocks that are too short were served as if they were whole")
	}
}

// TestASignatureOfAnArtifactOpensItsPack, and nothing else does.
func TestASignatureOfAnArtifactOpensItsPack(t *testing.T) {
	data := firmware(100_000)
	packs, blobs, _, _ := packed(t, data)
	keys := signatures(t, 3600_000_000_000, keyA)
	server := serve(t, blobs, func(c *artifact.DownloadsConfig) { c.Packs, c.Signatures = packs, keys })
	_, raw := fetch(t, server.URL+"/packs/"+digest(data)+"/table", "")
	path := server.URL + "/packs/" + digest(data) + "/" + digest(raw)
	// Nor is it looked at before.
	none := digest([]byte("none"))
	for _, path := range []string{path, server.URL + "/packs/" + none + "/" + none} {
		if resp, _ := fetch(t, path, ""); resp.StatusCode != http.StatusForbidden {
			t.Errorf("without: %d", resp.StatusCode)
		}
	}
	redirecting := serve(t, blobs, func(c *artifact.DownloadsConfig) {
		c.Packs, c.Signatures, c.RedirectTo = packs, keys, server.URL
	})
	resp, body := fetch(t, redirecting.URL+"/packs/"+digest(data)+"/"+digest(raw), "bytes=0-99")
	if resp.StatusCode != http.StatusPartialContent || len(body) != 100 {
		t.Errorf("redirected with a signature: %d, %d bytes", resp.StatusCode, len(body))
	}
}
