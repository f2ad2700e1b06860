package slot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"groundswell/agent/disk"
)

// Whatever a launch leaves behind is ended before the next one: a child of the
// old version that keeps a fixed port would answer the health check of the new
// one. The kernel ends the head of a launch together with the agent, but
// nobody ends its children for us, so they have to be recognised, also by an
// agent that has just been started. Two signs are looked for, because each is
// missing where the other is not:
//
//   - the mark, a variable in the environment that every descendant inherits,
//     also one that left the session. A process that cleared or overwrote its
//     environment has lost it;
//   - the session, which each launch opens and nobody can enter from outside,
//     written down with what makes its number unique. A process that opened
//     a session of its own has left it.
//
// From both the search goes on: whoever is in a session of theirs, or a child
// of one of them, belongs to them. Only a process that gave up its environment,
// its session and its parents is not found; control groups would find that one
// too, but a plain user often may not make any.

// MarkName is the variable of the mark.
const MarkName = "GROUNDSWELL_SLOTS"

// mark names the slots among all on this machine, whatever path they are
// mounted at.
func (d *Dir) mark() (string, error) {
	info, err := os.Stat(d.path)
	if err != nil {
		return "", err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", errors.New("a file without an inode")
	}
	return fmt.Sprintf("%s=%x:%x", MarkName, stat.Dev, stat.Ino), nil
}

// session is that of a launch, as written down.
type session struct {
	Host  string `json:"host"`  // boot of the kernel and namespace that the numbers belong to
	ID    int    `json:"id"`    // process id of its head
	Start uint64 `json:"start"` // when the head began, in ticks since boot
}

// task is a process that runs.
type task struct {
	pid, parent, session int
	start                uint64
}

// readTask reads what /proc says about a process; ok is false when it has
// ended, waited for or not.
func readTask(pid int) (t task, ok bool, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return task{}, false, nil
	}
	if err != nil {
		return task{}, false, err
	}
	// The name in parentheses may hold anything. proc(5): state is field 3,
	// starttime field 22.
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 20 {
		return task{}, false, fmt.Errorf("process %d: %.60q", pid, data)
	}
	t.pid = pid
	var errs [3]error
	t.parent, errs[0] = strconv.Atoi(fields[1])
	t.session, errs[1] = strconv.Atoi(fields[3])
	t.start, errs[2] = strconv.ParseUint(fields[19], 10, 64)
	if err := errors.Join(errs[:]...); err != nil {
		return task{}, false, fmt.Errorf("process %d: %w", pid, err)
	}
	return t, !strings.ContainsAny(fields[0], "ZXx"), nil
}

// host names what process ids and start times belong to.
func host() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	namespace, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(boot)) + " " + namespace, nil
}

// launched writes down the session of a launch. It need not survive a power
// cut, which ends all processes, so nothing is synced.
func (d *Dir) launched(pid int) error {
	t, _, err := readTask(pid)
	if err != nil {
		return err
	}
	h, err := host()
	if err != nil {
		return err
	}
	data, err := json.Marshal(session{h, pid, t.start})
	if err != nil {
		return err
	}
	tmp := filepath.Join(d.path, "session.json.new")
	file, err := d.on.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return d.on.Rename(tmp, filepath.Join(d.path, "session.json"))
}

// session is what launched wrote, if it can still mean anything.
func (d *Dir) session() (s session, ok bool) {
	data, err := disk.ReadFile(d.on, filepath.Join(d.path, "session.json"), maxBookkeeping)
	if err != nil || json.Unmarshal(data, &s) != nil {
		return session{}, false // never launched, or the mark has to do
	}
	h, err := host()
	return s, err == nil && s.Host == h
}

// remains lists what runs of earlier launches.
func (d *Dir) remains() ([]task, error) {
	mark, err := d.mark()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	self := os.Getpid()
	own, ok, err := readTask(self)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errors.New("/proc does not know this very process")
	}
	tasks := map[int]task{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == self {
			continue
		}
		t, ok, err := readTask(pid)
		if err != nil {
			return nil, err
		}
		if ok {
			tasks[pid] = t
		}
	}
	ours, sessions := map[int]bool{}, map[int]bool{}
	written, known := d.session()
	if head, runs := tasks[written.ID]; known && runs && head.start != written.Start {
		known = false // the number was given away again
	}
	for pid, t := range tasks {
		if known && t.session == written.ID && t.start >= written.Start || marked(pid, mark) {
			ours[pid] = true
		}
	}
	for grown := true; grown; {
		grown = false
		for pid := range ours {
			if s := tasks[pid].session; s != own.session {
				sessions[s] = true
			}
		}
		for pid, t := range tasks {
			if !ours[pid] && (ours[t.parent] || sessions[t.session]) {
				ours[pid], grown = true, true
			}
		}
	}
	var found []task
	for pid := range ours {
		found = append(found, tasks[pid])
	}
	return found, nil
}

// marked reports whether the mark is in a process's environment. Whose
// environment we may not read does not run as ours, and is found by its session
// or its parents, or not at all.
func marked(pid int, mark string) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && slices.Contains(strings.Split(string(data), "\x00"), mark)
}

// clear ends what runs of earlier launches. nil means that nothing does. There
// is no polite signal: its head is gone.
func (d *Dir) clear(patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; {
		found, err := d.remains()
		if err != nil {
			return fmt.Errorf("look for what earlier launches left: %w", err)
		}
		if len(found) == 0 {
			return nil
		}
		var errs []error
		for _, t := range found {
			errs = append(errs, end(t))
		}
		if time.Now().After(deadline) {
			errs = append(errs, fmt.Errorf("process %d still runs", found[0].pid))
			return fmt.Errorf("%d processes of earlier launches cannot be ended: %w", len(found), errors.Join(errs...))
		}
		time.Sleep(5 * time.Millisecond) // the kernel is at it, or a driver holds on to one
	}
}

// end kills one process, by a handle that cannot come to mean another.
func end(t task) error {
	handle, err := os.FindProcess(t.pid)
	if err != nil {
		return nil // gone
	}
	defer handle.Release()
	if now, runs, err := readTask(t.pid); err != nil || !runs || now.start != t.start {
		return err
	}
	if err := handle.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("process %d: %w", t.pid, err)
	}
	return nil
}
