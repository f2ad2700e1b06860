package devstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// PostgresOptions shape a private cluster. The zero value suits tests.
type PostgresOptions struct {
	// Durable turns fsync on. Without it the data survives the death of
	// PostgreSQL, but not that of the machine.
	Durable bool
	// MaxConnections defaults to 200.
	MaxConnections int
	// Dir keeps the cluster across runs, and is left in place by Stop. When empty,
	// a temporary directory is made and removed.
	Dir string
}

// Postgres is a private cluster that listens on a socket only.
type Postgres struct {
	dir     string // holds data/ and the log; the socket lies here too
	bin     string
	cred    *syscall.Credential
	options PostgresOptions
	process *Process
	discard func() // removes dir
}

// pgUser owns the cluster and every database in it.
const pgUser = "groundswell"

// StartPostgres makes a cluster and starts it. ErrSetup if PostgreSQL is not
// installed.
func StartPostgres(ctx context.Context, options PostgresOptions) (*Postgres, error) {
	if options.MaxConnections == 0 {
		options.MaxConnections = 200
	}
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	pg := &Postgres{bin: bin, options: options, discard: func() {}}
	if os.Geteuid() == 0 {
		if pg.cred, err = credentialOf("postgres"); err != nil {
			return nil, fmt.Errorf("PostgreSQL cannot run as root: %w: %w", err, ErrSetup)
		}
	}
	if pg.dir = options.Dir; pg.dir == "" {
		if pg.dir, err = os.MkdirTemp(socketBase(), "groundswell-pg-"); err != nil {
			return nil, fmt.Errorf("start PostgreSQL: %w", err)
		}
		if pg.discard, err = janitor(pg.dir, pg.path("data/postmaster.pid")); err != nil {
			return nil, fmt.Errorf("start PostgreSQL: %w", err)
		}
	} else if err := os.MkdirAll(pg.dir, 0o700); err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if pg.cred != nil {
		if err := os.Chown(pg.dir, int(pg.cred.Uid), int(pg.cred.Gid)); err != nil {
			pg.discard()
			return nil, fmt.Errorf("start PostgreSQL: %w", err)
		}
	}
	if err := pg.initialise(ctx); err != nil {
		pg.discard()
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if err := pg.start(ctx); err != nil {
		pg.discard()
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return pg, nil
}

// postgresBin is the directory of the newest installed server's programs.
func postgresBin() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, "/")[4]) // not a number sorts first
		return n
	}
	sort.Slice(found, func(i, j int) bool { return version(found[i]) < version(found[j]) })
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", fmt.Errorf("PostgreSQL is %w", ErrSetup)
}

// socketBase is where temporary directories go: a socket's path may have 107
// bytes only.
func socketBase() string {
	if dir := os.TempDir(); len(dir) < 50 {
		return dir
	}
	return "/tmp"
}

