// Command firmware is a small camera-like service for the agent's tests. How
// it behaves stands behind the end of its own executable, so that one build
// makes any number of versions: "mode=healthy", "mode=sick" (answers 500),
// "mode=crash" (ends at once), "mode=flaky" (ends after its first answer),
// "mode=child" (as healthy, with a child of its own), "mode=deaf" (runs, and
// never listens), or "mode=strays" (as healthy, but it is a child that answers,
// which has left the session; another child has no environment). The ids of
// strays go into the file that STRAYS names.
package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"
)

func main() {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		panic(err)
	}
	_, mode, _ := bytes.Cut(self[max(0, len(self)-200):], []byte("mode="))
	mode, _, _ = bytes.Cut(mode, []byte(";"))
	fmt.Printf("firmware %s, mode %s\n", os.Getenv("FIRMWARE_VERSION"), mode)
	if string(mode) == "crash" {
		os.Exit(3)
	}
	if string(mode) == "child" {
		child := exec.Command("sleep", "1000")
		if err := child.Start(); err != nil {
			panic(err)
		}
		fmt.Printf("child %d\n", child.Process.Pid)
	}
	switch {
	case string(mode) == "deaf":
		time.Sleep(time.Hour)
	case string(mode) == "strays" && os.Getenv("STRAY") == "":
		strays()
		time.Sleep(time.Hour)
	}
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		switch string(mode) {
		case "sick":
			w.WriteHeader(http.StatusInternalServerError)
		case "flaky":
			time.AfterFunc(10*time.Millisecond, func() { os.Exit(4) })
		}
		fmt.Fprintln(w, os.Getenv("FIRMWARE_VERSION"), os.Getenv("FIRMWARE_BOOT_ID"))
	})
	fmt.Println(http.ListenAndServe(os.Getenv("FIRMWARE_ADDR"), nil))
	os.Exit(1)
}

func strays() {
	answering := exec.Command("/proc/self/exe")
	answering.Env = append(os.Environ(), "STRAY=1")
	answering.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	bare := exec.Command("/bin/sleep", "1000")
	bare.Env = []string{}
	for _, cmd := range []*exec.Cmd{answering, bare} {
		if err := cmd.Start(); err != nil {
			panic(err)
		}
	}
	list := fmt.Sprintln(answering.Process.Pid, bare.Process.Pid)
	if err := os.WriteFile(os.Getenv("STRAYS"), []byte(list), 0o600); err != nil {
		panic(err)
	}
}
