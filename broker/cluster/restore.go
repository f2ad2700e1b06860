package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/jsm.go"
	"github.com/nats-io/jsm.go/api"
)

// restoring is the file that says that a store is being made of a backup, and may have
// some of its streams only.
const restoring = "restoring"

// restore makes the streams of the backup, if none of them is there. With peers one
// node does, whichever leads, and the others wait until it has: all of them are to
// have the same backup. If all are there, nothing happens; if some are, and no restore
// was interrupted, it is refused: old streams beside newer ones would be wrong.
func (c *Cluster) restore(ctx context.Context, dir string) error {
	contents, err := readContents(dir)
	if err != nil {
		return fmt.Errorf("restore: %s: %w", dir, err)
	}
	if contents.Shards != c.cfg.Shards {
		return fmt.Errorf("restore: %s: %w: it has %d shards, the configuration says %d", dir, ErrBackup, contents.Shards, c.cfg.Shards)
	}
	manager, err := c.manager()
	if err != nil {
		return err
	}
	marker := filepath.Join(c.cfg.Dir, restoring)
	restored, checked := 0, false
	for {
		var missing []string
		err := c.patiently(ctx, "restore", func(context.Context) error {
			there, err := manager.StreamNames(nil)
			missing = slices.DeleteFunc(slices.Clone(contents.Streams), func(name string) bool { return slices.Contains(there, name) })
			return err
		})
		if err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		if len(missing) == 0 {
			break
		}
		if !checked && len(missing) == len(contents.Streams) {
			if err := os.WriteFile(marker, []byte(dir), 0o600); err != nil {
				return fmt.Errorf("restore: %w", err)
			}
		}
		checked = true
		if !c.Clustered() || c.server.JetStreamIsLeader() {
			if _, err := os.Stat(marker); err != nil {
				return fmt.Errorf("restore: the store has only some of the streams of the backup, not %q: empty data_dir, or take restore out: %w", missing, ErrBackup)
			}
			err := c.restoreStream(ctx, manager, dir, missing[0])
			if err == nil {
				restored++
				continue
			}
			if !c.Clustered() || !errors.Is(err, ErrUnavailable) {
				return fmt.Errorf("restore: %s: stream %s: %w", dir, missing[0], err)
			}
			c.log.Warn("a stream could not be restored, trying again", "stream", missing[0], "err", err)
			_ = c.admin.DeleteStream(ctx, missing[0]) // what there may be of it
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("restore: %w", ctx.Err())
		case <-time.After(250 * time.Millisecond):
		}
	}
	if err := os.Remove(marker); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("restore: %w", err)
	}
	if restored > 0 {
		c.log.Warn("restored from a backup: what has changed since is not there", "backup", dir, "of", contents.At, "streams", restored)
	} else {
		c.log.Warn("nothing was restored: the streams are there", "backup", dir)
	}
	return nil
}

func (c *Cluster) restoreStream(ctx context.Context, manager *jsm.Manager, dir, name string) error {
	dir = filepath.Join(dir, name)
	data, err := os.ReadFile(filepath.Join(dir, jsm.SnapshotMetaFile))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	var meta struct {
		Config api.StreamConfig `json:"config"`
	}
	if err := json.Unmarshal(data, &meta); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBackup, jsm.SnapshotMetaFile, err)
	}
	meta.Config.Replicas = c.replicas()
	if _, _, err = manager.RestoreSnapshotFromDirectory(ctx, name, dir, jsm.RestoreConfiguration(meta.Config)); err == nil {
		return nil
	}
	var refused api.ApiError
	if errors.As(err, &refused) {
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}
