package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jsm.go"
)

// Backups are directories, with one below for each stream, and the contents file,
// which is written last.
const (
	contentsFile  = "contents.json"
	backupVersion = 1
	backupTime    = "20060102T150405.000Z"
)

// ErrBackup means that a directory is no backup, or not one that can be restored
// here.
var ErrBackup = errors.New("not a backup that can be restored")

// Contents is what the contents file of a backup says.
type Contents struct {
	Version int       `json:"version"`
	Node    string    `json:"node"` // that made it
	At      time.Time `json:"at"`   // when it was begun
	Shards  int       `json:"shards"`
	Streams []string  `json:"streams"` // in the order in which they were copied
}

// Backup copies every stream, with what groups have handled, to a new directory
// below dir, and returns its name. The node goes on serving. A backup of any node
// holds what all nodes have.
//
// Sessions are copied before the messages that wait for them: a session that
// remembers too little gets a message twice, one that remembers too much would miss
// those that come later.
func (c *Cluster) Backup(ctx context.Context, dir string) (string, error) {
	began := time.Now().UTC()
	name := filepath.Join(dir, c.cfg.Node+"-"+began.Format(backupTime))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("backup: %w", err)
	}
	unfinished := filepath.Join(dir, ".unfinished-"+c.cfg.Node) // what a killed process left goes
	if err := os.RemoveAll(unfinished); err != nil {
		return "", fmt.Errorf("backup: %w", err)
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return "", fmt.Errorf("backup: %w", err)
	}
	defer func() { _ = os.RemoveAll(unfinished) }() // nothing is there after a success
	manager, err := c.manager()
	if err != nil {
		return "", err
	}
	streams, err := manager.StreamNames(nil)
	if err != nil {
		return "", fmt.Errorf("backup: %w: %w", ErrUnavailable, err)
	}
	// Who lives is not worth keeping.
	streams = slices.DeleteFunc(streams, func(name string) bool { return name == leaseStream })
	slices.SortStableFunc(streams, func(a, b string) int { return first(b) - first(a) })
	for _, name := range streams {
		stream, err := manager.LoadStream(name)
		if err == nil {
			_, err = stream.SnapshotToDirectory(ctx, filepath.Join(unfinished, name), jsm.SnapshotConsumers(), jsm.SnapshotHealthCheck())
		}
		if err != nil {
			return "", fmt.Errorf("backup of stream %s: %w: %w", name, ErrUnavailable, err)
		}
	}
	contents, err := json.MarshalIndent(Contents{
		Version: backupVersion, Node: c.cfg.Node, At: began.Truncate(time.Second), Shards: c.cfg.Shards, Streams: streams,
	}, "", "  ")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(unfinished, contentsFile), contents, 0o600); err != nil {
		return "", fmt.Errorf("backup: %w", err)
	}
	if err := syncTree(unfinished); err != nil {
		return "", fmt.Errorf("backup: %w", err)
	}
	if err := os.Rename(unfinished, name); err != nil {
		return "", fmt.Errorf("backup: %w", err)
	}
	return name, fsync(dir)
}

// first is 1 for the stream that is copied before the others.
func first(stream string) int {
	if stream == sessionStream {
		return 1
	}
	return 0
}

func (c *Cluster) manager() (*jsm.Manager, error) {
	manager, err := jsm.New(c.retaining, jsm.WithTimeout(c.cfg.StoreTimeout))
	if err != nil {
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	return manager, nil
}

// syncTree writes a directory through to the disk, with all below.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return fsync(path)
	})
}

// readContents reads and checks the contents file of a backup.
func readContents(dir string) (Contents, error) {
	var contents Contents
	data, err := os.ReadFile(filepath.Join(dir, contentsFile))
	if err != nil {
		return contents, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	if err := json.Unmarshal(data, &contents); err != nil {
		return contents, fmt.Errorf("%w: %s: %w", ErrBackup, contentsFile, err)
	}
	if contents.Version != backupVersion {
		return contents, fmt.Errorf("%w: version %d, this broker reads %d", ErrBackup, contents.Version, backupVersion)
	}
	for _, name := range contents.Streams {
		if name == "" || strings.ContainsAny(name, `/\.`) {
			return contents, fmt.Errorf("%w: %s names a stream %q", ErrBackup, contentsFile, name)
		}
		if _, err := jsm.SnapshotDataPath(filepath.Join(dir, name)); err != nil {
			return contents, fmt.Errorf("%w: stream %s: %w", ErrBackup, name, err)
		}
	}
	return contents, nil
}

// Backups returns the finished backups of this node below dir, oldest first.
func (c *Cluster) backups(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("backups: %w", err)
	}
	var names []string
	for _, e := range entries {
		stamp, ours := strings.CutPrefix(e.Name(), c.cfg.Node+"-")
		if _, err := time.Parse(backupTime, stamp); ours && err == nil {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Backups says where backups go, and when.
type Backups struct {
	// Dir gets them. Empty: none.
	Dir string `yaml:"dir"`
	// Every is the time between two, counted from the newest that is there; 0: only
	// when asked.
	Every time.Duration `yaml:"every"`
	// Keep is how many there are at most; then the oldest go.
	Keep int `yaml:"keep"`
}

func (b Backups) validate() error {
	switch {
	case b.Dir == "":
		return nil
	case b.Every != 0 && b.Every < time.Minute:
		return fmt.Errorf("backup.every: %v is less than a minute", b.Every)
	case b.Keep < 1:
		return errors.New("backup.keep: must be at least 1")
	}
	return nil
}

// BackUp makes the backups, until ctx ends, also whenever something comes from asked.
// What fails is logged and counted.
func (c *Cluster) BackUp(ctx context.Context, asked <-chan os.Signal) {
	if c.cfg.Backups.Dir == "" {
		return
	}
	for {
		var due <-chan time.Time
		if every := c.cfg.Backups.Every; every > 0 {
			due = time.After(max(time.Until(c.lastBackup().Add(every)), 0))
		}
		select {
		case <-ctx.Done():
			return
		case <-asked:
		case <-due:
		}
		began := time.Now()
		name, err := c.Backup(ctx, c.cfg.Backups.Dir)
		if err == nil {
			err = c.forgetBackups()
		}
		if err != nil {
			c.metrics.backups.With("failed").Inc()
			c.log.Error("no backup could be made", "dir", c.cfg.Backups.Dir, "err", err)
			select { // it may be the disk: not again at once
			case <-ctx.Done():
			case <-time.After(time.Minute):
			}
			continue
		}
		c.metrics.backups.With("made").Inc()
		c.metrics.lastBackup.Set(float64(began.Unix()))
		c.log.Info("backup made", "backup", name, "took", time.Since(began).Round(time.Millisecond).String())
	}
}

// lastBackup is when the newest backup was begun; long ago, if there is none.
func (c *Cluster) lastBackup() time.Time {
	names, err := c.backups(c.cfg.Backups.Dir)
	if err != nil || len(names) == 0 {
		return time.Time{}
	}
	stamp := strings.TrimPrefix(filepath.Base(names[len(names)-1]), c.cfg.Node+"-")
	at, _ := time.Parse(backupTime, stamp) // backups has seen to it
	return at
}

// forgetBackups removes the oldest of those that are too many.
func (c *Cluster) forgetBackups() error {
	names, err := c.backups(c.cfg.Backups.Dir)
	for i := 0; err == nil && i < len(names)-c.cfg.Backups.Keep; i++ {
		err = os.RemoveAll(names[i])
	}
	return err
}
