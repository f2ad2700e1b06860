package boottest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"groundswell/internal/devstack"
	"groundswell/internal/qemu"
)

// System is a version of the whole system.
type System struct {
	Version string
	// Panics: it has no init, so that its kernel panics.
	Panics bool
	// Sick: its agent runs, and whoever asks for its health is answered 503.
	Sick bool
}

// Files of a system, which the userland reads.
const (
	VersionFile = "/etc/version"
	SickFile    = "/etc/sick"
)

// Addr is where a system answers for its health.
const Addr = "127.0.0.1:8080"

// Parts are what all systems are made of.
type Parts struct {
	dir      string
	kernel   qemu.Kernel
	userland string
	agent    string
}

// MakeParts builds them. dir is for the systems that are made of them.
func MakeParts(ctx context.Context, dir string) (p Parts, err error) {
	p.dir = dir
	if p.kernel, err = qemu.FindKernel(); err != nil {
		return p, err
	}
	root, err := devstack.Root()
	if err != nil {
		return p, err
	}
	out := filepath.Join(root, ".cache", "stack", "system") + string(filepath.Separator)
	p.userland, p.agent = out+"userland", out+"agent"
	if err := devstack.GoBuild(ctx, root, out, append([]string{"-ldflags", "-s -w"}, devstack.AgentFlags...), "./agent", "./agent/boottest/userland"); err != nil {
		return p, err
	}
	return p, p.makeInitramfs(ctx)
}

func (p Parts) path(name string) string { return filepath.Join(p.dir, name) }

// makeInitramfs makes the first stage of all systems: the userland, and the modules
// that it takes to find the disk.
func (p Parts) makeInitramfs(ctx context.Context) error {
	tree := p.path("initramfs")
	files := map[string]string{"init": p.userland}
	for i, path := range p.kernel.Modules { // loaded in the order of their names
		files[filepath.Join("modules", fmt.Sprintf("%02d-%s", i, filepath.Base(path)))] = path
	}
	for inside, from := range files {
		if err := qemu.Copy(filepath.Join(tree, inside), from); err != nil {
			return err
		}
	}
	return qemu.Pack(ctx, tree, p.path("initrd.img"))
}

// Image makes a system's image, which is what a release brings, and returns its path.
func (p Parts) Image(ctx context.Context, s System) (string, error) {
	tree := p.path("system-" + s.Version)
	files := map[string]string{"vmlinuz": p.kernel.Image, "initrd.img": p.path("initrd.img"), "agent": p.agent}
	if !s.Panics {
		files["sbin/init"] = p.userland
	}
	for inside, from := range files {
		if err := qemu.Copy(filepath.Join(tree, inside), from); err != nil {
			return "", err
		}
	}
	contents := map[string]string{VersionFile: s.Version + "\n"}
	if s.Sick {
		contents[SickFile] = ""
	}
	for inside, content := range contents {
		if err := writeFile(filepath.Join(tree, inside), content); err != nil {
			return "", err
		}
	}
	for _, dir := range []string{"sbin", "dev", "proc", "sys", "tmp", "boot", "data"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return "", err
		}
	}
	if err := os.Symlink("init", filepath.Join(tree, "sbin/reboot")); err != nil {
		return "", err
	}
	size, err := sizeOf(tree)
	if err != nil {
		return "", err
	}
	image := p.path("system-" + s.Version + ".img")
	// Nobody ever writes to it, so it needs no journal.
	if err := makeFS(ctx, image, tree, size+size/32+1<<20, "-N", "64", "-O", "^has_journal,^resize_inode"); err != nil {
		return "", err
	}
	return image, os.RemoveAll(tree)
}

func writeFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o600)
}

func sizeOf(tree string) (size int64, err error) {
	return size, filepath.WalkDir(tree, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
}

// makeFS makes a file system of size bytes with what is below tree.
func makeFS(ctx context.Context, path, tree string, size int64, options ...string) error {
	mkfs, err := qemu.Tool("mkfs.ext4")
	if err != nil {
		return err
	}
	args := append([]string{"-q", "-F", "-m", "0", "-b", "4096", "-d", tree}, options...)
	return qemu.Run(exec.CommandContext(ctx, mkfs, append(args, path, strconv.FormatInt(size>>10, 10)+"k")...))
}