func credentialOf(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (pg *Postgres) path(name string) string { return filepath.Join(pg.dir, name) }

func (pg *Postgres) initialise(ctx context.Context) error {
	if _, err := os.Stat(pg.path("data/PG_VERSION")); err == nil {
		return nil // kept from an earlier run
	}
	args := []string{"-D", pg.path("data"), "-U", pgUser, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"}
	if !pg.options.Durable {
		args = append(args, "--no-sync")
	}
	_, err := pg.run(ctx, nil, "initdb", args...)
	return err
}

func (pg *Postgres) start(ctx context.Context) error {
	settings := map[string]string{
		"listen_addresses": "", "unix_socket_directories": pg.dir, "unix_socket_permissions": "0700",
		"max_connections": strconv.Itoa(pg.options.MaxConnections), "shared_buffers": "64MB",
		"timezone": "UTC", "log_timezone": "UTC", "fsync": "on",
	}
	if !pg.options.Durable {
		settings["fsync"], settings["full_page_writes"] = "off", "off" // a commit still reaches the kernel
		settings["shared_buffers"] = "32MB"
	}
	args := []string{"-D", pg.path("data")}
	for name, value := range settings {
		args = append(args, "-c", name+"="+value)
	}
	deadline, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		process, err := Start(ctx, Spec{
			Name: "postgres", Path: filepath.Join(pg.bin, "postgres"), Args: args, Dir: pg.dir,
			LogFile: pg.logFile(), Death: syscall.SIGQUIT, Credential: pg.cred,
		})
		if err != nil {
			return err
		}
		pg.process = process
		ended, err := pg.awaitReady(deadline)
		if err == nil {
			return nil
		}
		if !ended || deadline.Err() != nil {
			process.Kill()
			return fmt.Errorf("%w\n%s", err, process.LogTail(20))
		}
		// After a kill the old children hold the cluster's memory for a moment.
		if !strings.Contains(process.LogTail(5), "shared memory") && !strings.Contains(process.LogTail(5), "postmaster.pid") {
			return fmt.Errorf("%w\n%s", err, process.LogTail(20))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (pg *Postgres) logFile() string {
	if pg.options.Dir != "" {
		return pg.path("postgres.log")
	}
	return pg.path("log")
}

// awaitReady waits until the server answers; ended says that it died instead.
func (pg *Postgres) awaitReady(ctx context.Context) (ended bool, err error) {
	for {
		if _, err = pg.run(ctx, nil, "pg_isready", "-q", "-h", pg.dir); err == nil {
			return false, nil
		}
		select {
		case <-pg.process.Done():
			return true, errors.New("the server ended at start")
		case <-ctx.Done():
			return false, fmt.Errorf("the server did not become ready: %w", ctx.Err())
		case <-time.After(25 * time.Millisecond):
		}
	}
}

// run executes one of PostgreSQL's programs and returns its output.
func (pg *Postgres) run(ctx context.Context, stdin []byte, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(pg.bin, program), args...)
	cmd.Dir = pg.dir
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pg.cred}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// URL is the connection string of a database in the cluster.
func (pg *Postgres) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(pgUser), Path: "/" + database,
		RawQuery: url.Values{"host": {pg.dir}}.Encode()}
	return u.String()
}

// Dir is the socket's directory, as psql -h takes it; the user is groundswell.
func (pg *Postgres) Dir() string { return pg.dir }

// Query runs SQL through psql and returns its rows, columns separated by "|".
func (pg *Postgres) Query(ctx context.Context, database, sql string) (string, error) {
	out, err := pg.run(ctx, []byte(sql), "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", pg.dir, "-U", pgUser, "-d", database, "-f", "-")
	return strings.TrimSpace(string(out)), err
}

// CreateDatabase makes an empty database.
func (pg *Postgres) CreateDatabase(ctx context.Context, name string) error {
	_, err := pg.Query(ctx, "postgres", fmt.Sprintf(`CREATE DATABASE %q TEMPLATE template0`, name))
	return err
}

// DropDatabase removes a database and cuts off whoever uses it.
func (pg *Postgres) DropDatabase(ctx context.Context, name string) error {
	_, err := pg.Query(ctx, "postgres", fmt.Sprintf(`DROP DATABASE IF EXISTS %q WITH (FORCE)`, name))
	return err
}

// Dump is a backup of a database, for Restore.
func (pg *Postgres) Dump(ctx context.Context, name string) ([]byte, error) {
	return pg.run(ctx, nil, "pg_dump", "-Fc", "-h", pg.dir, "-U", pgUser, "-d", name)
}

// Restore replaces a database by a backup. Its users are cut off first.
func (pg *Postgres) Restore(ctx context.Context, name string, dump []byte) error {
	if err := pg.DropDatabase(ctx, name); err != nil {
		return err
	}
	if err := pg.CreateDatabase(ctx, name); err != nil {
		return err
	}
	_, err := pg.run(ctx, dump, "pg_restore", "--exit-on-error", "-h", pg.dir, "-U", pgUser, "-d", name)
	return err
}

// Kill ends the server with SIGKILL, its backends too: one that outlives the
// postmaster still answers what is asked of it before it notices. Restart
// brings the server back.
func (pg *Postgres) Kill() {
	pg.process.Kill()
	for pids := pg.backends(); len(pids) > 0; pids = pg.backends() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // ended already
		}
		time.Sleep(time.Millisecond) // they are not ours to wait for
	}
}

// backends are the processes of the cluster that are alive: each works in the
// data directory.
func (pg *Postgres) backends() (pids []int) {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd") // the pattern is well-formed
	for _, link := range links {
		if dir, err := os.Readlink(link); err == nil && dir == pg.path("data") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(link))) // the pattern says so
			pids = append(pids, pid)
		}
	}
	return pids
}

// Halt stops the server and keeps its data. Restart brings it back.
func (pg *Postgres) Halt() error {
	if err := pg.process.Signal(syscall.SIGINT); err != nil { // "fast": open sessions are cut
		return err
	}
	select {
	case <-pg.process.Done():
	case <-time.After(20 * time.Second):
		pg.process.Kill()
	}
	return nil
}

// Restart starts the server again after Kill or Halt.
func (pg *Postgres) Restart(ctx context.Context) error { return pg.start(ctx) }

// Stop ends the server and removes a temporary cluster.
func (pg *Postgres) Stop() error {
	err := pg.Halt()
	pg.discard()
	return err
}
