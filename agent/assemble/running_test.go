package assemble

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/agent/fetch"
	"groundswell/internal/block"
	"groundswell/internal/delta"
	"groundswell/topics"
)

// indexed is an artifact that differs in one place from what a device runs, and what the origin
// has of it.
type indexed struct {
	*origin
	old, data []byte
	artifact  fetch.Artifact
	index     []byte // of data
	delta     []byte // that makes it from old's
}

func newIndexed(t *testing.T) *indexed {
	f := &indexed{origin: newOrigin(t), old: noise(1, 8<<20)}
	f.data = bytes.Clone(f.old)
	f.data[4<<20] ^= 1
	f.artifact = f.release(f.data, false)
	f.artifact.Seed = runs(t, f.old)
	f.index = indexOf(t, f.data).Bytes()
	f.delta = encode(t, indexOf(t, f.old).Bytes(), f.index, delta.Zstd)
	if len(f.index) < block.LeastDelta || len(f.delta) > len(f.index)/4 {
		t.Fatalf("an index of %d bytes, by a delta of %d", len(f.index), len(f.delta))
	}
	return f
}

// offer has the origin give raw as the delta between the indexes of old and data.
func (f *indexed) offer(old, raw []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.objects["indexes/"+sum(f.index)+"/from/"+sum(indexOf(f.t, old).Bytes())] = object{raw, sum(raw)}
}

// count counts who asks for the index, and for the delta that makes it.
func (f *indexed) count() (wholes, deltas *atomic.Int32) {
	wholes, deltas = new(atomic.Int32), new(atomic.Int32)
	f.set(func(_ http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.URL.Path == "/artifacts/"+sum(f.index):
			wholes.Add(1)
		case strings.HasPrefix(r.URL.Path, "/indexes/"):
			deltas.Add(1)
		}
		return false
	})
	return wholes, deltas
}

func TestTheBlockIndexComesAsADelta(t *testing.T) {
	f := newIndexed(t)
	f.offer(f.old, f.delta)
	wholes, deltas := f.count()
	d := newDevice(t, f.URL)
	var opened atomic.Int32
	open := f.artifact.Seed.Open
	f.artifact.Seed.Open = func() (fetch.ReadAtCloser, error) { opened.Add(1); return open() }
	d.must(f.artifact, f.data)
	if wholes.Load() != 0 || deltas.Load() != 1 || d.last.Index != int64(len(f.delta)) {
		t.Errorf("%d questions for the whole index, %d for a delta, %d bytes of %d", wholes.Load(), deltas.Load(), d.last.Index, len(f.delta))
	}
	if n := opened.Load(); n != 2 { // to be cut, and to be copied from
		t.Errorf("what runs was opened %d times", n)
	}
	// It is kept.
	again := newDevice(t, f.URL)
	again.path = d.path
	again.must(f.artifact, f.data)
	if wholes.Load() != 0 || deltas.Load() != 1 {
		t.Errorf("%d questions for the whole index, %d for a delta: it was there", wholes.Load(), deltas.Load())
	}
}

// TestABlockIndexThatDoesNotComeAsADelta is fetched as it is, and the delta is not asked for
// again.
func TestABlockIndexThatDoesNotComeAsADelta(t *testing.T) {
	other := noise(2, 8<<20)
	for name, prepare := range map[string]func(f *indexed){
		"there is none":      func(*indexed) {},
		"from another image": func(f *indexed) { f.offer(other, f.delta) },
		"of something else": func(f *indexed) {
			f.offer(f.old, encode(f.t, indexOf(f.t, f.old).Bytes(), indexOf(f.t, other).Bytes(), delta.Zstd))
		},
		"of another length": func(f *indexed) {
			f.offer(f.old, encode(f.t, indexOf(f.t, f.old).Bytes(), f.index[:len(f.index)-1], delta.Zstd))
		},
		"from another length":      func(f *indexed) { f.offer(f.old, encode(f.t, f.old[:1000], f.index, delta.Zstd)) },
		"a flipped bit":            func(f *indexed) { wrong := bytes.Clone(f.delta); wrong[len(wrong)-9] ^= 1; f.offer(f.old, wrong) },
		"cut short":                func(f *indexed) { f.offer(f.old, f.delta[:len(f.delta)-1]) },
		"empty":                    func(f *indexed) { f.offer(f.old, nil) },
		"no shorter than an index": func(f *indexed) { f.offer(f.old, append(bytes.Clone(f.delta), make([]byte, len(f.index))...)) },
		"no delta":                 func(f *indexed) { f.offer(f.old, []byte("<html>")) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newIndexed(t)
			prepare(f)
			wholes, deltas := f.count()
			d := newDevice(t, f.URL)
			d.must(f.artifact, f.data)
			if wholes.Load() != 1 || deltas.Load() != 1 || d.last.Index < int64(len(f.index)) {
				t.Errorf("%d questions for the whole index, %d for a delta, %d bytes", wholes.Load(), deltas.Load(), d.last.Index)
			}
		})
	}
}

