// Package agenttest holds what the tests of the agent's packages share: real
// firmware to install, and disks that fail.
package agenttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Artifact is a firmware executable.
type Artifact struct {
	Path   string
	Bytes  []byte
	SHA256 string
}

var build = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "groundswell-firmware-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "firmware")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-ldflags=-s -w", "-o", path, "groundswell/agent/agenttest/firmware")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build firmware: %w\n%s", err, out)
	}
	return os.ReadFile(path)
})

// Firmware builds a version that behaves in a certain mode; see the command
// firmware.
func Firmware(t testing.TB, version, mode string) Artifact {
	t.Helper()
	base, err := build()
	if err != nil {
		t.Fatal(err)
	}
	data := fmt.Appendf(append([]byte(nil), base...), "\nversion=%s mode=%s;", version, mode)
	path := filepath.Join(t.TempDir(), "firmware-"+version)
	if err := os.WriteFile(path, data, 0o700); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return Artifact{path, data, hex.EncodeToString(sum[:])}
}
