package delta_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"groundswell/internal/delta"
)

// program builds a Go program for a processor.
func program(t *testing.T, arch, body string) []byte {
	t.Helper()
	dir := t.TempDir()
	source, out := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(source, []byte("package main\n\n"+body), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, source)
	cmd.Env = append(os.Environ(), "GOARCH="+arch, "GOOS=linux", "CGO_ENABLED=0", "GOFLAGS=")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build for %s: %v: %s", arch, err, said)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A few lines more in a program move all that stands behind them.
func TestProgramsOfEachProcessor(t *testing.T) {
	before := "func main() { println(\"one\") }\n"
	after := "import \"os\"\n\nfunc main() {\n\tprintln(\"one\", len(os.Args))\n\tfor i := range os.Args {\n\t\tprintln(i, os.Args[i])\n\t}\n}\n"
	for _, arch := range []string{"amd64", "arm64", "arm", "riscv64"} {
		t.Run(arch, func(t *testing.T) {
			old, new := program(t, arch, after), program(t, arch, before)
			var sizes []int
			for _, coder := range coders {
				made := encode(t, old, new, delta.Options{Coder: coder})
				got, err := decode(old, made, nil)
				if err != nil || !bytes.Equal(got, new) {
					t.Fatalf("%s: another program came out (%v)", coder, err)
				}
				sizes = append(sizes, len(made))
			}
			t.Logf("%d bytes: %d by zstd, %d mixed", len(new), sizes[0], sizes[1])
			if sizes[1]*4 > sizes[0]*3 || sizes[0]*10 > len(new) {
				t.Errorf("%d bytes: %d by zstd, %d mixed", len(new), sizes[0], sizes[1])
			}
		})
	}
}
