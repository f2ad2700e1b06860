package artifact

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"groundswell/certs/trust"
	"groundswell/topics"
)

// lookAgain is how often Run looks whether something is to be renewed.
const lookAgain = time.Hour

// targetsWarning is how long before the list of releases expires the log says
// so: only people with release keys can sign a newer one.
const targetsWarning = 14 * 24 * time.Hour

// Run renews what the online keys signed before it expires, warns when the list
// of releases is about to, and notes what a fleetd of before did not. It returns when ctx ends.
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
		if err := c.renewDirected(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Error("signatures of the director not looked at", "err", err)
			wait = time.Minute
		}
		if err := c.fillRequires(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Error("what releases require is not noted", "err", err)
			wait = time.Minute
		}
		if err := c.fillIndexes(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Error("block indexes of releases are not noted", "err", err)
			wait = time.Minute
		}
		c.warn(ctx)
	}
}

// renewDirected has manifests and assignments signed anew when the director
// root in force does not know who signed them, but knows this replica's key.
// One of each is looked at: they are renewed all or none.
func (c *Catalogue) renewDirected(ctx context.Context) error {
	info, director, err := c.root(ctx, trust.Director)
	if err != nil {
		return err
	}
	if names(info, trust.Director, trust.RoleTargets, c.cfg.DirectorKey.ID()) != nil {
		return nil // Ready says so; a replica with a key that is named does it
	}
	_, image, err := c.root(ctx, trust.Image)
	if err != nil {
		return err
	}
	state, err := trust.NewState(c.cfg.TrustDomain, image, director)
	if err != nil {
		return err
	}
	manifests, err := c.cfg.Store.SignedAll(ctx, topics.KindManifest, "", 1)
	if err != nil {
		return err
	}
	assignments, err := c.cfg.Store.SignedAll(ctx, topics.KindAssignment, "", 1)
	if err != nil {
		return err
	}
	var refusals []error
	for _, m := range manifests {
		_, _, err := state.Manifest(m.Bytes, m.ID, time.Now())
		refusals = append(refusals, err)
	}
	for _, a := range assignments {
		_, _, err := state.Assignment(a.Bytes, a.ID, time.Now())
		refusals = append(refusals, err)
	}
	if !errors.Is(errors.Join(refusals...), trust.ErrSignature) {
		return nil
	}
	c.cfg.Log.Warn("the director root no longer names who signed the manifests: all are signed anew", "root", info.Version)
	return c.cfg.Store.RenewSignatures(ctx, byItself, fmt.Sprintf("director root %d", info.Version))
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
