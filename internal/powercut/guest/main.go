// Command guest is the init of a machine that is made to lose its power (see
// internal/powercut): it loads what the kernel lacks, mounts the disk, brings the
// network up, and runs the one program, whose output goes to the console. It
// never ends in an orderly way: when the program does, the machine is switched
// off without a word to the disk.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"

	"groundswell/internal/powercut"
	"groundswell/internal/qemu/inside"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: this is the init of a machine, and nothing else")
		os.Exit(1)
	}
	fmt.Println("guest:", run())
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // if that fails, so does init, and the kernel panics
}

func run() error {
	text, err := os.ReadFile(powercut.PlanFile)
	if err != nil {
		return err
	}
	var plan powercut.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return fmt.Errorf("plan: %w", err)
	}
	if err := inside.Load(plan.Modules); err != nil {
		return err
	}
	if err := inside.Kernel(); err != nil {
		return err
	}
	if err := inside.Mount(plan.Disk, plan.DataDir, "ext4", 0); err != nil {
		return err
	}
	if err := inside.Network(); err != nil {
		return err
	}
	cmd := exec.Command(plan.Command[0], plan.Command[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return fmt.Errorf("the program has ended: %v", cmd.Run())
}
