package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"groundswell/internal/cli"
)

// commands lists the leaves of the grammar, each as its words.
func commands(of reflect.Type, words ...string) [][]string {
	var all [][]string
	for i := range of.NumField() {
		field := of.Field(i)
		if _, is := field.Tag.Lookup("cmd"); !is {
			continue
		}
		name := field.Tag.Get("name")
		if name == "" {
			name = kebab(field.Name)
		}
		path := append(append([]string{}, words...), name)
		if below := commands(field.Type, path...); len(below) > 0 {
			all = append(all, below...)
		} else {
			all = append(all, path)
		}
	}
	return all
}

func kebab(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// shellWords splits a line as a shell does; 'single quotes' are all that the
// examples use.
func shellWords(line string) []string {
	var words []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 0 {
			words = append(words, strings.Fields(part)...)
			continue
		}
		words = append(words, part)
	}
	return words
}

// TestEveryCommandTeachesByExamplesThatParse runs each example of --help. The
// server of the test knows nothing and the keys are empty files, so that most
// of them fail; none of them may be a wrong use of the command.
func TestEveryCommandTeachesByExamplesThatParse(t *testing.T) {
	all := commands(reflect.TypeFor[grammar]())
	if len(all) < 40 {
		t.Fatalf("only %d commands were found: %q", len(all), all)
	}
	flags := server(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"id":"x","state":"completed","acked_at":"2027-01-01T00:00:00Z"}`)
	})
	t.Setenv("FLEETCTL_SERVER", flags[1])
	t.Setenv("FLEETCTL_TOKEN_FILE", flags[3])
	t.Setenv("FLEETCTL_TRUST_DOMAIN", "fleet.example.org")
	t.Setenv("FLEETCTL_CONFIG", write(t, "fleetctl.yaml", "image_root: none.json\ndirector_root: none.json\n"))
	for _, words := range all {
		t.Run(strings.Join(words, " "), func(t *testing.T) {
			out := mustRun(t, append(append([]string{}, words...), "--help")...)
			if words[0] == "version" {
				return
			}
			ran := 0
			for line := range strings.Lines(out) {
				example, is := strings.CutPrefix(strings.TrimSpace(line), "fleetctl ")
				if !is {
					continue
				}
				dir := t.TempDir()
				t.Chdir(dir)
				args := shellWords(example)
				for _, arg := range args {
					name := arg[strings.LastIndex(arg, "=")+1:]
					if ext := filepath.Ext(name); ext == "" || !strings.Contains(".key .pub .json .img .txt .csv .crt", ext) {
						continue
					}
					if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(name, []byte("{}"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if code, _, errOut := run(t, args...); code == cli.Usage {
					t.Errorf("%s: %s", example, errOut)
				}
				ran++
			}
			if ran == 0 {
				t.Errorf("its help has no example:\n%s", out)
			}
		})
	}
}
