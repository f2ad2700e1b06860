package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"groundswell/agent/boottest"
	"groundswell/internal/qemu/inside"

	"golang.org/x/sys/unix"
)

// system keeps the agent running until somebody wants the machine to restart.
func system() error {
	restart := make(chan os.Signal, 1)
	signal.Notify(restart, unix.SIGTERM)
	for device, dir := range map[string]string{boottest.BootDevice: "/boot", boottest.DataDevice: boottest.DataDir} {
		if err := inside.Mount(device, dir, "ext4", 0); err != nil {
			return err
		}
	}
	if err := inside.Network(); err != nil {
		return err
	}
	if err := answer(); err != nil {
		return err
	}
	for {
		agent := exec.Command("/agent", "--config", boottest.DataDir+"/agent.yaml")
		agent.Stdout, agent.Stderr = os.Stdout, os.Stderr
		if err := agent.Start(); err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- agent.Wait() }()
		select {
		case err := <-ended:
			fmt.Println("userland: the agent has ended:", err)
			time.Sleep(100 * time.Millisecond)
		case <-restart:
			fmt.Println("userland: the machine restarts")
			stop(agent, ended)
			for _, dir := range []string{boottest.DataDir, "/boot"} {
				if err := unix.Unmount(dir, 0); err != nil {
					fmt.Printf("userland: unmount %s: %v\n", dir, err)
				}
			}
			unix.Sync()
			return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		}
	}
}

// stop ends the agent, if need be by force.
func stop(agent *exec.Cmd, ended <-chan error) {
	_ = agent.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		_ = agent.Process.Kill()
		<-ended
	}
}

// answer answers for the system's health.
func answer() error {
	status := http.StatusOK
	if _, err := os.Stat(boottest.SickFile); err == nil {
		status = http.StatusServiceUnavailable
	}
	listener, err := net.Listen("tcp", boottest.Addr)
	if err != nil {
		return err
	}
	go func() {
		err := http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		fmt.Println("userland: health:", err)
	}()
	return nil
}
