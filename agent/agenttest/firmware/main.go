// Command firmware is a small camera-like service for the agent's tests. How
// it behaves stands behind the end of its own executable, so that one build
// makes any number of versions: "mode=healthy", "mode=sick" (answers 500),
// "mode=crash" (ends at once), "mode=flaky" (ends after its first answer), or
// "mode=child" (as healthy, with a child of its own).
package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
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
