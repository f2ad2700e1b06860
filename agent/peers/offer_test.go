package peers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// disk is what a device runs, which the test changes.
type disk struct {
	mu    sync.Mutex // guards what follows
	data  []byte
	err   error // of opening it
	opens int
}

func (d *disk) set(data []byte, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data, d.err = data, err
}

func (d *disk) contents(a artifact) (func(string) (Contents, bool), func() []string) {
	open := func() (ReadAtCloser, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.opens++
		return struct {
			*bytes.Reader
			nothing
		}{bytes.NewReader(d.data), nothing{}}, d.err
	}
	return func(name string) (Contents, bool) {
		return Contents{Length: int64(len(a.data)), Open: open}, name == a.name
	}, func() []string { return []string{a.name} }
}

type nothing struct{}

func (nothing) Close() error { return nil }

// TestWhatRunsIsGivenOnlyIfItIsTheArtifact: one whose partition was written to, or cannot be
// read, says that it has nothing, and announces nothing; it looks again later.
func TestWhatRunsIsGivenOnlyIfItIsTheArtifact(t *testing.T) {
	a := newArtifact(t, 1<<20)
	changed := slices.Clone(a.data)
	changed[700_000]++
	for name, c := range map[string]struct {
		data []byte
		err  error
	}{
		"changed": {data: changed}, "shorter": {data: a.data[:1<<19]}, "unreadable": {err: errors.New("input/output error")}, "nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &disk{}
				d.set(c.data, c.err)
				s := site(t)
				s.opt.Contents, s.opt.Holds = d.contents(a)
				s.out = ""
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() { defer close(ended); s.cut(ctx) }()
				defer func() { cancel(); <-ended }()
				look := func() state {
					o, busy := s.find(a.name)
					if o == nil || busy {
						t.Fatal(o, busy)
					}
					synctest.Wait() // it is cut
					s.mu.Lock()
					defer s.mu.Unlock()
					return o.state()
				}
				for range 5 {
					if v := look(); v != (state{}) {
						t.Errorf("it says to have %+v", v)
					}
				}
				if d.opens != 1 {
					t.Errorf("it looked %d times", d.opens)
				}
				if got := s.announced(); len(got) > 0 {
					t.Errorf("it announces %v", got)
				}
				d.set(a.data, nil)
				time.Sleep(recut + time.Second)
				if v := look(); v != (state{Have: len(a.index.Blocks)}) || d.opens != 2 {
					t.Errorf("when it is the artifact again, it says %+v", v)
				}
				if got := s.announced(); !slices.Equal(got, []string{a.name[:shortDigest]}) {
					t.Errorf("it announces %v", got)
				}
			})
		})
	}
}

// TestWhatRunsIsLookedAtAgainWhereABlockWasLost: at once if there was nothing to read, for
// what was downloaded may just have become what runs; else later.
func TestWhatRunsIsLookedAtAgainWhereABlockWasLost(t *testing.T) {
	a := newArtifact(t, 1<<20)
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		d.set(a.data, nil)
		s := site(t)
		s.opt.Contents, s.opt.Holds = d.contents(a)
		s.out = ""
		// While it is cut it fetches nothing: nobody is to wait for its blocks.
		if o, busy := s.find(a.name); busy || o.state() != (state{Making: true}) {
			t.Fatalf("it says %+v, %v", o.state(), busy)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); s.cut(ctx) }()
		defer func() { cancel(); <-ended }()
		synctest.Wait()
		all := state{Have: len(a.index.Blocks)}
		look := func(want state, opens int) {
			t.Helper()
			_, _ = s.find(a.name)
			synctest.Wait()
			if o, _ := s.find(a.name); o.state() != want || d.opens != opens {
				t.Fatalf("it says %+v after %d looks", o.state(), d.opens)
			}
		}
		lose := func(err error) {
			t.Helper()
			list, _ := s.holding(a.index.Blocks[3].SHA256)
			s.withdraw(list[0], err)
		}
		look(all, 1)
		lose(os.ErrNotExist)
		look(all, 2)
		lose(errChanged)
		look(state{Have: 3}, 2)
		time.Sleep(recut + time.Second)
		look(all, 3)
	})
}

// TestABlockThatIsNotThereIsTakenBack with those behind it, and those before it are given;
// one that cannot be read now is asked for later.
func TestABlockThatIsNotThereIsTakenBack(t *testing.T) {
	a := newArtifact(t, 1<<20)
	path := filepath.Join(t.TempDir(), "artifact")
	if err := os.WriteFile(path, a.data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := site(t)
	s.out = ""
	sh := s.Join(a.name, a.index, path)
	defer sh.Leave()
	defer sh.Fetches(len(a.index.Blocks))()
	sh.Have(5)
	changed := slices.Clone(a.data)
	changed[a.index.Blocks[2].Offset]++
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, true, false, true, true} { // nobody has asked for the third yet
		list, said := s.holding(a.index.Blocks[i].SHA256)
		if len(list) != 1 || !said {
			t.Fatalf("block %d: %v, %v", i, list, said)
		}
		_, err := s.read(list[0].offer, list[0].block)
		if (err == nil) != want {
			t.Errorf("block %d: %v", i, err)
		}
	}
	list, _ := s.holding(a.index.Blocks[2].SHA256)
	s.withdraw(list[0], errChanged)
	for range 2 {
		if v := sh.offer.state(); v != (state{Have: 2}) {
			t.Errorf("it says %+v", v)
		}
		sh.Have(6) // it goes on, all the same
	}
	for i := range 8 {
		list, said := s.holding(a.index.Blocks[i].SHA256)
		if (len(list) == 1) != (i < 2) || said != (i < 6) {
			t.Errorf("block %d: %v, %v", i, list, said)
		}
	}
}

// announced are the artifacts that it announces.
func (s *Site) announced() []string {
	s.listener = &pipes{}
	service, _ := s.service()
	list, _ := artifactsOf(service.Text, here)
	return list
}

// TestWhatIsNotHereTakesNobodysTurn: of documents as of blocks. What is here waits for its own.
func TestWhatIsNotHereTakesNobodysTurn(t *testing.T) {
	a := newArtifact(t, 1<<20)
	index, list := sha256.Sum256(a.index.Bytes()), sha256.Sum256([]byte("list"))
	for name, c := range map[string]struct {
		digest [32]byte
		want   int
	}{
		"index": {index, http.StatusServiceUnavailable}, "list": {list, http.StatusServiceUnavailable}, "unknown": {[32]byte{1}, http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := aSite()
				s.opt.Document = func(sha256 string) []byte {
					return map[string][]byte{hex.EncodeToString(list[:]): []byte("list")}[sha256]
				}
				o := newOffer(a.name, int64(len(a.data)))
				o.blocks = blocksOf(a.index)
				s.put(o)
				s.uploads <- struct{}{} // the only one
				r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
				r.SetPathValue("sha256", hex.EncodeToString(c.digest[:]))
				w := httptest.NewRecorder()
				s.giveDocument(w, r)
				if w.Code != c.want {
					t.Errorf("got %d, want %d", w.Code, c.want)
				}
			})
		})
	}
}
