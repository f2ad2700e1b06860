package assemble

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"groundswell/internal/delta"
	"groundswell/topics"
)

// edited is an old version and a new one of n bytes, whose delta has many times headGuess.
func edited(n int) (old, data []byte) {
	old = noise(20, n)
	data = bytes.Clone(old)
	for i := range n / 1000 {
		data[(i*7919*613)%len(data)] ^= byte(1 + i%255)
	}
	return old, data
}

// editedOnce is one of 4 MiB with its delta.
func editedOnce(t *testing.T) (old, data, good []byte) {
	t.Helper()
	return editedPair.of(t, func() (old, data []byte) { return edited(4 << 20) })
}

// asked is which bytes a request is for.
func askedFor(r *http.Request) (from, to int) {
	_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to) // else none
	return from, to + 1
}

// promise begins an answer of bytes [from, to) of an object.
func promise(w http.ResponseWriter, tag string, from, to, length int) {
	w.Header().Set("ETag", `"`+tag+`"`)
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, length))
	w.Header().Set("Content-Length", strconv.Itoa(to-from))
	w.WriteHeader(http.StatusPartialContent)
}

// TestADeltaThatCannotBeReadIsLeft for the artifact, whatever its source answers: its head
// comes, and nothing else of it.
func TestADeltaThatCannotBeReadIsLeft(t *testing.T) {
	old, data := edited(8 << 20)
	good := encode(t, old, data, delta.Zstd)
	for name, answer := range map[string]func(w http.ResponseWriter, from, to int){
		"403": func(w http.ResponseWriter, _, _ int) { w.WriteHeader(http.StatusForbidden) },
		"500": func(w http.ResponseWriter, _, _ int) { w.WriteHeader(http.StatusInternalServerError) },
		"cut": func(w http.ResponseWriter, from, to int) {
			promise(w, sum(good), from, to, len(good))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"no answer": func(http.ResponseWriter, int, int) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			a := o.release(data, true)
			o.delta(&a, old, data, good)
			var times atomic.Int32
			o.set(func(w http.ResponseWriter, r *http.Request) bool {
				from, to := askedFor(r)
				if r.URL.Path != "/artifacts/"+sum(good) || from == 0 {
					return false
				}
				times.Add(1)
				answer(w, from, to)
				return true
			})
			d := newDevice(t, o.URL)
			d.must(a, data)
			if d.last.Packed+d.last.Full == 0 || times.Load() > 2*maxStrikes*maxStrikes {
				t.Errorf("%+v, the delta was asked for %d times", d.last, times.Load())
			}
		})
	}
}

// TestAPackWithAHoleCostsASegment, which comes as it is.
func TestAPackWithAHoleCostsASegment(t *testing.T) {
	data := text(3, 6<<20)
	o := newOrigin(t)
	a := o.release(data, true)
	path, pack := o.packOf(a.SHA256)
	hole := len(pack.data) / 2
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		from, to := askedFor(r)
		if r.URL.Path != path || to <= hole || from > hole {
			return false
		}
		promise(w, pack.tag, from, to, len(pack.data))
		_, _ = w.Write(pack.data[from:hole])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	d := newDevice(t, o.URL)
	d.must(a, data)
	if d.last.Full == 0 || d.last.Full > 2<<20 || d.last.Packed < int64(len(pack.data)/2) {
		t.Errorf("%+v of a pack of %d bytes", d.last, len(pack.data))
	}
}

// packOf is the pack of an artifact, and where it is.
func (o *origin) packOf(artifact string) (path string, pack object) {
	o.t.Helper()
	for name, there := range o.objects {
		if strings.HasPrefix(name, "packs/"+artifact+"/") && !strings.HasSuffix(name, "/table") {
			return "/" + name, there
		}
	}
	o.t.Fatal("there is no pack")
	return "", object{}
}

