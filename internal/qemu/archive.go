package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Copy copies a file, which may be executed then, and makes the directory that it
// goes to.
func Copy(to, from string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Pack writes everything below tree into an archive as the kernel unpacks it.
func Pack(ctx context.Context, tree, archive string) error {
	cpio, err := Tool("cpio")
	if err != nil {
		return err
	}
	var names strings.Builder
	err = filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, path)
		fmt.Fprintln(&names, name)
		return err
	})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, cpio, "--create", "--format=newc", "--quiet", "--owner=+0:+0", "--file="+archive)
	cmd.Dir, cmd.Stdin = tree, strings.NewReader(names.String())
	return Run(cmd)
}
