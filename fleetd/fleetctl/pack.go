package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"groundswell/internal/cli"
	"groundswell/topics"
	"groundswell/topics/pack"
)

type releasePack struct {
	Members []string `name:"member" required:"" help:"MEMBER@VERSION=FILE, in the order in which the members are activated; repeated." placeholder:"MEMBER" sep:"none"`
	Out     string   `required:"" help:"The file to write, for release create or prepare." placeholder:"FILE"`
}

var packTable = table[pack.Member]{
	{"MEMBER", func(m pack.Member) string { return m.Name }},
	{"VERSION", func(m pack.Member) string { return m.Version }},
	{"SIZE", func(m pack.Member) string { return size(m.Length) }},
	{"SHA256", func(m pack.Member) string { return m.SHA256[:12] }},
}

func (*releasePack) Help() string {
	return `A group is several components of a device that are updated together, all or none.
Devices name its members in their configuration, in the same order; one that
restarts the machine is the last. The pack is the group's artifact: release it
like any other, with the group's name as the component.

The same files in the same order make the same pack, byte by byte.

` + examples(
		"fleetctl release pack --member mcu@2.1.0=mcu.img --member system@7.0.0=rootfs.img --out set.img",
		"fleetctl release create --component set --name camera-set --version 3.0.0 --artifact set.img --model cam-a --key release-1.key --key release-2.key",
	)
}

// Run writes the pack beside where it is to be, and puts it there when it is whole and
// was read again. It needs neither a server nor keys.
func (c *releasePack) Run(streams cli.Streams, g *Global) (err error) {
	var members []pack.Member
	files := map[string]string{}
	for _, text := range c.Members {
		name, rest, ok := strings.Cut(text, "@")
		version, file, also := strings.Cut(rest, "=")
		if !ok || !also {
			return cli.UsageError("--member %q is not of the form MEMBER@VERSION=FILE", text)
		}
		m := pack.Member{Name: name, Version: version}
		if m.Length, m.SHA256, err = digestOf(file); err != nil {
			return err
		}
		members = append(members, m)
		files[name] = file
	}
	if err := (pack.Index{Schema: topics.Schema, Members: members}).Validate(); err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(c.Out), ".pack-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close(), gone(out.Name())) }()
	w := bufio.NewWriterSize(out, 1<<20)
	if err := pack.Write(w, members, func(m pack.Member) (io.ReadCloser, error) { return os.Open(files[m.Name]) }); err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), out.Chmod(0o644), out.Sync()); err != nil {
		return err
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	index, err := pack.Read(out, nil)
	if err != nil {
		return err
	}
	if err := os.Rename(out.Name(), c.Out); err != nil {
		return err
	}
	if g.Output == "json" {
		raw, err := json.Marshal(index)
		if err != nil {
			return err
		}
		return printJSON(streams.Out, raw)
	}
	return packTable.print(streams.Out, index.Members)
}

// gone removes a file that may have been moved away.
func gone(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
