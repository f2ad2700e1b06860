//go:build !race

package assemble

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"groundswell/agent/fetch"
	"groundswell/agent/peers"
	"groundswell/agent/peers/mdns"
	"groundswell/agent/peers/peerstest"
	"groundswell/certs"
	"groundswell/internal/block"
	"groundswell/internal/devstack/netns"
	"groundswell/topics"
)

// lanEnv holds, in the processes that are the machines of a LAN, what they are to be.
const lanEnv = "GROUNDSWELL_TEST_LAN"

// lanMachine is a device of the LAN that downloads, or that misbehaves.
type lanMachine struct {
	Name    string
	Dir     string // of ca.pem and ca.key
	Origin  string
	Length  int64  // of the artifact
	SHA256  string // the same
	Index   topics.Document
	Hostile string // "lies", "stalls"; empty: a device
	Hurried bool   // some are hostile
}

// lanResult is what a device says in the end.
type lanResult struct {
	Transfer topics.Transfer
	Blocks   int // that a hostile one was asked for
}

// TestMachineOfALAN is one of the machines of TestTenDevicesOfALAN, each a process in a
// network namespace. By itself it is nothing.
func TestMachineOfALAN(t *testing.T) {
	if os.Getenv(lanEnv) == "" {
		return
	}
	var m lanMachine
	if err := json.Unmarshal([]byte(os.Getenv(lanEnv)), &m); err != nil {
		t.Fatal(err)
	}
	ca, err := certs.LoadCA(filepath.Join(m.Dir, "ca.pem"), filepath.Join(m.Dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(os.Stdin)
	var result lanResult
	if m.Hostile != "" {
		result.Blocks = m.misbehave(t, ca, in)
	} else {
		d := newDevice(t, m.Origin)
		d.Peers = peerstest.Site(t, ca, m.Name, ":8447", nil, func(o *peers.Options) {
			if o.Interfaces = []string{"eth0"}; m.Hurried {
				peerstest.Hurried(o)
			}
		})
		takesPart(t, d.Peers)
		fmt.Println("ready")
		_, _ = in.ReadString('\n')
		if err := d.fetch(fetch.Artifact{Length: m.Length, SHA256: m.SHA256, Index: &m.Index}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(d.path)
		if err != nil || sum(data) != m.SHA256 {
			t.Fatalf("%d bytes: %v", len(data), err)
		}
		result.Transfer = d.last
	}
	raw, _ := json.Marshal(result)
	fmt.Printf("result %s\n", raw)
	_, _ = io.Copy(io.Discard, in) // the others may still copy
}

// misbehave says that it has everything, and is announced as devices are, until it is
// told to end.
func (m *lanMachine) misbehave(t *testing.T, ca *certs.CA, in *bufio.Reader) int {
	blocks := make(chan struct{}, 1<<20)
	l, err := net.Listen("tcp", ":8447")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{TLSConfig: peerstest.TLS(t, ca, m.Name), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/artifacts/") {
			_, _ = w.Write([]byte(`{"have": 1000000}`))
			return
		}
		blocks <- struct{}{}
		if m.Hostile == "stalls" {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(m.length(t, r.URL.Path)))
		_, _ = w.Write(make([]byte, m.length(t, r.URL.Path)))
	})}
	go func() { _ = server.ServeTLS(l, "", "") }()
	defer server.Close()
	node := mdns.New(mdns.Config{
		Interfaces: []string{"eth0"}, Found: func(mdns.Found) {}, Known: func() []string { return nil },
		Service: func() (mdns.Service, bool) {
			return mdns.Service{Name: peers.Name(peerstest.Domain, m.Name), Port: 8447, Text: peers.Text(peerstest.Domain, []string{m.SHA256})}, true
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = node.Run(ctx) }()
	fmt.Println("ready")
	_, _ = in.ReadString('\n') // begin
	_, _ = in.ReadString('\n') // end
	cancel()
	<-ended
	return len(blocks)
}

// length is that of a block.
func (m *lanMachine) length(t *testing.T, path string) int {
	resp, err := http.Get(m.Origin + "/artifacts/" + m.Index.SHA256)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	index, err := block.Read(raw, m.Length)
	if err != nil {
		t.Error(err)
	}
	for _, b := range index.Blocks {
		if strings.HasSuffix(path, b.Name()) {
			return b.Length
		}
	}
	return 0
}

// started is a machine that runs.
type started struct {
	in  io.WriteCloser
	out *bufio.Scanner
	end func() error
}

// line waits for a line that begins with what is wanted, and returns the rest.
func (s *started) line(t *testing.T, name, want string) string {
	t.Helper()
	var all []string
	for s.out.Scan() {
		if rest, ok := strings.CutPrefix(s.out.Text(), want); ok {
			return strings.TrimSpace(rest)
		}
		all = append(all, s.out.Text())
	}
	t.Fatalf("%s ended before it said %q:\n%s", name, want, strings.Join(all, "\n"))
	return ""
}

// startMachine starts a machine, which ends with the test.
func startMachine(t *testing.T, m lanMachine) *started {
	t.Helper()
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	cmd := netns.Command(t.Context(), t, m.Name, os.Args[0], "-test.run=^TestMachineOfALAN$", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), lanEnv+"="+string(raw))
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &started{in, bufio.NewScanner(out), func() error { _ = in.Close(); _, _ = io.Copy(io.Discard, out); return cmd.Wait() }}
}

// TestTenDevicesOfALAN, each a process in a network namespace, find each other by multicast
// and begin to download at once: the origin sends at most 1.5 copies. So it is with two
// more among them that say that they have everything; one sends wrong blocks, the other
// none, and nobody asks them often.
func TestTenDevicesOfALAN(t *testing.T) {
	if !netns.Inside(t) {
		return
	}
	const devices, network = 10, "198.18.0." // set aside for measuring [RFC 2544]
	dir := t.TempDir()
	ca := peerstest.CA(t, peerstest.Domain)
	if err := ca.Save(filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	netns.Bridge(t, "lan", network+"254/24")
	for i := range devices {
		netns.Machine(t, fmt.Sprintf("cam-%d", i), "lan", fmt.Sprintf("%s%d/24", network, i+1))
	}
	for i, name := range []string{"lies", "stalls"} {
		netns.Machine(t, name, "lan", fmt.Sprintf("%s%d/24", network, 100+i))
	}
	for n, hostile := range [][]string{nil, {"lies", "stalls"}} {
		t.Run(fmt.Sprintf("with %d hostile", len(hostile)), func(t *testing.T) {
			o := newOriginAt(t, netip.MustParseAddr(network+"254"))
			a := o.release(noise(byte(10+n), 8<<20), false)
			machines := map[string]*started{}
			for i := range devices {
				name := fmt.Sprintf("cam-%d", i)
				machines[name] = startMachine(t, lanMachine{Name: name, Dir: dir, Origin: o.URL, Length: a.Length, SHA256: a.SHA256, Index: *a.Index, Hurried: hostile != nil})
			}
			for _, name := range hostile {
				machines[name] = startMachine(t, lanMachine{Name: name, Dir: dir, Origin: o.URL, Length: a.Length, SHA256: a.SHA256, Index: *a.Index, Hostile: name})
			}
			for name, m := range machines {
				m.line(t, name, "ready")
			}
			began := time.Now()
			for _, m := range machines {
				_, _ = fmt.Fprintln(m.in, "begin")
			}
			var all topics.Transfer
			for i := range devices {
				name := fmt.Sprintf("cam-%d", i)
				var r lanResult
				if err := json.Unmarshal([]byte(machines[name].line(t, name, "result")), &r); err != nil {
					t.Fatal(err)
				}
				all = all.Plus(r.Transfer)
			}
			took := time.Since(began)
			for _, name := range hostile {
				_, _ = fmt.Fprintln(machines[name].in, "end")
				var r lanResult
				if err := json.Unmarshal([]byte(machines[name].line(t, name, "result")), &r); err != nil {
					t.Fatal(err)
				}
				// Each device asks it once, and perhaps once more when it was passed over long enough.
				if r.Blocks < 1 || r.Blocks > 2*devices {
					t.Errorf("%s was asked for %d blocks", name, r.Blocks)
				}
				t.Logf("%s was asked for %d blocks", name, r.Blocks)
			}
			for name, m := range machines {
				if err := m.end(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			copies := o.copies(a)
			t.Logf("%d devices have %d bytes each in %v: the origin sent %.2f copies, %.2f were copied", devices, a.Length, took.Round(100*time.Millisecond), copies, float64(all.Peer)/float64(a.Length))
			if copies > 1.5 {
				t.Errorf("the origin has sent %.2f copies", copies)
			}
		})
	}
}
