package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/certs/trust"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

const (
	domain   = "fleet.test"
	model    = "cam-a"
	hardware = "rev-b"
)

// TestMain lets the tests run this very binary as an agent that kills itself
// at a named point.
func TestMain(m *testing.M) {
	if os.Getenv("AGENT_TEST_RUN") == "" {
		os.Exit(m.Run())
	}
	launch()
	onTrial := playAgent()
	if at := os.Getenv("AGENT_TEST_KILL_AT"); at != "" {
		faults = func(point string) {
			if point != at || !firstTime() {
				return
			}
			if onTrial && os.Getenv("AGENT_TEST_CUT") != "" { // the power: its launcher as well
				_ = syscall.Kill(os.Getppid(), syscall.SIGKILL)
			}
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // it takes a moment
		}
	}
	if root := os.Getenv("AGENT_TEST_ROOT"); root != "" {
		machineRoot, batteryEvery = root, 10*time.Millisecond
	}
	if path := os.Getenv("AGENT_TEST_CLOCK"); path != "" {
		machineClock = func() time.Time {
			ahead, err := os.ReadFile(path) // a duration; no file: the clock is right
			if errors.Is(err, os.ErrNotExist) {
				return time.Now()
			}
			d, err := time.ParseDuration(string(ahead))
			if err != nil {
				panic(err)
			}
			return time.Now().Add(d)
		}
	}
	daemon().Main()
}

func must[V any](t testing.TB) func(V, error) V {
	return func(v V, err error) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// fleet is a real broker, and a stand-in for fleetd with real keys: it signs,
// publishes, serves artifacts and collects reports.
type fleet struct {
	t      testing.TB
	dir    string
	ca     *certs.CA
	broker *devstack.Process
	source *httptest.Server
	fleetd *mqttclient.Client

	root, release, snapshot, timestamp, director *trust.Key
	imageRoot, directorRoot                      []byte

	mu        sync.Mutex // guards what follows
	files     map[string][]byte
	requests  map[string]int
	intercept func(http.ResponseWriter, *http.Request) (handled bool)
	targets   []byte
	pin       topics.SnapshotPin
	versions  int64
	cohorts   map[string][]topics.Entry
	received  []mqttclient.Message
}

func newFleet(t testing.TB) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir(), files: map[string][]byte{}, requests: map[string]int{}, cohorts: map[string][]topics.Entry{}, versions: time.Now().Unix()}
	now := time.Now()
	f.ca = must[*certs.CA](t)(certs.NewCA(domain, now.AddDate(-3, 0, 0), 4*365*24*time.Hour)) // older than any device that comes back
	f.write("ca.crt", f.ca.PEM())
	for _, k := range []**trust.Key{&f.root, &f.release, &f.snapshot, &f.timestamp, &f.director} {
		*k = must[*trust.Key](t)(trust.GenerateKey())
	}
	f.imageRoot = must[[]byte](t)(trust.InitRoot(trust.RootSpec{
		TrustDomain: domain, Repository: trust.Image, Expires: now.Add(time.Hour),
		Root: one(f.root), Targets: one(f.release), Snapshot: one(f.snapshot), Timestamp: one(f.timestamp),
	}, f.root))
	f.directorRoot = must[[]byte](t)(trust.InitRoot(f.directorSpec(), f.root))
	f.write("image-root.json", f.imageRoot)
	f.write("director-root.json", f.directorRoot)
	f.startSource()
	f.startBroker()
	f.connect()
	return f
}

func one(k *trust.Key) trust.RoleKeys {
	return trust.RoleKeys{Keys: []trust.PublicKey{k.Public()}, Threshold: 1}
}

func (f *fleet) directorSpec() trust.RootSpec {
	return trust.RootSpec{
		TrustDomain: domain, Repository: trust.Director, Expires: time.Now().Add(time.Hour),
		Root: one(f.root), Targets: one(f.director),
	}
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name) }

func (f *fleet) write(name string, data []byte) string {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), data, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return f.path(name)
}

func (f *fleet) startSource() {
	credential := must[certs.Credential](f.t)(f.ca.IssueService(certs.ServiceFleetd, nil, time.Hour))
	f.source = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.source.TLS = must2(certs.ServerTLS(certs.TLSOptions{Credential: credential, Authority: f.ca.Authority()}))(f.t)
	f.source.StartTLS()
	f.t.Cleanup(f.source.Close)
	f.t.Cleanup(f.source.CloseClientConnections)
}