// TestAnOutageIsNoReasonToLeaveADelta: while nothing can be had at all, or a portal answers
// for everybody, it is not the delta. It costs what is fetched by another way when it ends, at
// most.
func TestAnOutageIsNoReasonToLeaveADelta(t *testing.T) {
	const segment = 2 << 20
	old, data, good := editedOnce(t)
	units := func(r *http.Request) bool {
		from, _ := askedFor(r)
		return r.URL.Path == "/artifacts/"+sum(good) && from > 0
	}
	outage := func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }
	portal := func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>accept our terms</html>")) }
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter)
		begins func(r *http.Request) bool
		times  int32
		whole  bool // the artifact itself is there
	}{
		"while units are fetched":                     {outage, units, 40, true},
		"a portal, while units are fetched":           {portal, units, 5, true},
		"while only a delta is there":                 {outage, units, 4, false},
		"while the delta is opened":                   {outage, func(r *http.Request) bool { return strings.Contains(r.URL.Path, sum(good)) }, 20, true},
		"a portal, when the delta is opened":          {portal, func(r *http.Request) bool { return strings.Contains(r.URL.Path, sum(good)) }, 1, true},
		"from the question which deltas there are on": {outage, func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/artifacts/") }, 20, true},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			a := o.release(data, true)
			o.delta(&a, old, data, good)
			if !c.whole {
				delete(o.objects, "artifacts/"+a.SHA256)
				path, _ := o.packOf(a.SHA256)
				delete(o.objects, path[1:])
			}
			var out atomic.Int32
			o.set(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/artifacts/"+a.Index.SHA256 || out.Load() == 0 && !c.begins(r) || out.Add(1) > c.times {
					return false
				}
				c.answer(w)
				return true
			})
			d := newDevice(t, o.URL)
			d.must(a, data)
			if d.last.Delta < int64(len(good))/2 || d.last.Packed+d.last.Full > segment {
				t.Errorf("%+v by a delta of %d bytes", d.last, len(good))
			}
		})
	}
}

// TestAWayThatIsGoneAfterAnOutageIsAskedForOnce more, and not after each segment.
func TestAWayThatIsGoneAfterAnOutageIsAskedForOnce(t *testing.T) {
	old, data := edited(8 << 20)
	good := []byte("a delta")
	o := newOrigin(t)
	a := o.release(data, false)
	o.delta(&a, old, data, good)
	var asked atomic.Int32
	o.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/artifacts/"+sum(good) {
			return false
		}
		if asked.Add(1) <= patience+1 { // an outage, until it is done without
			w.WriteHeader(http.StatusBadGateway)
		} else {
			w.WriteHeader(http.StatusNotFound)
		}
		return true
	})
	newDevice(t, o.URL).must(a, data)
	if n := asked.Load(); n != patience+2 {
		t.Errorf("asked %d times, %d of them in the outage", n, patience+1)
	}
}

// TestAWrongHeadCostsASource: another one has the right head. A wrong one may be refused at
// once, or be found out by what it makes.
func TestAWrongHeadCostsASource(t *testing.T) {
	old, data, good := editedOnce(t)
	head, err := delta.ReadHead(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	// Of the same lengths, so that its head fits to the artifact.
	other := encode(t, old, bytes.Join([][]byte{data[:len(data)-5], []byte("other")}, nil), delta.Mixed)
	for name, bad := range map[string][]byte{
		"of no delta":          append(bytes.Clone(good[:delta.HeadBegin]), bytes.Repeat([]byte{0xff}, len(good)-delta.HeadBegin)...),
		"of another version":   append([]byte("gsd\x63"), good[4:]...),
		"of another delta":     append(bytes.Clone(other[:head.Length]), good[head.Length:]...),
		"where copies go wild": func() []byte { b := bytes.Clone(good); b[head.Length-3] ^= 0x10; return b }(),
	} {
		t.Run(name, func(t *testing.T) {
			first, second := newOrigin(t), newOrigin(t)
			a := second.release(data, true)
			second.delta(&a, old, data, good)
			for name, there := range second.objects {
				first.objects[name] = there
			}
			first.objects["artifacts/"+sum(good)] = object{bad, sum(good)}
			d := newDevice(t, first.URL, second.URL)
			d.must(a, data)
			if d.last.Delta < int64(len(good))/4 || d.last.Full > 0 || d.last.Packed > 3<<20+1<<19 {
				t.Errorf("%+v by a delta of %d bytes", d.last, len(good))
			}
		})
	}
}

// TestASpoiltHeadIsFetchedAnew: a power cut may leave a file that was not synchronised with a
// hole, and flash may flip a bit where nothing shows it.
func TestASpoiltHeadIsFetchedAnew(t *testing.T) {
	old, data, good := editedOnce(t)
	head, err := delta.ReadHead(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(head []byte){
		"a hole": func(head []byte) { clear(head[20:60]) },
		"a bit":  func(head []byte) { head[len(head)-3] ^= 0x10 },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			a := o.release(data, true)
			o.delta(&a, old, data, good)
			d := newDevice(t, o.URL)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_ = d.Artifact(ctx, a, d.path, func(have int64, _ topics.Transfer) {
				if have > 0 {
					cancel()
				}
			})
			heads, err := filepath.Glob(d.path + ".head-*")
			if err != nil || len(heads) != 1 {
				t.Fatalf("%v, %v", heads, err)
			}
			raw, err := os.ReadFile(heads[0])
			if err != nil {
				t.Fatal(err)
			}
			at := bytes.Index(raw, good[:head.Length])
			spoil(raw[at:][:head.Length])
			if err := os.WriteFile(heads[0], raw, 0o600); err != nil {
				t.Fatal(err)
			}
			d.must(a, data)
			if d.last.Packed+d.last.Full > 0 || d.last.Delta > int64(len(good)) {
				t.Errorf("%+v by a delta of %d bytes", d.last, len(good))
			}
		})
	}
}

