package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// tool is something that makes a new image out of an old one.
type tool struct {
	name  string // for --tools
	label string // for the table
	// encode and decode are command lines. Absent: the tool has no such step.
	prepare, encode, decode func(j job) []string
	// size is what a device that has the old image must fetch, in bytes. Absent: the
	// length of the delta.
	size func(j job, output string) (int64, error)
}

// job is one measure: in a folder of its own.
type job struct {
	pair
	dir  string
	self string // this program; the one that decodes is beside it
}

type pair struct{ name, old, new string }

func (j job) in(name string) string { return filepath.Join(j.dir, name) }
func (j job) delta() string         { return j.in("delta") }
func (j job) out() string           { return j.in("out") }

var tools = []tool{
	{
		name: "full", label: "full, zstd -19",
		encode: func(j job) []string { return []string{"zstd", "-qf", "-19", j.new, "-o", j.delta()} },
		decode: func(j job) []string { return []string{"zstd", "-qfd", j.delta(), "-o", j.out()} },
	},
	ours("zstd"),
	ours("mixed"),
	ours(lookThrough),
	{
		name: "zstd", label: "zstd -19 --patch-from",
		encode: func(j job) []string {
			return []string{"zstd", "-qf", "-19", "--long=31", "--patch-from=" + j.old, j.new, "-o", j.delta()}
		},
		decode: func(j job) []string {
			return []string{"zstd", "-qfd", "--long=31", "--memory=2048MB", "--patch-from=" + j.old, j.delta(), "-o", j.out()}
		},
	},
	{
		name: "bsdiff", label: "bsdiff",
		encode: func(j job) []string { return []string{"bsdiff", j.old, j.new, j.delta()} },
		decode: func(j job) []string { return []string{"bspatch", j.old, j.out(), j.delta()} },
	},
	{
		name: "xdelta3", label: "xdelta3 -9",
		encode: func(j job) []string {
			// -D: it would inflate what begins as gzip, and its decoder compress it
			// otherwise than it was.
			return []string{"xdelta3", "-9", "-f", "-D", "-B", window(j), "-e", "-s", j.old, j.new, j.delta()}
		},
		decode: func(j job) []string {
			return []string{"xdelta3", "-f", "-D", "-R", "-B", window(j), "-d", "-s", j.old, j.delta(), j.out()}
		},
	},
	{
		name: "casync", label: "casync",
		prepare: func(j job) []string {
			return []string{"casync", "make", "--store=" + j.in("old.castr"), j.in("old.caibx"), j.old}
		},
		encode: func(j job) []string {
			return []string{"casync", "make", "--store=" + j.in("new.castr"), j.in("new.caibx"), j.new}
		},
		decode: func(j job) []string {
			return []string{"casync", "extract", "--store=" + j.in("new.castr"), "--seed=" + j.old, j.in("new.caibx"), j.out()}
		},
		size: casyncSize,
	},
	{
		name: "zchunk", label: "zchunk",
		prepare: func(j job) []string { return []string{"zck", "-o", j.in("old.zck"), j.old} },
		encode:  func(j job) []string { return []string{"zck", "-o", j.in("new.zck"), j.new} },
		decode:  func(j job) []string { return []string{"unzck", j.in("new.zck")} },
		size:    zchunkSize,
	},
}

func ours(coder string) tool {
	label := coder
	if coder == lookThrough {
		label = "mixed, through compression"
	}
	return tool{
		name: "ours-" + coder, label: "**ours, " + label + "**",
		encode: func(j job) []string { return []string{j.self, "encode", coder, j.old, j.new, j.delta()} },
		decode: func(j job) []string {
			return []string{filepath.Join(filepath.Dir(j.self), "patch"), j.old, j.delta(), j.out()}
		},
	}
}

func names() []string {
	var list []string
	for _, t := range tools {
		list = append(list, t.name)
	}
	return list
}

// window is one in which xdelta3 sees all of the old image.
func window(j job) string {
	size := int64(1 << 20)
	if info, err := os.Stat(j.old); err == nil {
		for size < info.Size() {
			size *= 2
		}
	}
	return strconv.FormatInt(size, 10)
}

// casyncSize counts the index and the chunks that the old image's store has not.
func casyncSize(j job, _ string) (int64, error) {
	total, err := length(j.in("new.caibx"))
	if err != nil {
		return 0, err
	}
	err = filepath.Walk(j.in("new.castr"), func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		other := filepath.Join(j.in("old.castr"), strings.TrimPrefix(path, j.in("new.castr")))
		if _, err := os.Stat(other); os.IsNotExist(err) {
			total += info.Size()
		}
		return nil
	})
	return total, err
}

// zchunkSize asks zchunk: "Would download N of M bytes".
func zchunkSize(j job, _ string) (int64, error) {
	out, err := output(j, "zck_delta_size", j.in("old.zck"), j.in("new.zck"))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(out, "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "Would" && f[1] == "download" {
			return strconv.ParseInt(f[2], 10, 64)
		}
	}
	return 0, fmt.Errorf("zck_delta_size says %q", out)
}

func length(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
