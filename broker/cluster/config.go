package cluster

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"groundswell/topics"
)

// Sync is when stored messages are written through to the disk.
type Sync struct {
	// Always: before a message counts as stored.
	Always bool
	// Interval, if not Always: at least this often. The last interval may be
	// lost when the power goes.
	Interval time.Duration
}

// ParseSync reads "always" or a duration from 1ms to 1h.
func ParseSync(s string) (Sync, error) {
	if s == "always" {
		return Sync{Always: true}, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Millisecond || d > time.Hour {
		return Sync{}, fmt.Errorf("sync: %q is neither \"always\" nor a duration from 1ms to 1h", s)
	}
	return Sync{Interval: d}, nil
}

func (s Sync) String() string {
	if s.Always {
		return "always"
	}
	return s.Interval.String()
}

// Config is what a store needs to know.
type Config struct {
	// Node names this broker in the cluster; a legal id.
	Node string
	// Dir holds the streams.
	Dir  string
	Sync Sync
	// Shards is how many uplink streams there are. It is fixed when the first
	// message is stored.
	Shards int
	// Groups are the names of the declared consumer groups.
	Groups []string
	// MaxUplinkBytes is the size of all uplink streams together.
	MaxUplinkBytes int64
	// MaxRetainedBytes is the size of the retained messages.
	MaxRetainedBytes int64
	// MaxInboxBytes is the size of all messages that wait for their subscribers;
	// MaxInboxPerTopic is how many of one topic, 0 for any number.
	MaxInboxBytes    int64
	MaxInboxPerTopic int
	// MaxOpenBytes is the size of the log of open topics, and as much again that of
	// their retained messages; 0: there are none.
	MaxOpenBytes int64
	// MaxPending is how many messages may be under way to the store.
	MaxPending int
	// StoreTimeout bounds the wait for the store.
	StoreTimeout time.Duration
	// Backups are copies of all streams.
	Backups Backups
	// Restore is a backup that a store without streams begins with. Empty: none.
	Restore string
	// Peering joins other nodes. Nil: this one is alone.
	Peering *Peering
	// Region is what the node, with all its peers, is of; a legal id.
	Region string
	// Gateways joins other regions. Nil: this one is alone.
	Gateways *Gateways
}

// MaxShards is the largest number of shards.
const MaxShards = 32

// Validate names the first field that cannot be used.
func (c Config) Validate() error {
	switch {
	case !topics.ValidID(c.Node):
		return fmt.Errorf("node: %q is not a legal id", c.Node)
	case c.Dir == "":
		return errors.New("data_dir: is not set")
	case !c.Sync.Always && c.Sync.Interval <= 0:
		return errors.New("sync: is not set")
	case c.Shards < 1 || c.Shards > MaxShards:
		return fmt.Errorf("shards: %d is not from 1 to %d", c.Shards, MaxShards)
	case len(c.Groups) == 0:
		return errors.New("groups: none declared, so nothing that devices report would be kept")
	case c.MaxUplinkBytes < 1<<20:
		return errors.New("limits.uplink_bytes: must be at least 1 MiB")
	case c.MaxRetainedBytes < 1<<20:
		return errors.New("limits.retained_bytes: must be at least 1 MiB")
	case c.MaxInboxBytes < 1<<20:
		return errors.New("limits.inbox_bytes: must be at least 1 MiB")
	case c.MaxInboxPerTopic < 0:
		return errors.New("limits.session_queue_messages: must not be negative")
	case c.MaxOpenBytes != 0 && c.MaxOpenBytes < 1<<20:
		return errors.New("lab.bytes: must be at least 1 MiB")
	case c.MaxPending < 1:
		return errors.New("limits.store_pending: must be at least 1")
	case c.StoreTimeout <= 0:
		return errors.New("limits.store_timeout: must be positive")
	}
	seen := map[string]bool{}
	for i, g := range c.Groups {
		if !topics.ValidID(g) || seen[strings.ToLower(g)] {
			return fmt.Errorf("groups[%d]: %q is not a legal name, or stands twice", i, g)
		}
		seen[strings.ToLower(g)] = true
	}
	if err := c.Backups.validate(); err != nil {
		return err
	}
	if !topics.ValidID(c.Region) {
		return fmt.Errorf("region: %q is not a legal id", c.Region)
	}
	if c.Peering != nil {
		if err := c.Peering.validate(); err != nil {
			return err
		}
	}
	if c.Gateways != nil {
		return c.Gateways.validate(c.Region, c.Peering != nil)
	}
	return nil
}
