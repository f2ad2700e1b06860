// Command userland is all that a system of package boottest has beside kernel and
// agent, under the names that a real one has for it:
//
//	/init         in the initramfs: finds the slot, mounts it, and goes on there
//	/sbin/init    mounts what is for both slots, and keeps the agent running
//	/sbin/reboot  asks /sbin/init to restart the machine in good order
package main

import (
	"fmt"
	"os"
	"syscall"
)

func main() {
	var err error
	switch os.Args[0] {
	case "/init":
		err = initramfs()
	case "/sbin/init":
		err = system()
	case "/sbin/reboot":
		if err = syscall.Kill(1, syscall.SIGTERM); err == nil {
			return
		}
	default:
		err = fmt.Errorf("what is %s?", os.Args[0])
	}
	// With init, the kernel panics, and boots again.
	fmt.Println("userland:", err)
	os.Exit(1)
}
