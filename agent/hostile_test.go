package main

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/agent/journal"
	"groundswell/agent/update"
	"groundswell/certs"
	"groundswell/topics"
)

// What every attack in these tests has in common: who attacks holds a valid TLS
// certificate of the service that it plays, and sometimes keys; the agent is the
// real one in a process of its own; nothing on the device may have changed but
// what it reports; and the device takes the good update once there is an honest
// party to take it from.

// hostileSource is a source of artifacts and metadata with the certificate of
// fleetd. What attack does not handle it serves as fleetd does.
type hostileSource struct {
	*httptest.Server
	mu   sync.Mutex // guards most
	most int64      // bytes that were sent in one answer
}

// sent is the most that was sent in one answer.
func (s *hostileSource) sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

type handler func(w http.ResponseWriter, r *http.Request) (handled bool)

func (f *fleet) hostileSource(t *testing.T, attack handler) *hostileSource {
	t.Helper()
	credential := must[certs.Credential](t)(f.ca.IssueService(certs.ServiceFleetd, nil, time.Hour))
	s := &hostileSource{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		counted := &counted{ResponseWriter: w}
		defer func() {
			s.mu.Lock()
			s.most = max(s.most, counted.n)
			s.mu.Unlock()
		}()
		if !attack(counted, r) {
			f.serve(w, r)
		}
	}))
	s.TLS = must2(certs.ServerTLS(certs.TLSOptions{Credential: credential, Authority: f.ca.Authority()}))(t)
	s.StartTLS()
	t.Cleanup(s.Close)
	t.Cleanup(s.CloseClientConnections)
	return s
}

// counted counts what could be sent before the device hung up.
type counted struct {
	http.ResponseWriter
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// on limits an attack to requests whose path contains part.
func on(part string, attack http.HandlerFunc) handler {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, part) {
			return false
		}
		attack(w, r)
		return true
	}
}

// The most that a device may use for what an attacker sends.
const (
	maxMemory = 320 << 20 // resident, at its highest; the race detector multiplies it
	maxDisk   = 1 << 20   // beyond its slots' artifacts
	maxSent   = 32 << 20  // that it lets itself be sent in one answer, what lies in sockets included
)

// unharmed fails unless the device runs what it ran, has nothing armed, has kept
// to its bounds, and has written nothing but its own files.
func (d *device) unharmed() {
	d.t.Helper()
	d.runs("1.0.0", "")
	r := must[journal.Record](d.t)(journal.Read(d.data()))
	for component, dep := range r.Deployments {
		if !dep.State.Harmless() && dep.State != update.Failed {
			d.t.Errorf("%s: deployment of %s in state %s", d.id, component, dep.State)
		}
	}
	if r.Command != "" || r.Dropped != 0 {
		d.t.Errorf("%s: journal: command %q, %d reports dropped", d.id, r.Command, r.Dropped)
	}
	d.ownFilesOnly()
	if used := d.memory(); used > maxMemory {
		d.t.Errorf("%s: the agent took %d MB of memory", d.id, used>>20)
	}
}

// ownFiles are all that an agent ever writes, by path in the device's directory.
var ownFiles = regexp.MustCompile(`^(agent\.(log|yaml)|addresses\.json|clock|device\.(crt|key)|data|data/lock|` +
	`data/(journal|epoch|trust|floors|cohorts)(\.old|\.new)?|data/slots|` +
	`data/slots/(active|trial\.json|running\.json|[a-z.-]+\.json|a|b)(\.old|\.new)?|data/slots/[ab]/(artifact|image\.json|staging-[0-9a-f]{16})(\.old|\.new)?)$`)

// ownFilesOnly also bounds what the files are together: three artifacts, and a
// little.
func (d *device) ownFilesOnly() {
	d.t.Helper()
	var size, largest int64
	err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == d.dir {
			return nil // gone meanwhile
		}
		name := strings.TrimPrefix(path, d.dir+"/")
		if !ownFiles.MatchString(name) {
			d.t.Errorf("%s: %s is none of the agent's files", d.id, name)
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && strings.HasPrefix(name, "data/") {
			if strings.HasSuffix(name, "artifact") {
				largest = max(largest, info.Size())
			}
			size += info.Size()
		}
		return nil
	})
	if err != nil {
		d.t.Error(err)
	}
	if size > 3*largest+maxDisk {
		d.t.Errorf("%s: %d bytes on disk, the largest artifact has %d", d.id, size, largest)
	}
}

// memory is the most that the agent's process has had resident, in bytes.
func (d *device) memory() int64 {
	d.t.Helper()
	status := string(must[[]byte](d.t)(os.ReadFile(fmt.Sprintf("/proc/%d/status", d.process.PID()))))
	_, rest, _ := strings.Cut(status, "VmHWM:")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		d.t.Fatalf("no VmHWM in %q", status)
	}
	return must[int64](d.t)(strconv.ParseInt(fields[0], 10, 64)) << 10
}

// committed waits for the good end of a rollout.
func (d *device) committed(rollout, version, digest string) {
	d.t.Helper()
	d.eventually("the good update", func() error {
		var last topics.Status
		for _, s := range d.fleet.statuses(d.id) {
			if s.Rollout == rollout {
				last = s
			}
		}
		if last.State != topics.StateCommitted {
			return fmt.Errorf("the last is %s (%s %s)", last.State, last.Reason, last.Detail)
		}
		return nil
	})
	d.rests()
	d.runs(version, digest)
}

// failsWith is nil when an attempt ended for a reason whose detail has text.
func (d *device) failsWith(rollout, reason, text string) error {
	var seen []string
	for _, s := range d.fleet.statuses(d.id) {
		if s.Rollout != rollout || s.State != topics.StateFailed {
			continue
		}
		if s.Reason == reason && strings.Contains(s.Detail, text) {
			return nil
		}
		seen = append(seen, s.Reason+": "+s.Detail)
	}
	return fmt.Errorf("failed for %q, want %q with %q", seen, reason, text)
}
