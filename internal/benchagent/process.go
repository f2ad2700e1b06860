package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is what a process has used up to now.
type usage struct {
	resident, own, most int64 // bytes
	cpu                 time.Duration
}

// look reads /proc/PID (proc(5)).
func look(pid int) (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	status, err := fields(filepath.Join(dir, "status"))
	if err != nil {
		return u, err
	}
	u.resident, u.own, u.most = kilobytes(status["VmRSS"]), kilobytes(status["RssAnon"]), kilobytes(status["VmHWM"])
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return u, err
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	list := strings.Fields(after)
	if len(list) < 13 {
		return u, fmt.Errorf("%s/stat: has %d fields", dir, len(list))
	}
	for _, ticks := range list[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.ParseInt(ticks, 10, 64)
		if err != nil {
			return u, err
		}
		u.cpu += time.Duration(n) * 10 * time.Millisecond
	}
	return u, nil
}

func fields(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			all[key] = strings.TrimSpace(value)
		}
	}
	return all, nil
}

// kilobytes reads "12345 kB"; what is not that is 0.
func kilobytes(text string) int64 {
	n, err := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	if err != nil {
		return 0
	}
	return n * 1024
}
