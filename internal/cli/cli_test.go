package cli

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type daemonConfig struct {
	Listen string `yaml:"listen"`
	Key    string `yaml:"key" secret:"true"`
}

func (c *daemonConfig) Validate() error {
	if c.Listen == "" {
		return errors.New("listen: must not be empty")
	}
	return nil
}

// execDaemon runs a daemon with the given file content and arguments.
func execDaemon(t *testing.T, file string, run func(context.Context, daemonConfig, *slog.Logger) error, args ...string) (int, string, string) {
	t.Helper()
	if file != "" {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	var out, errOut bytes.Buffer
	d := Daemon[daemonConfig]{
		Name: "thing", Description: "Does a thing.",
		Default: func() daemonConfig { return daemonConfig{Listen: "127.0.0.1:0"} },
		Run:     run,
		Commands: []Command[daemonConfig]{{Name: "migrate", Help: "Bring the schema up to date.",
			Run: func(context.Context, daemonConfig, *slog.Logger) error { return errors.New("migrated") }}},
	}
	code := d.Exec(t.Context(), args, Streams{strings.NewReader(""), &out, &errOut})
	return code, out.String(), errOut.String()
}

func TestDaemonRunsWithItsConfiguration(t *testing.T) {
	var got daemonConfig
	code, _, _ := execDaemon(t, "listen: x:1\n", func(_ context.Context, c daemonConfig, log *slog.Logger) error {
		got = c
		return nil
	})
	if code != OK || got.Listen != "x:1" {
		t.Fatalf("code %d, config %+v", code, got)
	}
}

func TestDaemonFailures(t *testing.T) {
	fail := func(context.Context, daemonConfig, *slog.Logger) error { return errors.New("boom") }
	cases := []struct {
		name, file string
		args       []string
		code       int
		stderr     string
	}{
		{"run fails", "", nil, Failed, "thing: boom\n"},
		{"other command", "", []string{"migrate"}, Failed, "thing: migrated\n"},
		{"unknown key", "listn: x\n", nil, Failed, "listn"},
		{"invalid value", "listen: ''\n", nil, Failed, "listen: must not be empty"},
		{"invalid value under check", "listen: ''\n", []string{"--check-config"}, Failed, "listen: must not be empty"},
		{"unknown flag", "", []string{"--nope"}, Usage, "Try: thing --help"},
		{"unknown command", "", []string{"dance"}, Usage, "dance"},
		{"bad level", "", []string{"--log-level", "loud"}, Usage, "log-level"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			code, _, stderr := execDaemon(t, c.file, fail, c.args...)
			if code != c.code || !strings.Contains(stderr, c.stderr) {
				t.Fatalf("code %d, want %d; stderr %q, want %q", code, c.code, stderr, c.stderr)
			}
			if n := strings.Count(stderr, "thing:"); n != 1 {
				t.Errorf("error printed %d times: %q", n, stderr)
			}
		})
	}
}

func TestCheckConfigPrintsNoSecretAndDoesNotRun(t *testing.T) {
	code, out, _ := execDaemon(t, "key: s3cret\n", func(context.Context, daemonConfig, *slog.Logger) error {
		t.Error("ran")
		return nil
	}, "--check-config")
	if code != OK || strings.Contains(out, "s3cret") || !strings.Contains(out, "listen: 127.0.0.1:0") {
		t.Fatalf("code %d, out %q", code, out)
	}
}

func TestHelpAndVersionExitZero(t *testing.T) {
	for _, flag := range []string{"--help", "--version"} {
		code, out, _ := execDaemon(t, "", nil, flag)
		if code != OK || !strings.Contains(out, "thing") {
			t.Fatalf("%s: code %d, out %q", flag, code, out)
		}
	}
}

func TestOnceIsAFlagOfThoseThatHaveIt(t *testing.T) {
	says := func(what string) func(context.Context, daemonConfig, *slog.Logger) error {
		return func(context.Context, daemonConfig, *slog.Logger) error { return Exit(7, errors.New(what)) }
	}
	d := Daemon[daemonConfig]{Name: "thing", Default: func() daemonConfig { return daemonConfig{Listen: "x"} },
		Run: says("ran"), Once: says("ran once"), OnceHelp: "One turn."}
	for args, want := range map[string]string{"": "thing: ran\n", "run": "thing: ran\n", "run --once": "thing: ran once\n", "--once": "thing: ran once\n"} {
		var errOut bytes.Buffer
		if code := d.Exec(t.Context(), strings.Fields(args), Streams{nil, &bytes.Buffer{}, &errOut}); code != 7 || errOut.String() != want {
			t.Errorf("%q: code %d, %q", args, code, errOut.String())
		}
	}
	d.Once = nil
	if code := d.Exec(t.Context(), []string{"run", "--once"}, Streams{nil, &bytes.Buffer{}, &bytes.Buffer{}}); code != Usage {
		t.Errorf("without: code %d", code)
	}
}

func TestStopBySignalIsNoFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d := Daemon[daemonConfig]{Name: "thing", Default: func() daemonConfig { return daemonConfig{Listen: "x"} },
		Run: func(ctx context.Context, _ daemonConfig, _ *slog.Logger) error { cancel(); return ctx.Err() }}
	var errOut bytes.Buffer
	if code := d.Exec(ctx, nil, Streams{nil, &bytes.Buffer{}, &errOut}); code != OK || errOut.Len() > 0 {
		t.Fatalf("code %d, stderr %q", code, errOut.String())
	}
}
