package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"groundswell/internal/devstack"
)

// buildFirmware builds the three versions into a directory: old, good, and one that starts
// and then fails its health check. Each is a program with a compressed part behind it, as
// firmware mostly has one: what it holds changes little from version to version, and of its
// compressed bytes nearly all.
func buildFirmware(ctx context.Context, dir string) (map[string]string, error) {
	firmware := map[string]string{}
	for n, v := range []string{oldVersion, goodVersion, badVersion} {
		program, err := devstack.Firmware(ctx, v, v != badVersion)
		if err != nil {
			return nil, err
		}
		image, err := os.ReadFile(program)
		if err != nil {
			return nil, err
		}
		pages, err := compressed(ctx, pages(n))
		if err != nil {
			return nil, err
		}
		firmware[v] = filepath.Join(dir, "camera-"+v)
		if err := os.WriteFile(firmware[v], append(image, pages...), 0o755); err != nil {
			return nil, err
		}
	}
	return firmware, nil
}

// pages are the texts of a camera's web pages in three languages, some 0.8 MB, of which
// each version has changed one in 200 lines.
func pages(version int) string {
	var b strings.Builder
	words := strings.Fields("picture sensor exposure gain night recording motion alarm network address password zoom focus " +
		"bild sensor belichtung nacht aufnahme bewegung alarm netz adresse kennwort image capteur exposition nuit")
	state := uint32(1) // of a linear congruential generator: the same in every run
	for line := range 10_000 {
		changed := 0
		if line%200 == 7 {
			changed = version
		}
		fmt.Fprintf(&b, "%05d.%d", line, changed)
		for range 10 {
			state = state*1664525 + 1013904223
			b.WriteByte(' ')
			b.WriteString(words[int(state>>16)%len(words)])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// compressed is what the program gzip makes of a text.
func compressed(ctx context.Context, text string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "gzip", "-nc6")
	cmd.Stdin = strings.NewReader(text)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("gzip: %w: %s", err, stderr.String())
	}
	return out, nil
}
