// Package devtest gives tests their real parts: a fresh PostgreSQL database, an
// InfluxDB, the project's binaries, and a way to wait for a condition.
//
// The PostgreSQL cluster and the InfluxDB server are started once per test
// binary, when the first test asks, and die with it. A part that is not
// installed fails the test; nothing is skipped.
package devtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"groundswell/internal/devstack"
)

// Patience is how long Eventually waits unless told otherwise: long enough for
// a machine that does a dozen other things.
const Patience = 45 * time.Second

var (
	sharedPostgres = sync.OnceValues(func() (*devstack.Postgres, error) {
		return devstack.StartPostgres(context.Background(), devstack.PostgresOptions{})
	})
	sharedInflux = sync.OnceValues(func() (*devstack.Influx, error) {
		return devstack.StartInflux(context.Background(), devstack.InfluxOptions{})
	})
	serial atomic.Int64
)

// Postgres returns the cluster that the tests of this binary share. Tests that
// stop or kill it start their own with OwnPostgres.
func Postgres(t testing.TB) *devstack.Postgres {
	t.Helper()
	pg, err := sharedPostgres()
	if err != nil {
		t.Fatal(err)
	}
	return pg
}

// OwnPostgres starts a cluster for this test alone.
func OwnPostgres(t testing.TB) *devstack.Postgres {
	t.Helper()
	pg, err := devstack.StartPostgres(context.Background(), devstack.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Stop(); err != nil {
			t.Error(err)
		}
	})
	return pg
}

// Database returns the connection string of a new empty database in the shared
// cluster, dropped at the test's end.
func Database(t testing.TB) string {
	t.Helper()
	url, _ := NamedDatabase(t)
	return url
}

// NamedDatabase is Database that also tells the name, for Dump and Restore on
// the shared cluster.
func NamedDatabase(t testing.TB) (url, name string) {
	t.Helper()
	pg := Postgres(t)
	name = fmt.Sprintf("t%d", serial.Add(1))
	if err := pg.CreateDatabase(context.Background(), name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	return pg.URL(name), name
}

// Influx returns the server that the tests of this binary share, and the name
// of a new database in it.
func Influx(t testing.TB) (server *devstack.Influx, database string) {
	t.Helper()
	server, err := sharedInflux()
	if err != nil {
		t.Fatal(err)
	}
	database = fmt.Sprintf("t%d", serial.Add(1))
	if err := server.CreateDatabase(context.Background(), database); err != nil {
		t.Fatal(err)
	}
	return server, database
}

// OwnInflux starts a server for this test alone.
func OwnInflux(t testing.TB) *devstack.Influx {
	t.Helper()
	server, err := devstack.StartInflux(context.Background(), devstack.InfluxOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() }) // the test may have killed it
	return server
}

// Binaries builds the project's programs.
func Binaries(t testing.TB) devstack.Bins {
	t.Helper()
	bins, err := devstack.Binaries(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return bins
}

// Start starts a process whose log is shown if the test fails, and which is
// killed at the test's end unless it ended before. An empty LogFile is put
// into a directory of the test.
func Start(t testing.TB, spec devstack.Spec) *devstack.Process {
	t.Helper()
	if spec.LogFile == "" {
		spec.LogFile = filepath.Join(t.TempDir(), spec.Name+".log")
	}
	p, err := devstack.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", spec.Name, p.LogTail(40))
		}
	})
	return p
}

// Write writes a file into a directory of the test and returns its path.
func Write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// FreeAddresses returns n different 127.0.0.1 addresses that were free a moment
// ago, for processes that must know each other's before they start.
func FreeAddresses(t testing.TB, n int) (addresses []string) {
	t.Helper()
	for len(addresses) < n {
		addr, err := devstack.FreeAddr()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(addresses, addr) {
			addresses = append(addresses, addr)
		}
	}
	return addresses
}

// Eventually waits until cond returns nil, for at most timeout (0 means
// Patience), and fails the test with cond's last error otherwise.
func Eventually(t testing.TB, timeout time.Duration, what string, cond func() error) {
	t.Helper()
	if timeout == 0 {
		timeout = Patience
	}
	deadline := time.Now().Add(timeout)
	pause := time.Millisecond
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s: %v", timeout, what, err)
		}
		time.Sleep(pause)
		pause = min(2*pause, 100*time.Millisecond)
	}
}

// True makes a condition for Eventually out of a bool.
func True(cond func() bool) func() error {
	return func() error {
		if !cond() {
			return fmt.Errorf("not yet")
		}
		return nil
	}
}
