package powercut

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"groundswell/internal/devstack"
)

// modules are what the machine's kernel needs and has not built in, in the order
// in which they depend on one another.
var modules = []string{
	"drivers/virtio/virtio_ring.ko",
	"drivers/virtio/virtio.ko",
	"drivers/virtio/virtio_pci_legacy_dev.ko",
	"drivers/virtio/virtio_pci_modern_dev.ko",
	"drivers/virtio/virtio_pci.ko",
	"drivers/block/virtio_blk.ko",
	"net/core/failover.ko",
	"drivers/net/net_failover.ko",
	"drivers/net/virtio_net.ko",
}

// Plan is what the guest is told, as JSON in the file PlanFile.
type Plan struct {
	// Modules are files to load into the kernel, in this order.
	Modules []string
	// Disk is mounted at DataDir; Address is the network's, with Mask.
	Disk, DataDir, Address, Mask string
	// Command is the program and its arguments.
	Command []string
}

// PlanFile is where the guest finds its plan.
const PlanFile = "/plan.json"

func (m Machine) makeInitramfs(ctx context.Context, kernel string) error {
	tree, err := os.MkdirTemp(m.Dir, m.Name+".tree-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tree) }() // it lies in a directory of the test's
	plan := Plan{
		Disk: "/dev/vda", DataDir: DataDir, Address: GuestAddr, Mask: "255.255.255.0",
		Command: append([]string{"/program"}, m.Args...),
	}
	guest, err := devstack.Program(ctx, "./internal/powercut/guest")
	if err != nil {
		return err
	}
	copies := map[string]string{"/init": guest, "/program": m.Program}
	for _, name := range modules {
		inside := "/modules/" + filepath.Base(name)
		plan.Modules = append(plan.Modules, inside)
		copies[inside] = filepath.Join(kernel, name)
	}
	for inside, from := range copies {
		if err := copyFile(filepath.Join(tree, inside), from); err != nil {
			return err
		}
	}
	text, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	contents := map[string][]byte{PlanFile: text}
	for name, content := range m.Files {
		contents[filepath.Join(FilesDir, name)] = content
	}
	for inside, content := range contents {
		path := filepath.Join(tree, inside)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return pack(ctx, tree, m.path("initramfs"))
}

func copyFile(to, from string) error {
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

// pack writes everything below tree into an archive as the kernel unpacks it.
func pack(ctx context.Context, tree, archive string) error {
	cpio, err := tool("cpio")
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
	return run(cmd)
}