// TestNoDeltaIsAskedForWithoutReason: of a short index, or where it is not known what runs.
func TestNoDeltaIsAskedForWithoutReason(t *testing.T) {
	f := newIndexed(t)
	f.offer(f.old, f.delta)
	_, deltas := f.count()
	f.artifact.Seed = nil
	newDevice(t, f.URL).must(f.artifact, f.data)
	small := noise(3, 1<<20)
	a := f.release(small, false)
	a.Seed = runs(t, f.old)
	newDevice(t, f.URL).must(a, small)
	if deltas.Load() != 0 {
		t.Errorf("asked %d times", deltas.Load())
	}
}

// TestASourceThatHasNoTimeForADeltaCostsTheIndex, and no more: it is not left alone for that,
// and asked once.
func TestASourceThatHasNoTimeForADeltaCostsTheIndex(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"busy": func(w http.ResponseWriter) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
		"a fault": func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) },
		"gone":    func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newIndexed(t)
			f.offer(f.old, f.delta)
			var wholes, deltas atomic.Int32
			f.set(func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case strings.HasPrefix(r.URL.Path, "/indexes/"):
					deltas.Add(1)
					answer(w)
					return true
				case r.URL.Path == "/artifacts/"+sum(f.index):
					wholes.Add(1)
				}
				return false
			})
			d := newDevice(t, f.URL)
			d.must(f.artifact, f.data)
			if wholes.Load() != 1 || deltas.Load() != 1 || d.last.Index != int64(len(f.index)) || d.last.Local == 0 {
				t.Errorf("%d questions for the whole index, %d for a delta: %+v", wholes.Load(), deltas.Load(), d.last)
			}
		})
	}
}

// TestASlowDeltaOfAnIndexIsNotWaitedFor longer than deltaPatience, though it comes byte by byte.
func TestASlowDeltaOfAnIndexIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	f := newIndexed(t)
	f.set(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/indexes/") {
			return false
		}
		w.Header().Set("Content-Length", "1000")
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte{0}) // to whom may have gone
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(time.Second):
			}
		}
		return true
	})
	d := newDevice(t, f.URL)
	d.Client = fetch.New(fetch.Config{Sources: func() []string { return []string{f.URL} }, Stall: time.Hour})
	t.Cleanup(d.Client.Close)
	d.must(f.artifact, f.data)
	if d.last.Index < int64(len(f.index)) || d.last.Local == 0 {
		t.Errorf("%+v", d.last)
	}
}

// TestAWakeThatEndsMeanwhileAsksForNoDeltaAgain: or a slow source would take each wake.
func TestAWakeThatEndsMeanwhileAsksForNoDeltaAgain(t *testing.T) {
	f := newIndexed(t)
	f.offer(f.old, f.delta)
	ctx, end := context.WithCancel(t.Context())
	var deltas atomic.Int32
	f.set(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/indexes/") {
			deltas.Add(1)
			end()
			<-r.Context().Done()
		}
		return false
	})
	d := newDevice(t, f.URL)
	if err := d.Artifact(ctx, f.artifact, d.path, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	d.must(f.artifact, f.data)
	if deltas.Load() != 1 || d.last.Index != int64(len(f.index)) {
		t.Errorf("asked %d times: %+v", deltas.Load(), d.last)
	}
}

