package deploy

import (
	"context"
	"errors"
	"time"

	"groundswell/agent/allowance"
	"groundswell/agent/condition"
	"groundswell/agent/fetch"
	"groundswell/certs/trust"
	"groundswell/topics"
)

// nearby is when the peers are asked again for what may not be downloaded.
type nearby struct {
	what  string        // rollout
	round int           // how often they were asked
	again time.Duration // by uptime
	// another: what they brought is all there, and is not what the release says.
	another bool
}

// near reports whether peers may have something of what the entry wants, and may be asked.
func (d *Driver) near() bool {
	return d.cfg.Peers != nil && d.cfg.Peers.Near(d.dep.Entry.Target.SHA256)
}

// mayCopy reports whether peers may be asked while a hold keeps the device from downloading.
// One that is not about downloads is one for peers as well.
func (d *Driver) mayCopy(hold *condition.Hold) bool {
	return allowance.Keeps(hold) && d.near()
}

// askPeers has peers bring what they have while a hold keeps the device from downloading,
// unless they were asked a while ago. whole: they have brought all of it.
func (d *Driver) askPeers(ctx context.Context, hold *condition.Hold) (asked, whole bool, err error) {
	if !d.mayCopy(hold) {
		return false, false, nil
	}
	if d.nearby.what != d.dep.Entry.Rollout {
		d.nearby = nearby{what: d.dep.Entry.Rollout}
	}
	if d.nearby.round > 0 && d.clock.Uptime() < d.nearby.again {
		return false, false, nil
	}
	d.account.moves()
	final, err := d.copyFromPeers(ctx)
	d.nearby.round++
	limit := d.cfg.PeersAgain.Limit(d.nearby.round)
	d.nearby.again = d.clock.Uptime() + limit/2 + d.cfg.Jitter(limit/2)
	switch {
	case err == nil:
		return true, true, nil
	case ctx.Err() != nil:
		return true, false, ctx.Err()
	case final:
		return true, false, err
	}
	d.nearby.another = d.nearby.another || errors.Is(err, fetch.ErrAnother)
	d.log.Info("peers do not bring all of it", "rollout", d.dep.Entry.Rollout, "have", d.downloaded(), "of", d.dep.Entry.Target.Length, "err", err)
	return true, false, nil
}

// copyFromPeers is bring, without a question to any source. Whether the list of releases
// forbids the release is found out when that may be asked for: only what fails afterwards is
// final.
func (d *Driver) copyFromPeers(ctx context.Context) (final bool, err error) {
	var images trust.Images
	if err := d.aloud(ctx, func() (err error) {
		images, err = d.offered(ctx)
		return err
	}); err != nil {
		return false, err
	}
	if err := d.eligible(images); err != nil {
		return false, err
	}
	err = d.download(ctx, images, func(ctx context.Context, a fetch.Artifact, path string, tell func(int64, topics.Transfer)) error {
		return d.cfg.Peers.Artifact(ctx, a, path, func() bool { return d.mayWait(ctx) }, tell)
	})
	if err != nil {
		_, final = reasonOf(err)
	}
	return final, err
}

// mayWait reports whether peers may be waited for: not once they need not be, as bytes may
// come from the internet, nor while another component wants to download.
func (d *Driver) mayWait(ctx context.Context) bool {
	return d.device.waiting.Load() == 0 && d.cfg.Allowance.Look(ctx, d.newest().DownloadWindows) != nil
}

// untilPeers is how long the device rests that a hold keeps from downloading: until that is
// looked at again, or peers are asked again.
func (d *Driver) untilPeers(hold *condition.Hold) time.Duration {
	if d.nearby.round == 0 || d.nearby.what != d.dep.Entry.Rollout || !d.mayCopy(hold) {
		return hold.Again
	}
	return min(hold.Again, max(0, d.nearby.again-d.clock.Uptime()))
}

// errNoPeers: the device does not copy from others any more.
var errNoPeers = errors.New("no peers to ask")

// offered is the list of releases that the entry's manifest pins, as it is held or as peers
// give it.
func (d *Driver) offered(ctx context.Context) (trust.Images, error) {
	m, ok := d.world.World().Manifests[d.dep.Cohort]
	if !ok || m.Images == nil {
		return trust.Images{}, errNoManifest
	}
	images, err := d.releases.FromPeers(ctx, *m.Images, func(ctx context.Context, doc topics.Document) ([]byte, error) {
		if d.cfg.Peers == nil {
			return nil, errNoPeers
		}
		return d.cfg.Peers.Document(ctx, d.dep.Entry.Target.SHA256, doc)
	})
	if err == nil {
		d.unasked = true
	}
	return images, err
}

// copied is how many bytes peers have sent for this attempt.
func (d *Driver) copied() int64 { return d.dep.Transfer.Plus(d.transfer).Peer }
