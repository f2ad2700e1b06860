package devstack_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"groundswell/internal/devstack"
	"groundswell/internal/devstack/devtest"
)

func query(t *testing.T, pg *devstack.Postgres, db, sql, want string) {
	t.Helper()
	got, err := pg.Query(t.Context(), db, sql)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Fatalf("%s: got %q, want %q", sql, got, want)
	}
}

func TestCommittedRowsSurviveTheKillOfPostgres(t *testing.T) {
	pg := devtest.OwnPostgres(t)
	if err := pg.CreateDatabase(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	query(t, pg, "a", "CREATE TABLE x (n int); INSERT INTO x VALUES (1)", "")
	pg.Kill()
	if _, err := pg.Query(t.Context(), "a", "SELECT 1"); err == nil {
		t.Fatal("answers although killed")
	}
	if err := pg.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	query(t, pg, "a", "SELECT n FROM x", "1")
	if err := pg.Halt(); err != nil {
		t.Fatal(err)
	}
	if err := pg.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	query(t, pg, "a", "SELECT n FROM x", "1")
}

func TestRestoreBringsBackTheOlderState(t *testing.T) {
	pg := devtest.Postgres(t)
	url, name := devtest.NamedDatabase(t)
	if !strings.HasPrefix(url, "postgres://groundswell@/"+name+"?host=%2F") {
		t.Fatalf("url %s", url)
	}
	query(t, pg, name, "CREATE TABLE x (n int); INSERT INTO x VALUES (1)", "")
	backup, err := pg.Dump(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	query(t, pg, name, "UPDATE x SET n = 2", "")
	if err := pg.Restore(t.Context(), name, backup); err != nil {
		t.Fatal(err)
	}
	query(t, pg, name, "SELECT n FROM x", "1")
}

func TestInfluxKeepsPointsAndItsAddressOverAKill(t *testing.T) {
	in := devtest.OwnInflux(t)
	if err := in.CreateDatabase(t.Context(), "d"); err != nil {
		t.Fatal(err)
	}
	url := in.URL()
	if _, err := in.InfluxQL(t.Context(), "d", "SHOW MEASUREMENTS"); err != nil {
		t.Fatal(err)
	}
	in.Kill()
	if err := in.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if in.URL() != url {
		t.Fatalf("moved from %s to %s", url, in.URL())
	}
	got, err := in.Query(t.Context(), `from(bucket: "d/autogen") |> range(start: -1h) |> limit(n: 1)`)
	if err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if _, err := in.InfluxQL(t.Context(), "none", "SELECT * FROM x"); err == nil {
		t.Fatal("a query of a missing database succeeded")
	}
}

func shell(t *testing.T, script string) devstack.Spec {
	dir := t.TempDir()
	return devstack.Spec{
		Name: "script", Path: "/bin/sh", Args: []string{"-c", script}, Dir: dir,
		LogFile: filepath.Join(dir, "log"), AddressesFile: filepath.Join(dir, "addresses"),
	}
}

func TestProcessTellsWhatItBoundAndStopsOnRequest(t *testing.T) {
	p, err := devstack.Start(t.Context(), shell(t, `trap 'exit 0' TERM
		echo '{"mqtt":"127.0.0.1:7"}' >a; mv a addresses; while :; do sleep 0.05; done`))
	if err != nil {
		t.Fatal(err)
	}
	if p.Addr("mqtt") != "127.0.0.1:7" || p.Addr("ops") != "" {
		t.Fatalf("addresses %q %q", p.Addr("mqtt"), p.Addr("ops"))
	}
	if err := p.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(time.Second); err != nil {
		t.Fatalf("second stop: %v", err)
	}
}

func TestProcessThatEndsAtStartShowsItsLog(t *testing.T) {
	_, err := devstack.Start(t.Context(), shell(t, `echo "no such table" >&2; exit 3`))
	if err == nil || !strings.Contains(err.Error(), "no such table") || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatalf("got %v", err)
	}
}

func TestProcessThatIgnoresTheRequestIsKilled(t *testing.T) {
	p, err := devstack.Start(t.Context(), shell(t, `trap '' TERM; echo {} >part; mv part addresses; while :; do sleep 0.05; done`))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(200 * time.Millisecond); err == nil {
		t.Fatal("no error")
	}
	if code := p.Wait(); code != -1 {
		t.Fatalf("exit code %d", code)
	}
}

// TestChildrenDoNotOutliveTheirParent runs this test binary again as a parent
// that starts PostgreSQL and a process, and kills it.
func TestChildrenDoNotOutliveTheirParent(t *testing.T) {
	if os.Getenv("DEVSTACK_PARENT") == "1" {
		beParent(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildrenDoNotOutliveTheirParent$")
	cmd.Env = append(os.Environ(), "DEVSTACK_PARENT=1", "TMPDIR="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	var dir string
	var said []string
	scanner := bufio.NewScanner(out)
	for scanner.Scan() {
		said = append(said, scanner.Text())
		if pid, ok := strings.CutPrefix(scanner.Text(), "pid "); ok {
			n, _ := strconv.Atoi(pid)
			pids = append(pids, n)
		}
		if d, ok := strings.CutPrefix(scanner.Text(), "dir "); ok {
			dir = d
			break
		}
	}
	if len(pids) != 2 || dir == "" {
		t.Fatalf("the parent told %v %q:\n%s", pids, dir, strings.Join(said, "\n"))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	for _, pid := range pids {
		devtest.Eventually(t, 0, "the child's end", func() error {
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) && !zombie(pid) {
				return fmt.Errorf("process %d: %v", pid, err)
			}
			return nil
		})
	}
	devtest.Eventually(t, 0, "the directory's removal", func() error {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s: %v", dir, err)
		}
		return nil
	})
}

// zombie: dead, but its new parent has not noticed (in a container without init).
func zombie(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(data), ") Z ")
}

func beParent(t *testing.T) {
	ctx := context.Background()
	pg, err := devstack.StartPostgres(ctx, devstack.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pid, err := os.ReadFile(filepath.Join(pg.Dir(), "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := devstack.Start(ctx, shell(t, "echo {} >part; mv part addresses; exec sleep 600"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(pid), "\n")
	fmt.Printf("pid %s\npid %d\ndir %s\n", first, p.PID(), pg.Dir())
	select {}
}