// TestADeltaThatIsNotThereIsNotAskedForAgain while the index itself has to be waited for.
func TestADeltaThatIsNotThereIsNotAskedForAgain(t *testing.T) {
	f := newIndexed(t)
	var wholes, deltas atomic.Int32
	f.set(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasPrefix(r.URL.Path, "/indexes/"):
			deltas.Add(1)
		case r.URL.Path == "/artifacts/"+sum(f.index) && wholes.Add(1) <= 2:
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return false
	})
	newDevice(t, f.URL).must(f.artifact, f.data)
	if wholes.Load() != 3 || deltas.Load() != 1 {
		t.Errorf("%d questions for the whole index, %d for a delta", wholes.Load(), deltas.Load())
	}
}

// TestADeltaOfAnIndexIsRefused before anything is made that is not wanted.
func TestADeltaOfAnIndexIsRefused(t *testing.T) {
	f := newIndexed(t)
	old := indexOf(t, f.old).Bytes()
	want := topics.Document{Length: int64(len(f.index)), SHA256: sum(f.index)}
	for name, test := range map[string]struct {
		raw  []byte
		want error
	}{
		"it makes 64 MiB":       {encode(t, old, make([]byte, 64<<20), delta.Zstd), delta.ErrCorrupt},
		"from another length":   {encode(t, old[1:], f.index, delta.Zstd), delta.ErrCorrupt},
		"with more behind it":   {append(bytes.Clone(f.delta), 0), delta.ErrTooLarge},
		"cut short":             {f.delta[:len(f.delta)-1], delta.ErrTruncated},
		"cut within its head":   {f.delta[:delta.HeadBegin], delta.ErrTruncated},
		"of an unknown version": {append([]byte("gsd\x63"), f.delta[4:]...), delta.ErrVersion},
		"of another index":      {encode(t, old, indexOf(t, f.old).Bytes()[:len(f.index)], delta.Zstd), fetch.ErrWrongBytes},
	} {
		if out, err := indexOfDelta(test.raw, old, want); !errors.Is(err, test.want) || out != nil {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if out, err := indexOfDelta(f.delta, old, want); err != nil || !bytes.Equal(out, f.index) {
		t.Errorf("the right one: %v", err)
	}
}

// TestWhatRunsIsCutAsTheIndexIs: a longer artifact has larger blocks.
func TestWhatRunsIsCutAsTheIndexIs(t *testing.T) {
	data := noise(4, 3<<20)
	own := &running{Seed: runs(t, data)}
	read := &reads{ReaderAt: bytes.NewReader(data)}
	for _, normal := range []int{64 << 10, 64 << 10, 128 << 10} {
		x, err := own.cut(t.Context(), read, normal)
		if err != nil {
			t.Fatal(err)
		}
		want := block.Index{Length: int64(len(data)), Normal: normal}
		if err := block.Cut(t.Context(), bytes.NewReader(data), normal, func(b block.Block, _ []byte) error {
			want.Blocks = append(want.Blocks, b)
			return nil
		}); err != nil || !bytes.Equal(x.Bytes(), want.Bytes()) {
			t.Errorf("by %d: %d blocks of %d, or others: %v", normal, len(x.Blocks), len(want.Blocks), err)
		}
	}
	if read.n != 2*int64(len(data)) {
		t.Errorf("%d bytes of %d were read", read.n, len(data))
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := own.cut(ended, read, 256<<10); err == nil {
		t.Error("it was cut after its end")
	}
}

// reads counts what is read.
type reads struct {
	io.ReaderAt
	n int64
}

func (r *reads) ReadAt(p []byte, at int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(p, at)
	r.n += int64(n)
	return n, err
}

func FuzzIndexOfDelta(f *testing.F) {
	old := indexOf(f, noise(1, 1<<20)).Bytes()
	data := noise(1, 1<<20)
	data[1000] ^= 1
	index := indexOf(f, data).Bytes()
	f.Add(encode(f, old, index, delta.Zstd))
	f.Add(encode(f, old, index, delta.Mixed))
	want := topics.Document{Length: int64(len(index)), SHA256: sum(index)}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if out, err := indexOfDelta(raw, old, want); err == nil && !bytes.Equal(out, index) {
			t.Errorf("%d bytes that are not the index", len(out))
		}
	})
}
