package deltas

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"groundswell/internal/delta"
	"groundswell/internal/expand/find"
)

// ChildCommand is the first argument by which a program knows that it is to be RunChild.
const ChildCommand = "delta-encode"

// Child is an Encoder that is a process of its own: Program, with ChildCommand. It ends
// with this one.
type Child struct {
	Program string   // default: this program
	Env     []string // further variables
	CPUs    int      // processors that it uses; default 1
	Memory  int64    // bytes that it may have; what is beyond is an error
}

// Need is what internal/delta takes at least, besides what the page cache keeps of both. With
// more it sorts more of old.
func (c Child) Need(old, _ int64) int64 { return delta.LeastMemory(1) + old/64 }

// order is what the child is told, on its standard input.
type order struct {
	Coder  string `json:"coder"`
	CPUs   int    `json:"cpus"`   // how many segments are made at once
	Memory int64  `json:"memory"` // bytes that it may take besides the images; 0: as many as it needs
	// Plain is how long the plain delta is: one that looks through compression is to be
	// made. 0: the plain one is.
	Plain int64 `json:"plain"`
}

// The files of the child, behind its standard ones.
const (
	oldFile = 3 + iota
	newFile
	indexFile
	outFile
)

// ErrMemory: a delta needs more memory than it may have; so it will the next time.
var ErrMemory = errors.New("deltas.memory is too little")

// exitMemory is how the child ends then.
const exitMemory = 3

// ExitCode is how a process ends whose RunChild failed.
func ExitCode(err error) int {
	if errors.Is(err, delta.ErrMemory) {
		return exitMemory
	}
	return 1
}

// maxComplaint is how much of what a child says when it fails is kept, in bytes.
const maxComplaint = 2 << 10

// Encode runs the child for the plain delta. When ctx ends it is killed.
func (c Child) Encode(ctx context.Context, coder string, old, new, index, out *os.File) (Effort, error) {
	return c.run(ctx, order{Coder: coder, CPUs: max(c.CPUs, 1), Memory: c.Memory}, old, new, index, out)
}

// Expand runs the child to look through compression. When ctx ends it is killed.
func (c Child) Expand(ctx context.Context, coder string, plain int64, old, new, index, out *os.File) (Effort, error) {
	return c.run(ctx, order{Coder: coder, CPUs: max(c.CPUs, 1), Memory: c.Memory, Plain: plain}, old, new, index, out)
}

func (c Child) run(ctx context.Context, o order, old, new, index, out *os.File) (effort Effort, err error) {
	program := c.Program
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return effort, err
		}
	}
	cmd := exec.CommandContext(ctx, program, ChildCommand)
	told, err := json.Marshal(o)
	if err != nil {
		return effort, err
	}
	var said opening
	cmd.Stdin, cmd.Stderr, cmd.ExtraFiles = bytes.NewReader(told), &said, []*os.File{old, new, index, out}
	cmd.Env = append(os.Environ(), c.Env...)
	// The signal comes when the thread ends that began the child, so that one is kept.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	if cmd.ProcessState != nil {
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			effort.Peak = usage.Maxrss << 10 // getrusage(2): KiB
		}
	}
	if ctx.Err() != nil {
		return effort, context.Cause(ctx)
	}
	if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() == exitMemory {
		return effort, fmt.Errorf("%w: %s", ErrMemory, said.text())
	}
	if err != nil {
		return effort, fmt.Errorf("the encoder ended with %w: %s", err, said.text())
	}
	return effort, nil
}

// opening keeps the beginning of what is written, where a program that crashes says why.
type opening struct{ kept []byte }

func (t *opening) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p[:min(len(p), maxComplaint-len(t.kept))]...)
	return len(p), nil
}

func (t *opening) text() string {
	if len(t.kept) == 0 {
		return "it said nothing"
	}
	return strings.TrimSpace(string(t.kept))
}

// headroom is what a Go program needs besides what it works with, in bytes.
const headroom = 256 << 20

// RunChild is the child process: it does what its parent asked for with the files that it
// was given, and proves that what it made makes what it should. encode is delta.Encode,
// expand is find.Encode.
func RunChild(ctx context.Context, encode Encode, expand Expand) error {
	var o order
	if err := json.NewDecoder(io.LimitReader(os.Stdin, 1<<10)).Decode(&o); err != nil {
		return fmt.Errorf("%s is for fleetd itself: %w", ChildCommand, err)
	}
	runtime.GOMAXPROCS(o.CPUs)
	if o.Memory > 0 {
		debug.SetMemoryLimit(o.Memory)
		limit := syscall.Rlimit{Cur: uint64(o.Memory + headroom), Max: uint64(o.Memory + headroom)}
		if err := syscall.Setrlimit(syscall.RLIMIT_DATA, &limit); err != nil {
			return fmt.Errorf("bound the memory: %w", err)
		}
	}
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 15) // without it, it is only not as modest
	old, err := mapped(oldFile)
	if err != nil {
		return err
	}
	target, err := mapped(newFile)
	if err != nil {
		return err
	}
	index, err := mapped(indexFile)
	if err != nil {
		return err
	}
	segments, err := ends(index, int64(len(target)))
	if err != nil {
		return err
	}
	coder, err := coderOf(o.Coder)
	if err != nil {
		return err
	}
	out := os.NewFile(outFile, "out")
	if o.Plain > 0 {
		through := find.Options{Ends: segments, Coder: coder, Workers: o.CPUs, Memory: o.Memory, Expanded: func() { release(old, target) }}
		return errors.Join(lookThrough(ctx, expand, out, old, target, o.Plain, through), out.Close())
	}
	w := bufio.NewWriterSize(out, 1<<20)
	if err := encode(ctx, w, old, target, delta.Options{Ends: segments, Coder: coder, Workers: o.CPUs, Memory: o.Memory}); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	made, err := mapped(outFile)
	if err != nil {
		return err
	}
	return errors.Join(prove(ctx, made, old, target), out.Close())
}

// mapped is what a file holds, without a copy of it. It stays mapped: the process ends.
func mapped(fd int) ([]byte, error) {
	var info syscall.Stat_t
	if err := syscall.Fstat(fd, &info); err != nil {
		return nil, fmt.Errorf("%s is for fleetd itself: file %d: %w", ChildCommand, fd, err)
	}
	if info.Size == 0 {
		return nil, fmt.Errorf("file %d is empty", fd)
	}
	data, err := syscall.Mmap(fd, 0, int(info.Size), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map file %d: %w", fd, err)
	}
	return data, nil
}

// release lets go of the pages of files that are mapped, until they are read again: they are
// the page cache's, but count as this process's.
func release(files ...[]byte) {
	for _, mapped := range files {
		_ = syscall.Madvise(mapped, syscall.MADV_DONTNEED) // nothing depends on it
	}
}