// TestATableOfNothingCostsASource: what it names nobody has.
func TestATableOfNothingCostsASource(t *testing.T) {
	data := text(3, 3<<20)
	first, second := newOrigin(t), newOrigin(t)
	a := second.release(data, true)
	_, pack := second.packOf(a.SHA256)
	for name, there := range second.objects {
		if strings.HasSuffix(name, "/table") {
			there.data = bytes.Clone(there.data)
			there.data[len(there.data)-2]--
			there.tag = sum(there.data)
		}
		first.objects[name] = there
	}
	d := newDevice(t, first.URL, second.URL)
	d.must(a, data)
	if d.last.Packed != int64(len(pack.data)) || d.last.Full > 0 {
		t.Errorf("%+v of a pack of %d bytes", d.last, len(pack.data))
	}
}

// TestWakesThatAreTooShortForAUnit bring it by and by, and say what they fetched.
func TestWakesThatAreTooShortForAUnit(t *testing.T) {
	old, data, good := editedOnce(t)
	head, err := delta.ReadHead(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		raw     []byte // what is fetched
		begin   int64  // of its units
		unit    int64  // the length of the first
		hostile bool   // a source that is asked first sends a wrong byte and hangs up
	}{
		"the artifact":                  {data[:256<<10], 0, int64(indexOf(t, data[:256<<10]).Blocks[0].Length), false},
		"the artifact, and another one": {data[:256<<10], 0, int64(indexOf(t, data[:256<<10]).Blocks[0].Length), true},
		"a delta":                       {good, head.Length, head.Segments[0].Length, false},
	} {
		t.Run(name, func(t *testing.T) {
			o, bad := newOrigin(t), newOrigin(t)
			data := data
			if c.begin == 0 {
				data = c.raw
			}
			a := o.release(data, false)
			if c.begin > 0 {
				o.delta(&a, old, data, good)
			}
			bad.objects["artifacts/"+a.Index.SHA256] = o.objects["artifacts/"+a.Index.SHA256]
			bad.set(func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/artifacts/"+sum(c.raw) {
					return false
				}
				from, to := askedFor(r)
				promise(w, sum(c.raw), from, to, len(c.raw))
				_, _ = w.Write([]byte{c.raw[from] ^ 1})
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			})
			sources := []string{o.URL}
			if c.hostile {
				sources = []string{bad.URL, o.URL}
			}
			piece := int(c.unit)/3 + 1
			var end context.CancelFunc
			var sent atomic.Int64
			var pieces atomic.Int32 // of this wake
			o.set(func(w http.ResponseWriter, r *http.Request) bool {
				from, to := askedFor(r)
				if r.URL.Path != "/artifacts/"+sum(c.raw) || from < int(c.begin) {
					return false
				}
				if pieces.Add(1) > 1 { // the first has come
					end()
					<-r.Context().Done()
					return true
				}
				promise(w, sum(c.raw), from, to, len(c.raw))
				n, _ := w.Write(c.raw[from:min(from+piece, to)])
				sent.Add(int64(n))
				if from+n < to {
					_ = http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				}
				return true
			})
			d := newDevice(t, sources...)
			for wakes := 0; ; wakes++ {
				if wakes > 3*(len(c.raw)/piece+2) {
					t.Fatalf("%d bytes after %d wakes", d.have, wakes)
				}
				pieces.Store(0)
				var ctx context.Context
				ctx, end = context.WithCancel(t.Context())
				d.last = topics.Transfer{}
				before := sent.Load()
				err := d.fetchWithin(ctx, a)
				end()
				if got, counted := sent.Load()-before, d.last.Full+d.last.Delta; !c.hostile && (got > counted || counted > got+headGuess) {
					t.Errorf("wake %d: %d bytes were sent, %+v", wakes, got, d.last)
				}
				if err == nil {
					break
				}
			}
			d.holds(data)
			if sent.Load() > int64(len(c.raw)) && !c.hostile {
				t.Errorf("%d bytes were sent of %d", sent.Load(), len(c.raw))
			}
		})
	}
}
