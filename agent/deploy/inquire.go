package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"groundswell/agent/condition"
	"groundswell/agent/fetch"
	"groundswell/agent/update"
)

const (
	// inquiryLasts bounds a question for newer roots.
	inquiryLasts = 2 * time.Minute
	// inquireAgain is for how long it holds that nobody answers.
	inquireAgain = 10 * time.Minute
	// atOnce: what was looked at may have changed.
	atOnce = time.Nanosecond
)

// inquiry is what came of asking for newer roots before a jump.
type inquiry struct {
	attempt string        // rollout and attempt
	asked   bool          // somebody was, by this process
	until   time.Duration // by uptime: nobody answered, and is not asked again before that
	// hold is what a refusal keeps the device by, and again, by uptime, when it asks anew:
	// what wakes it meanwhile says nothing about that.
	hold  condition.Hold
	again time.Duration
}

// refusal is reasonOf for a device that has asked, or whose release was withdrawn: the roots
// that it holds, whoever has brought them, have made it forget the list that the release was
// taken from, and do not verify what is listed now. What was refused as often as agreed would
// take it is final, and until then it keeps the device. What one source has sent counts also
// where others say nothing.
func (d *Driver) refusal(err error, withdrawn bool) (slug string, final, keeps bool) {
	slug, final = reasonOf(err)
	if !d.inquiry.asked && !withdrawn {
		return slug, final, false
	}
	if !final && errors.Is(err, fetch.ErrRefused) {
		slug = reasonMetadata
	}
	if slug == reasonMetadata {
		d.dep.Refused++
		final = d.dep.Refused >= patience
		keeps = !final
	}
	return slug, final, keeps
}

// refuses keeps the device for a while because of a refusal, and no other component. That it
// was refused is journalled: a device that restarts, or wakes for one look at a time, gives up
// as well.
func (d *Driver) refuses(ctx context.Context, reason, detail string) (*condition.Hold, error) {
	hold := condition.Hold{Reason: reason, Detail: detail, Again: longest}
	d.inquiry.hold, d.inquiry.again = hold, d.clock.Uptime()+longest
	d.device.block(d.cfg.Component)
	if err := d.save(ctx, nil); err != nil {
		return &hold, err
	}
	return &hold, d.tell(ctx, condition.Install, &hold)
}

// inquire asks for newer roots of the image repository before the jump to a release that was
// taken without a question to any source; they may withdraw the keys that signed it. It is
// asked over a shut window and with a budget that is used up, for it is short. Once somebody
// has answered, the deployment is one as any other. Where nobody answers, the device goes on
// with the roots that it has, and lastCheck with the list that the manifest pins by then. A
// hold says after how long to look at everything again.
func (d *Driver) inquire(ctx context.Context) (update.Event, *condition.Hold, error) {
	attempt := fmt.Sprintf("%s %d", d.dep.Entry.Rollout, d.dep.Attempt)
	if d.inquiry.attempt != attempt {
		d.inquiry = inquiry{attempt: attempt}
	}
	now := d.clock.Uptime()
	if now < d.inquiry.again {
		hold := d.inquiry.hold
		hold.Again = d.inquiry.again - now
		return "", &hold, nil
	}
	if !d.dep.Unasked || now < d.inquiry.until {
		return "", nil, nil
	}
	d.inquiry.asked = true
	taken, err := 0, errMetered
	if !d.cfg.Allowance.TakesNothing(ctx) {
		within, cancel := context.WithTimeout(ctx, inquiryLasts)
		taken, err = d.releases.ImageRoots(within)
		cancel()
	}
	switch {
	case ctx.Err() != nil:
		return "", nil, ctx.Err()
	case err == nil, errors.Is(err, fetch.ErrUnsure):
		d.dep.Unasked = false
		return "", &condition.Hold{Again: atOnce}, d.save(ctx, nil)
	case taken > 0:
		return "", &condition.Hold{Again: atOnce}, nil // there may be more
	case unanswered(err):
		d.inquiry.until = d.clock.Uptime() + inquireAgain
		d.log.Warn("nobody says whether release keys were withdrawn", "rollout", d.dep.Entry.Rollout, "err", err)
		return "", &condition.Hold{Again: atOnce}, nil
	}
	reason, final, _ := d.refusal(err, false)
	if final {
		d.dep.Reason, d.dep.Detail = reason, err.Error()
		return update.Fail, nil, nil
	}
	hold, err := d.refuses(ctx, reason, fmt.Sprintf("newer roots: %v", err))
	return "", hold, err
}

// errMetered: the device waits for a link that costs nothing, and takes nothing until then.
var errMetered = errors.New("the link is metered")
