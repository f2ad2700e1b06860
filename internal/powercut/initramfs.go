package powercut

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	"groundswell/internal/devstack"
	"groundswell/internal/qemu"
)

// Plan is what the guest is told, as JSON in the file PlanFile.
type Plan struct {
	// Modules are files to load into the kernel, in this order.
	Modules []string
	// Disk is mounted at DataDir.
	Disk, DataDir string
	// Command is the program and its arguments.
	Command []string
}

// PlanFile is where the guest finds its plan.
const PlanFile = "/plan.json"

func (m Machine) makeInitramfs(ctx context.Context, kernel qemu.Kernel) error {
	tree, err := os.MkdirTemp(m.Dir, m.Name+".tree-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tree) }() // it lies in a directory of the test's
	plan := Plan{Disk: "/dev/vda", DataDir: DataDir, Command: append([]string{"/program"}, m.Args...)}
	guest, err := devstack.Program(ctx, "./internal/powercut/guest")
	if err != nil {
		return err
	}
	copies := map[string]string{"/init": guest, "/program": m.Program}
	for _, path := range kernel.Modules {
		inside := "/modules/" + filepath.Base(path)
		plan.Modules = append(plan.Modules, inside)
		copies[inside] = path
	}
	for inside, from := range copies {
		if err := qemu.Copy(filepath.Join(tree, inside), from); err != nil {
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
	return qemu.Pack(ctx, tree, m.path("initramfs"))
}
