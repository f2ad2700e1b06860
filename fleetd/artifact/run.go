package artifact

import (
	"context"
	"math/rand/v2"
	"time"

	"groundswell/certs/trust"
)

// lookAgain is how often Run looks whether something is to be renewed.
const lookAgain = time.Hour

// targetsWarning is how long before the list of releases expires the log says
// so: only people with release keys can sign a newer one.
const targetsWarning = 14 * 24 * time.Hour

// Run renews what the online keys signed before it expires, and warns when the
// list of releases is about to. It returns when ctx ends.
func (c *Catalogue) Run(ctx context.Context) error {
	wait := rand.N(time.Minute) // replicas take turns
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = lookAgain
		if err := c.renew(ctx, false); err != nil && ctx.Err() == nil {
			c.cfg.Log.Error("image metadata not renewed", "err", err)
			wait = time.Minute
		}
		c.warn(ctx)
	}
}

func (c *Catalogue) warn(ctx context.Context) {
	_, root, err := c.root(ctx, trust.Image)
	if err != nil {
		return // Ready says so
	}
	targets, err := c.newest(ctx, targetsFile)
	if err != nil || targets.Bytes == nil {
		return
	}
	images, err := trust.CheckTargets(c.cfg.TrustDomain, root, nil, targets.Bytes, time.Now())
	switch {
	case err != nil:
		c.cfg.Log.Error("devices refuse the list of releases: sign it anew", "err", err)
	case time.Until(images.Expires()) < targetsWarning:
		c.cfg.Log.Warn("the list of releases expires soon: sign it anew", "expires", images.Expires())
	}
}
