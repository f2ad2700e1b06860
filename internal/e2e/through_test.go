package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/devstack/stack"
	"groundswell/internal/expand"
	"groundswell/topics"
)

// throttled is how many bytes a second a device takes that is to die in its download.
const throttled = 32 << 10

// TestARolloutLooksThroughCompression: fleetd makes both deltas of an image with compressed
// parts, two devices take the expanded one, and confirm what it made by running it. One of
// them is killed in the middle of it, inside of a stream, and fetches nothing twice but for
// the unit that was on its way.
func TestARolloutLooksThroughCompression(t *testing.T) {
	p := start(t, 0, stack.Options{Deltas: true})
	images := map[string]string{before: image(t, before), version: image(t, version)}
	for v, file := range images {
		if err := p.Publish(t.Context(), release, v, file, []string{model}); err != nil {
			t.Fatal(err)
		}
	}
	agent := func(id string, change func(stack.Config)) *stack.Agent {
		t.Helper()
		a, err := p.StartAgent(t.Context(), stack.AgentOptions{ID: id, Model: model, Hardware: "rev-b", Firmware: images[before], Version: before, Config: change})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	steady := agent("steady", nil)
	killed := agent("killed", func(c stack.Config) { c.Set(throttled, "download", "rate") })
	if _, err := p.Fleetctl(t.Context(), "cohort", "create", "all", "--selector", "model="+model); err != nil {
		t.Fatal(err)
	}
	p.runs(before, 2)
	// They are off when the rollout starts, so that fleetd has all the time that it needs.
	for _, a := range []*stack.Agent{steady, killed} {
		if err := a.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	r, err := p.CreateRollout(t.Context(), map[string]any{
		"release": map[string]string{"name": release, "version": version}, "cohorts": []string{"all"},
		"policy": map[string]any{"waves": []map[string]any{{"percent": 100, "spread": "0s", "soak": "0s"}}, "settle": "1s", "delta_wait": "5m"},
	})
	if err != nil {
		t.Fatal(err)
	}
	plain, through := p.bothDeltas()
	if through.Length > plain/3 {
		t.Fatalf("the expanded delta has %d bytes, the plain one %d", through.Length, plain)
	}
	head, err := expand.ReadHead(p.download(through))
	if err != nil {
		t.Fatal(err)
	}
	middle := inside(t, head)

	if err := killed.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, time.Minute, "a download that is in the middle of a stream", func() error {
		if have := staged(t, killed); have < head.Units[middle].Start {
			return fmt.Errorf("%d bytes of %d", have, head.Units[middle].Start)
		}
		return nil
	})
	killed.Kill()
	have := staged(t, killed)
	at := slices.IndexFunc(head.Units, func(u expand.Unit) bool { return have < u.Start+u.Size })
	if at < 0 || head.Since(at) == at {
		t.Fatalf("it died with %d bytes, outside of a stream", have)
	}
	for _, a := range []*stack.Agent{killed, steady} {
		if err := a.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r, err = p.AwaitRollout(t.Context(), r.ID, 100*time.Millisecond, func(r *stack.Rollout) bool { return r.State != "running" })
	if err != nil || r.State != "completed" || r.Count("committed") != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	p.runs(version, 2)

	// The steady one got each byte of the expanded delta once, but for where its head is
	// longer than was thought; the other, after its death, what was behind the last unit.
	const headGuess = 4 << 10
	whole, rest := p.transfer(r, steady.ID), p.transfer(r, killed.ID)
	if whole.Delta < through.Length*9/10 || whole.Delta > through.Length+headGuess || whole.Packed+whole.Full+whole.Peer != 0 || whole.Received() > plain/3 || whole.Local == 0 {
		t.Errorf("the steady device's bytes: %+v; the expanded delta has %d, the plain one %d", whole, through.Length, plain)
	}
	if most := through.Length - head.Units[at].Offset; rest.Delta == 0 || rest.Delta > most || rest.Received() != rest.Delta {
		t.Errorf("after its death with %d bytes, in unit %d of %d, the device got %+v; %d were to come", have, at, len(head.Units), rest, most)
	}
	info, err := os.Stat(images[version])
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Transfer; got.Devices != 2 || got.Delta != whole.Delta+rest.Delta || got.Full+got.Packed != 0 || got.Saved != 2*info.Size()-whole.Received()-rest.Received() {
		t.Errorf("the rollout's bytes: %+v of 2 x %d", got, info.Size())
	}
	devtest.Eventually(t, time.Minute, "both devices' bytes in InfluxDB", func() error {
		out, err := p.Influx.InfluxQL(t.Context(), "groundswell", `SELECT count("delta_bytes"), sum("delta_bytes"), sum("full_bytes") FROM "status" WHERE "state" = 'committed'`)
		if want := fmt.Sprintf(",2,%d,0]", whole.Delta+rest.Delta); err != nil || !strings.Contains(out, want) {
			return fmt.Errorf("want %s: %s, %v", want, strings.TrimSpace(out), err)
		}
		return nil
	})
}

// image is the path of a firmware that runs, as the demo's devices have it, with a
// compressed stream behind it that is long, as that of a kernel, and a file system.
func image(t *testing.T, version string) string {
	t.Helper()
	program, err := devstack.Firmware(t.Context(), version, true)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	run := func(program string, args ...string) []byte {
		t.Helper()
		out, err := exec.Command(program, args...).Output()
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		return out
	}
	read := func(path string) []byte {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	kernel := run("gzip", "-nc6", write("kernel", letters(1, version, 4<<20)))
	write("root/usr/lib/large", letters(2, version, 1<<20))
	write("root/etc/small", []byte("the version "+version))
	run("mksquashfs", filepath.Join(dir, "root"), filepath.Join(dir, "squashfs"), "-quiet", "-no-progress", "-reproducible", "-mkfs-time", "1767225600",
		"-all-time", "1767225600", "-all-root", "-comp", "gzip", "-Xcompression-level", "6")
	return write("image", slices.Concat(read(program), kernel, read(filepath.Join(dir, "squashfs"))))
}

// letters is content of which three eighths are saved by compression, and an eighth is of
// its version only.
func letters(seed byte, version string, n int) []byte {
	const piece = 32 << 10
	key := [32]byte{seed}
	data := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(data) // never fails
	copy(key[1:], version)
	own := rand.NewChaCha8(key)
	for at := 0; at+piece <= n; at += piece {
		_, _ = own.Read(data[at : at+piece/8])
	}
	for i := range data {
		data[i] &= 0x1f
	}
	return data
}

// inside is a unit in the middle of those that begin inside of a stream, so that those before
// are needed to make it.
func inside(t *testing.T, h *expand.Head) int {
	t.Helper()
	var units []int
	for n := range h.Units {
		if h.Since(n) < n {
			units = append(units, n)
		}
	}
	if len(units) < 3 {
		t.Fatalf("%d of %d units begin inside of a stream", len(units), len(h.Units))
	}
	return units[len(units)/2]
}

// bothDeltas waits until devices know of both deltas, and tells the length of the plain one.
func (p *platform) bothDeltas() (plain int64, through topics.Document) {
	p.t.Helper()
	devtest.Eventually(p.t, 3*time.Minute, "two deltas that devices know of", func() error {
		out, err := p.Postgres.Query(p.t.Context(), "groundswell", `
			SELECT length || ' ' || expanded_length || ' ' || expanded_sha256 FROM delta
			WHERE listed AND expanded_listed AND NOT plain_useless`)
		if err != nil {
			return err
		}
		_, err = fmt.Sscan(out, &plain, &through.Length, &through.SHA256)
		return err
	})
	return plain, through
}

// download fetches a document as a device does.
func (p *platform) download(d topics.Document) []byte {
	p.t.Helper()
	tls, err := certs.ClientTLS(p.tls("reader"), certs.ServiceFleetd)
	if err != nil {
		p.t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tls}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(p.DownloadURL() + "/artifacts/" + d.SHA256)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || int64(len(raw)) != d.Length {
		p.t.Fatalf("%+v: %d, %d bytes, %v", d, resp.StatusCode, len(raw), err)
	}
	return raw
}

// transfer is where a device's bytes came from, as it reported.
func (p *platform) transfer(r *stack.Rollout, device string) (t topics.Transfer) {
	p.t.Helper()
	out, err := p.Postgres.Query(p.t.Context(), "groundswell", fmt.Sprintf(`
		SELECT concat_ws(' ', local, delta, packed, "full", peer, index) FROM transfer
		WHERE rollout = '%s' AND device = '%s' AND whole`, r.ID, device))
	if err == nil {
		_, err = fmt.Sscan(out, &t.Local, &t.Delta, &t.Packed, &t.Full, &t.Peer, &t.Index)
	}
	if err != nil {
		p.t.Fatalf("the bytes of %s: %q, %v", device, out, err)
	}
	return t
}

// staged is how many bytes of an artifact a device has written that downloads it.
func staged(t *testing.T, a *stack.Agent) int64 {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(a.Dir, "data", "slots", "*", "staging-????????????????"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			return info.Size()
		}
	}
	return 0
}
