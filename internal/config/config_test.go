package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type sample struct {
	Listen string        `yaml:"listen"`
	Wait   time.Duration `yaml:"wait"`
	Limits struct {
		Max int `yaml:"max"`
	} `yaml:"limits"`
	Database string     `yaml:"database"`
	Token    string     `yaml:"token" secret:"true"`
	KeyFile  SecretFile `yaml:"key_file"`
	Servers  []string   `yaml:"servers"`
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFileOverridesDefaultsAndKeepsTheRest(t *testing.T) {
	cfg := sample{Listen: "127.0.0.1:1", Wait: time.Minute}
	if err := Load(write(t, "wait: 10m\nlimits:\n  max: 7\nservers: [a, b]\n"), &cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.Listen != "127.0.0.1:1" || cfg.Wait != 10*time.Minute || cfg.Limits.Max != 7 || len(cfg.Servers) != 2 {
		t.Fatalf("got %+v", cfg)
	}
}

func TestEmptyFileLeavesDefaults(t *testing.T) {
	cfg := sample{Listen: "x"}
	for _, text := range []string{"", "# nothing\n"} {
		if err := Load(write(t, text), &cfg); err != nil || cfg.Listen != "x" {
			t.Fatalf("%q: %v, %+v", text, err, cfg)
		}
	}
}

func TestBadFilesAreRefusedByNameAndLine(t *testing.T) {
	cases := []struct{ name, text, line, word string }{
		{"unknown key", "listen: a\nlisten_adress: b\n", ":2:", "listen_adress"},
		{"unknown nested key", "limits:\n  max: 1\n  mix: 2\n", ":3:", "mix"},
		{"key given twice", "listen: a\nlisten: b\n", ":2:", "listen"},
		{"bare number as duration", "\nwait: 10\n", "", "10"},
		{"nonsense duration", "wait: soon\n", "", "soon"},
		{"text for a number", "limits:\n  max: many\n", ":2:", "int"},
		{"key without a value", "listen: a\nlimits:\n", ":2:", "limits"},
		{"two documents", "listen: a\n---\nlisten: b\n", "", "more than one"},
		{"syntax", "listen: [a\n", ":1:", ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			path := write(t, c.text)
			err := Load(path, &sample{})
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %v, want ErrInvalid", err)
			}
			for _, part := range []string{path, c.line, c.word} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not name %q", err, part)
				}
			}
		})
	}
}

func TestMissingFileIsNotInvalidConfiguration(t *testing.T) {
	err := Load(filepath.Join(t.TempDir(), "none.yaml"), &sample{})
	if !errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrInvalid) {
		t.Fatalf("got %v", err)
	}
}

func TestPrintShowsNoSecret(t *testing.T) {
	secret := write(t, "hunter2\n")
	cfg := sample{
		Listen: "127.0.0.1:1", Wait: 90 * time.Second, Token: "s3cret", KeyFile: SecretFile(secret),
		Database: "postgres://gs:s3cret@db/gs?sslmode=disable",
		Servers:  []string{"host=db password=s3cret user=x", "postgres://db/gs?password=s3cret&user=x"},
	}
	var out strings.Builder
	if err := Print(&out, &cfg); err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"s3cret", "hunter2"} {
		if strings.Contains(out.String(), leak) {
			t.Fatalf("printed %q:\n%s", leak, out.String())
		}
	}
	for _, want := range []string{"wait: 1m30s", "key_file: " + secret, "token: ", "user=x"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	if got, err := cfg.KeyFile.Read(); err != nil || got != "hunter2" {
		t.Errorf("secret = %q, %v", got, err)
	}
}

func TestPrintedConfigurationLoadsAgain(t *testing.T) {
	cfg := sample{Listen: "127.0.0.1:1", Wait: time.Hour, Servers: []string{"a"}}
	cfg.Limits.Max = 3
	var out strings.Builder
	if err := Print(&out, cfg); err != nil {
		t.Fatal(err)
	}
	var again sample
	if err := Load(write(t, out.String()), &again); err != nil {
		t.Fatalf("%v in:\n%s", err, out.String())
	}
	if again.Wait != cfg.Wait || again.Limits != cfg.Limits {
		t.Fatalf("got %+v", again)
	}
}

type EdgeLimits struct {
	MaxConnections int           `yaml:"max_connections"`
	WriteTimeout   time.Duration `yaml:"write_timeout"`
}

type nested struct {
	Limits struct {
		EdgeLimits `yaml:",inline"`
		Bytes      int64 `yaml:"bytes"`
	} `yaml:"limits"`
}

func TestInlinedSectionsAreStrictAndKeepTheirDefaults(t *testing.T) {
	var cfg nested
	cfg.Limits.MaxConnections, cfg.Limits.WriteTimeout, cfg.Limits.Bytes = 5, time.Second, 9
	if err := Load(write(t, "limits:\n  write_timeout: 3s\n"), &cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.Limits.MaxConnections != 5 || cfg.Limits.WriteTimeout != 3*time.Second || cfg.Limits.Bytes != 9 {
		t.Fatalf("got %+v", cfg)
	}
	err := Load(write(t, "limits:\n  bytes: 1\n  write_timeoutt: 3s\n"), &cfg)
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "write_timeoutt") {
		t.Fatalf("got %v", err)
	}
}

func TestJSONIsYAML(t *testing.T) {
	var cfg sample
	if err := Load(write(t, `{"listen": "a\u0020b/\"", "wait": "1m0s", "limits": {"max": 2}, "servers": []}`), &cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.Listen != `a b/"` || cfg.Wait != time.Minute || cfg.Limits.Max != 2 {
		t.Fatalf("got %+v", cfg)
	}
}
