// Benchdelta measures the delta codec beside public tools, on pairs of an old and a new
// image, in one run: bytes to transfer, seconds, and memory. Each measure is a process
// of its own, ours too; what a tool decodes is compared with the new image. It prints
// tables in Markdown, for docs/delta.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

type options struct {
	Dir      string
	Pairs    string
	Tools    string
	Patience time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.Dir, "dir", ".cache/pairs", "folder of the pairs: NAME.old and NAME.new")
	flag.StringVar(&o.Pairs, "pairs", "", "which pairs, comma-separated (default all that are in the folder)")
	flag.StringVar(&o.Tools, "tools", "", "which tools, comma-separated (default all: "+strings.Join(names(), ",")+")")
	flag.DurationVar(&o.Patience, "patience", 5*time.Minute, "how long a tool may take to encode a pair")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var err error
	if flag.NArg() > 0 {
		err = child(ctx, flag.Args())
	} else {
		err = run(ctx, o, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "benchdelta: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, log *slog.Logger) error {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	pairs, err := chosen(o.Pairs, pairsIn(dir))
	if err != nil {
		return fmt.Errorf("--pairs: %w", err)
	}
	which, err := chosen(o.Tools, names())
	if err != nil {
		return fmt.Errorf("--tools: %w", err)
	}
	work, err := os.MkdirTemp("", "benchdelta-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, name := range pairs {
		p := pair{name: name, old: filepath.Join(dir, name+".old"), new: filepath.Join(dir, name+".new")}
		var results []result
		for _, t := range tools {
			if !slices.Contains(which, t.name) {
				continue
			}
			log.Info("measuring", "pair", name, "tool", t.name)
			r, err := measure(ctx, t, p, work, o.Patience)
			if err != nil {
				return fmt.Errorf("%s on %s: %w", t.name, name, err)
			}
			results = append(results, r)
		}
		if err := print(p, results); err != nil {
			return err
		}
		// In a process of its own as well: what this one takes counts as its children's.
		_, index, err := command(ctx, job{pair: p, dir: work}, []string{self, "index", p.old, p.new})
		if err != nil {
			return err
		}
		fmt.Print("\n", index)
	}
	return nil
}

func pairsIn(dir string) []string {
	var list []string
	files, _ := filepath.Glob(filepath.Join(dir, "*.old")) // only a bad pattern fails
	for _, f := range files {
		list = append(list, strings.TrimSuffix(filepath.Base(f), ".old"))
	}
	return list
}

// chosen are the names that were asked for, all of which must be among those there.
func chosen(asked string, all []string) ([]string, error) {
	if asked == "" {
		if len(all) == 0 {
			return nil, fmt.Errorf("none found: see scripts/pairs")
		}
		return all, nil
	}
	list := strings.Split(asked, ",")
	for _, name := range list {
		if !slices.Contains(all, name) {
			return nil, fmt.Errorf("%q is none of %s", name, strings.Join(all, ", "))
		}
	}
	return list, nil
}
