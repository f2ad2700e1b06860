package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	sharedStream = "shared"
	sharedPrefix = "shared."
	sharedBytes  = 64 << 20
	// MaxShared is how long a document may be that all nodes share, in bytes.
	MaxShared = 8 << 20
)

func (c *Cluster) openShared(ctx context.Context) (err error) {
	c.shared, err = c.stream(ctx, jetstream.StreamConfig{
		Name: sharedStream, Subjects: []string{sharedPrefix + ">"}, Retention: jetstream.LimitsPolicy,
		MaxMsgsPerSubject: 1, MaxBytes: sharedBytes,
	})
	return err
}

// Share gives a document to every node; it replaces the one of that name.
func (c *Cluster) Share(ctx context.Context, name string, document []byte) error {
	if len(document) > MaxShared {
		return fmt.Errorf("share %s: %d bytes, at most %d", name, len(document), MaxShared)
	}
	if _, err := c.admin.Publish(ctx, sharedPrefix+name, document); err != nil {
		return fmt.Errorf("share %s: %w", name, storeError(err))
	}
	return c.awaitCommit()
}

// WatchShared hands the shared document of a name to handle, and every one that
// replaces it, until ctx ends. What this node shared is among them.
func (c *Cluster) WatchShared(ctx context.Context, name string, handle func(document []byte)) {
	next := uint64(1)
	for ctx.Err() == nil {
		err := c.follow(ctx, c.shared, &next, func(msg jetstream.Msg, _ uint64) {
			if strings.TrimPrefix(msg.Subject(), sharedPrefix) == name {
				handle(msg.Data())
			}
		})
		if ctx.Err() == nil {
			c.log.Error("watching what the nodes share was interrupted and begins again", "what", name, "err", err)
			pause(ctx, time.Second)
		}
	}
}