func must2[V any](v V, err error) func(testing.TB) V {
	return func(t testing.TB) V {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (f *fleet) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	data, ok := f.files[r.URL.Path]
	f.requests[r.URL.Path]++
	intercept := f.intercept
	f.mu.Unlock()
	if intercept != nil && intercept(w, r) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	if name, ok := strings.CutPrefix(r.URL.Path, "/artifacts/"); ok {
		w.Header().Set("ETag", `"`+name+`"`)
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(data)))
}

func (f *fleet) startBroker() {
	f.t.Helper()
	path := must2(devstack.Program(context.Background(), "./broker"))(f.t)
	credential := must[certs.Credential](f.t)(f.ca.IssueService(certs.ServiceBroker, nil, time.Hour))
	if err := credential.Save(f.path("broker.crt"), f.path("broker.key")); err != nil {
		f.t.Fatal(err)
	}
	config := f.write("broker.yaml", fmt.Appendf(nil, `
trust_domain: %s
listen: 127.0.0.1:0
tls: {cert: %s, key: %s, ca: %s}
data_dir: %s
sync: 100ms
groups: [registry]
ops: {listen: "127.0.0.1:0"}
addresses_file: %s
`, domain, f.path("broker.crt"), f.path("broker.key"), f.path("ca.crt"), f.path("broker"), f.path("broker.json")))
	f.broker = devtest.Start(f.t, devstack.Spec{Name: "broker", Path: path, Args: []string{"--config", config}, AddressesFile: f.path("broker.json")})
}

// connect is fleetd's session: it collects what devices report.
func (f *fleet) connect() {
	f.t.Helper()
	credential := must[certs.Credential](f.t)(f.ca.IssueService(certs.ServiceFleetd, nil, time.Hour))
	tlsConfig := must2(certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: f.ca.Authority()}, certs.ServiceBroker))(f.t)
	up := make(chan error, 1)
	client := must[*mqttclient.Client](f.t)(mqttclient.New(mqttclient.Config{
		Servers: []string{"mqtts://" + f.broker.Addr("mqtt")}, TLS: tlsConfig, ClientID: certs.ServiceFleetd,
		OnUp: func(ctx context.Context, c *mqttclient.Client, _ bool) error {
			err := c.Subscribe(ctx, []mqttclient.Subscription{{Filter: topics.Share(topics.GroupRegistry, topics.Uplink), QoS: 1}})
			select {
			case up <- err:
			default:
			}
			return err
		},
		OnMessage: func(m mqttclient.Message) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.received = append(f.received, m)
		},
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	f.t.Cleanup(func() { cancel(); <-done })
	if err := <-up; err != nil {
		f.t.Fatal(err)
	}
	f.fleetd = client
}

// release signs an artifact as the release role does, and serves it.
func (f *fleet) publishRelease(version string, artifact []byte, change ...func(*trust.ReleaseImage)) trust.ReleaseImage {
	f.t.Helper()
	sum := sha256.Sum256(artifact)
	image := trust.ReleaseImage{
		Length: int64(len(artifact)), SHA256: hex.EncodeToString(sum[:]),
		Release: trust.Release{Schema: 1, Component: "system", Name: "camera", Version: version, Models: []string{model}},
	}
	for _, c := range change {
		c(&image)
	}
	image.Path = trust.ReleasePath(image.Release)
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.targets = must[[]byte](f.t)(trust.SignTargets(trust.TargetsSpec{
		Root: f.imageRoot, Previous: f.targets, Add: []trust.ReleaseImage{image}, Expires: now.Add(time.Hour), Now: now,
	}, f.release))
	version64 := f.pin.Version + 1
	snapshot, pin, err := trust.MakeSnapshot(f.targets, version64, now.Add(time.Hour), f.snapshot)
	if err != nil {
		f.t.Fatal(err)
	}
	f.pin = pin
	f.files[fmt.Sprintf("/repository/image/%d.snapshot.json", version64)] = snapshot
	f.files[fmt.Sprintf("/repository/image/%d.targets.json", version64)] = f.targets
	f.files["/artifacts/"+image.SHA256] = artifact
	return image
}

var rollouts struct {
	sync.Mutex
	n int64
}

// entry is a rollout of an image to everybody, at once.
func entry(image trust.ReleaseImage, change ...func(*topics.Entry)) topics.Entry {
	rollouts.Lock()
	rollouts.n++
	n := rollouts.n
	rollouts.Unlock()
	e := topics.Entry{
		Rollout: "r-" + strconv.FormatInt(n, 10), Revision: 1, Kind: topics.EntryUpdate, State: topics.EntryRunning, Sequence: n,
		Component: image.Release.Component, Release: image.Release.Name, Version: image.Release.Version,
		Target: topics.Target{Path: image.Path, Length: image.Length, SHA256: image.SHA256},
		Models: image.Release.Models, Hardware: image.Release.Hardware, Windows: []topics.Window{}, Attempts: 1,
		Waves: []topics.Wave{{Threshold: topics.Buckets, OpensAt: time.Now().Add(-time.Minute).UTC().Truncate(time.Second)}},
	}
	for _, c := range change {
		c(&e)
	}
	return e
}

func (f *fleet) publish(topic string, raw []byte, version int64) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	p := mqttclient.Publication{Topic: topic, Payload: raw, QoS: 1, Retain: version > 0}
	if version > 0 {
		p.Properties = []mqttclient.Property{{Key: topics.PropVersion, Value: strconv.FormatInt(version, 10)}}
	}
	if err := f.fleetd.Publish(ctx, p); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) next() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.versions++
	return f.versions
}

