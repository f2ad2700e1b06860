package assemble

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/agent/fetch"
	"groundswell/internal/block"
	"groundswell/topics"
)

// noise is the same for the same seed.
func noise(seed byte, n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data) // never fails
	return data
}

// text compresses well, and has no two equal blocks.
func text(seed byte, n int) []byte {
	var out []byte
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	for len(out) < n {
		out = fmt.Appendf(out, "line %d of firmware %d\n", r.IntN(1000), seed)
	}
	return out[:n]
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// origin serves as fleetd does.
type origin struct {
	*httptest.Server
	t       testing.TB
	mu      sync.Mutex // guards what follows
	objects map[string]object
	sent    map[string]int64 // bytes of bodies, by the first part of the path
	asking  int              // requests
	// cut is after how many bytes of bodies the connection is cut, once; negative: never.
	cut  int64
	cuts int
	// fault, if not nil, may answer instead: true if it did.
	fault func(w http.ResponseWriter, r *http.Request) bool
}

type object struct {
	data []byte
	tag  string
}

func newOrigin(t testing.TB) *origin { return newOriginAt(t, netip.Addr{}) }

// newOriginAt listens on an address.
func newOriginAt(t testing.TB, addr netip.Addr) *origin {
	o := &origin{t: t, objects: map[string]object{}, sent: map[string]int64{}, cut: -1}
	o.Server = httptest.NewUnstartedServer(http.HandlerFunc(o.serve))
	if addr.IsValid() {
		l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		if err != nil {
			t.Fatal(err)
		}
		_ = o.Listener.Close() // that of loopback
		o.Listener = l
	}
	o.Start()
	t.Cleanup(o.Close)
	t.Cleanup(o.CloseClientConnections)
	return o
}

func (o *origin) serve(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	fault := o.fault
	o.asking++
	x, ok := o.objects[strings.TrimPrefix(r.URL.Path, "/")]
	o.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", `"`+x.tag+`"`)
	kind := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 2)[0]
	http.ServeContent(counted{w, o, kind}, r, "", time.Time{}, bytes.NewReader(x.data))
}

// asked is how many requests there were.
func (o *origin) asked() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asking
}

type counted struct {
	http.ResponseWriter
	o    *origin
	kind string
}

func (c counted) Write(p []byte) (int, error) {
	c.o.mu.Lock()
	ends := c.o.cut >= 0 && int64(len(p)) > c.o.cut
	if ends {
		p = p[:c.o.cut]
		c.o.cut = -1
		c.o.cuts++
	} else if c.o.cut >= 0 {
		c.o.cut -= int64(len(p))
	}
	c.o.mu.Unlock()
	n, err := c.ResponseWriter.Write(p)
	if ends {
		_ = http.NewResponseController(c.ResponseWriter).Flush() // gone anyway
		panic(http.ErrAbortHandler)
	}
	c.o.mu.Lock()
	c.o.sent[c.kind] += int64(n)
	c.o.mu.Unlock()
	return n, err
}

func (o *origin) set(fault func(w http.ResponseWriter, r *http.Request) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fault = fault
}

// cutAfter cuts a connection after so many bytes.
func (o *origin) cutAfter(n int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cut = n
}

// uncut is how often a connection was cut since the last time, and ends that.
func (o *origin) uncut() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.cuts
	o.cut, o.cuts = -1, 0
	return n
}

// put stores data as an artifact is stored.
func (o *origin) put(data []byte) topics.Document {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.objects["artifacts/"+sum(data)] = object{data, sum(data)}
	return topics.Document{Length: int64(len(data)), SHA256: sum(data)}
}

// release stores an artifact with its index, and its packed blocks if they are wanted.
func (o *origin) release(data []byte, pack bool) fetch.Artifact {
	o.t.Helper()
	d := o.put(data)
	index := indexOf(o.t, data)
	pin := o.put(index.Bytes())
	if pack {
		o.pack(data, index)
	}
	return fetch.Artifact{Length: d.Length, SHA256: d.SHA256, Index: &pin}
}

func indexOf(t testing.TB, data []byte) block.Index {
	t.Helper()
	index, err := block.Make(t.Context(), bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func (o *origin) pack(data []byte, index block.Index) {
	o.t.Helper()
	packer, err := block.NewPacker()
	if err != nil {
		o.t.Fatal(err)
	}
	var all []byte
	var lengths []int
	for _, b := range index.Blocks {
		before := len(all)
		all = packer.Pack(all, data[b.Offset:b.Offset+int64(b.Length)])
		lengths = append(lengths, len(all)-before)
	}
	table := block.NewTable(lengths).Bytes()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.objects["packs/"+sum(data)+"/table"] = object{table, sum(table)}
	o.objects["packs/"+sum(data)+"/"+sum(table)] = object{all, sum(table)}
}

// device assembles into a file of its own.
type device struct {
	Downloads
	t    testing.TB
	path string
	last topics.Transfer
	have int64
}

func newDevice(t testing.TB, bases ...string) *device {
	client := fetch.New(fetch.Config{
		Sources: func() []string { return bases }, BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond, Stall: 20 * time.Second,
	})
	t.Cleanup(client.Close)
	return &device{Downloads: Downloads{Client: client, Log: slog.New(slog.DiscardHandler)}, t: t, path: filepath.Join(t.TempDir(), "staging")}
}

func (d *device) fetch(a fetch.Artifact) error {
	return d.fetchWithin(d.t.Context(), a)
}

func (d *device) fetchWithin(ctx context.Context, a fetch.Artifact) error {
	return d.Artifact(ctx, a, d.path, func(have int64, transfer topics.Transfer) { d.have, d.last = have, transfer })
}

func (d *device) must(a fetch.Artifact, want []byte) {
	d.t.Helper()
	if err := d.fetch(a); err != nil {
		d.t.Fatal(err)
	}
	d.holds(want)
}

func (d *device) holds(want []byte) {
	d.t.Helper()
	got, err := os.ReadFile(d.path)
	if err != nil || !bytes.Equal(got, want) {
		d.t.Fatalf("%d bytes of %d, or others: %v", len(got), len(want), err)
	}
}

// runs makes data what the device runs.
func runs(t testing.TB, data []byte) *fetch.Seed {
	t.Helper()
	path := filepath.Join(t.TempDir(), "running")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return &fetch.Seed{SHA256: sum(data), Length: int64(len(data)), Open: func() (fetch.ReadAtCloser, error) { return os.Open(path) }}
}
