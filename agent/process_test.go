package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"groundswell/topics"
)

// environ is a process's environment; nil when it has ended.
func environ(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
}

// components lists the processes that were launched from the device's slots.
func (d *device) components() (pids []int) {
	d.t.Helper()
	for _, e := range must[[]os.DirEntry](d.t)(os.ReadDir("/proc")) {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// Of what has ended the link is there, and leads nowhere.
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && strings.HasPrefix(exe, d.path("data/slots/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// component waits until one runs, and answers. Before that it might end for want
// of somebody to read what it says.
func (d *device) component() (pid int) {
	d.t.Helper()
	d.eventually("one component", func() error {
		pids := d.components()
		if len(pids) != 1 || environ(pids[0]) == nil {
			return fmt.Errorf("processes %v", pids)
		}
		pid = pids[0]
		for _, v := range environ(pid) {
			if addr, ok := strings.CutPrefix(v, "FIRMWARE_ADDR="); ok {
				resp, err := http.Get("http://" + addr + "/healthz")
				if err != nil {
					return err
				}
				return resp.Body.Close()
			}
		}
		return errors.New("without an address")
	})
	return pid
}

// files lists what the descriptors of a process are, by descriptor.
func files(t *testing.T, pid int) map[string]string {
	t.Helper()
	list := map[string]string{}
	for _, e := range must[[]os.DirEntry](t)(os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))) {
		if target, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "fd", e.Name())); err == nil {
			list[e.Name()] = target
		}
	}
	return list
}

// What the agent knows and holds is none of the component's business: it is what
// somebody breaks into first.
func TestComponentGetsNothingOfTheAgents(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "")
	d.replace("firmware: {", "firmware: {env: {LENS: wide}, ")
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	d.start("") // with an environment: AGENT_TEST_RUN is in it
	d.checkedIn()
	pid, agent := d.component(), d.process.PID()
	if !slices.Contains(environ(agent), "AGENT_TEST_RUN=1") {
		t.Fatalf("premise: the agent has %q", environ(agent))
	}
	var names []string
	for _, v := range environ(pid) {
		name, _, _ := strings.Cut(v, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{"FIRMWARE_ADDR", "FIRMWARE_BOOT_ID", "FIRMWARE_SLOT", "FIRMWARE_VERSION", "GROUNDSWELL_SLOTS", "LENS", "PATH"}
	if !slices.Equal(names, want) {
		t.Errorf("its environment is %q", environ(pid))
	}

	// Only the pipe for its output is shared; no socket, and no file of the agent's.
	held := map[string]bool{}
	for _, what := range files(t, agent) {
		held[what] = strings.HasPrefix(what, "pipe:") || strings.HasPrefix(what, "socket:") // each has a number of its own
	}
	got := files(t, pid)
	if got["0"] != "/dev/null" {
		t.Errorf("its input is %s", got["0"])
	}
	for n, what := range got {
		if strings.HasPrefix(what, d.dir) && filepath.Base(what) != "artifact" || // it reads itself
			held[what] && n != "1" && n != "2" {
			t.Errorf("descriptor %s is %s", n, what)
		}
	}

	session := func(pid int) int {
		stat := must[[]byte](t)(os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)))
		return must[int](t)(strconv.Atoi(strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[3]))
	}
	group := must[int](t)(syscall.Getpgid(pid))
	if session(pid) != pid || group != pid || session(agent) == pid {
		t.Errorf("process %d is in session %d and group %d", pid, session(pid), group)
	}
}

// Nobody supervises the component of a dead agent, so it ends as well; and no
// number of deaths costs the device its good version.
func TestComponentDiesWithTheAgentAndComesBackWithIt(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	d := f.newDevice(t, "cam-1", "")
	f.manifest("lobby")
	f.assign("cam-1", []string{"lobby"})
	ends := func(pid int) {
		t.Helper()
		d.eventually("the component's end", func() error {
			if slices.Contains(d.components(), pid) {
				return fmt.Errorf("%d runs", pid)
			}
			return nil
		})
	}
	for range 2 * 3 { // twice its tries, if they were counted
		d.start("")
		pid := d.component()
		d.process.Kill()
		ends(pid)
	}
	d.start("")
	pid := d.component()
	if err := d.process.Stop(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(d.components(), pid) {
		t.Error("it outlives an agent that was told to stop")
	}
	d.start("")
	d.component()
	d.eventually("the version", d.last(func(h topics.Heartbeat) error {
		if h.Versions["system"] != "1.0.0" {
			return errors.New(h.Versions["system"])
		}
		return nil
	}))
	d.runs("1.0.0", "")
}