// manifest replaces a cohort's manifest.
func (f *fleet) manifest(cohort string, entries ...topics.Entry) {
	f.t.Helper()
	version := f.next()
	f.mu.Lock()
	pin, key := f.pin, f.director
	f.mu.Unlock()
	if entries == nil {
		entries = []topics.Entry{}
	}
	m := topics.Manifest{
		Schema: topics.Schema, Kind: string(topics.KindManifest), TrustDomain: domain, Cohort: cohort,
		Version: version, Issued: time.Now(), Entries: entries,
	}
	if pin.Version > 0 {
		m.Images = &pin
	}
	f.publish(topics.CohortManifest(cohort), must[[]byte](f.t)(trust.SignManifest(m, time.Now().Add(time.Hour), key)), version)
}

// assign tells a device its cohorts.
func (f *fleet) assign(device string, cohorts []string, change ...func(*topics.Assignment)) {
	f.t.Helper()
	a := topics.Assignment{
		Schema: topics.Schema, Kind: string(topics.KindAssignment), TrustDomain: domain, Device: device,
		Version: f.next(), Issued: time.Now(), Cohorts: cohorts,
	}
	for _, c := range change {
		c(&a)
	}
	f.publish(topics.DeviceAssignment(device), must[[]byte](f.t)(trust.SignAssignment(a, time.Now().Add(time.Hour), f.director)), a.Version)
}

func (f *fleet) command(device string, c topics.Command) {
	f.t.Helper()
	c.Schema, c.Kind, c.TrustDomain, c.Device = topics.Schema, string(topics.KindCommand), domain, device
	c.Version, c.Issued = f.next(), time.Now()
	f.publish(topics.DeviceCommand(device), must[[]byte](f.t)(trust.SignCommand(c, time.Now().Add(time.Hour), f.director)), 0)
}

// statuses are those that arrived of a device, in order, repetitions left out.
func (f *fleet) statuses(device string) []topics.Status {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []topics.Status
	seen := map[[2]int64]bool{}
	for _, m := range f.received {
		if m.Topic != topics.DeviceStatus(device) {
			continue
		}
		s := must[topics.Status](f.t)(topics.DecodeStatus(m.Payload))
		if key := [2]int64{s.Epoch, s.Sequence}; !seen[key] {
			seen[key] = true
			list = append(list, s)
		}
	}
	return list
}

func (f *fleet) heartbeats(device string) []topics.Heartbeat {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []topics.Heartbeat
	for _, m := range f.received {
		if m.Topic == topics.DeviceHeartbeat(device) {
			list = append(list, must[topics.Heartbeat](f.t)(topics.DecodeHeartbeat(m.Payload)))
		}
	}
	return list
}

func (f *fleet) logs(device string) []topics.Log {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []topics.Log
	for _, m := range f.received {
		if m.Topic == topics.DeviceLog(device) {
			list = append(list, must[topics.Log](f.t)(topics.DecodeLog(m.Payload)))
		}
	}
	return list
}
