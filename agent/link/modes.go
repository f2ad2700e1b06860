package link

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

func (l *Link) mqtt() mqttclient.Config {
	_, interval, jitter := l.schedule()
	return mqttclient.Config{
		Servers: l.servers(), TLS: l.cfg.TLS, ClientID: l.cfg.Device,
		SessionExpiry: max(l.cfg.SessionExpiry, 2*(interval+jitter)),
		KeepAlive:     l.cfg.KeepAlive,
		MaxPacketSize: topics.MaxPacket,
		Backoff:       mqttclient.Backoff{Min: l.cfg.BackoffMin, Max: l.cfg.BackoffMax},
		OnMessage:     l.receive,
		Log:           l.log,
	}
}

// servers are the brokers, another one first after each check-in that failed: one
// that lets the device in and brings it nothing must not keep it from the others.
func (l *Link) servers() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.turn % max(1, len(l.cfg.Servers))
	return slices.Concat(l.cfg.Servers[first:], l.cfg.Servers[:first])
}

// stay keeps a connection up until ctx ends or the device is to poll.
func (l *Link) stay(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cfg := l.mqtt()
	cfg.OnUp = func(up context.Context, client *mqttclient.Client, _ bool) error {
		// The connection ends with its loss, and when this mode does.
		up, done := context.WithCancel(up)
		defer done()
		defer context.AfterFunc(ctx, done)()
		timing := client.Timing()
		c := l.open(timing.Started.Add(timing.Dial + timing.TLS))
		c.checkIn = l.checkIn
		defer l.close(c)
		return l.serve(up, c, client)
	}
	client, err := mqttclient.New(cfg)
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- client.Run(ctx) }()
	l.cfg.Wake.Stay()
	// The mode can only change with an assignment, or with the battery, so now and
	// then is enough.
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	power, stop := l.saver.ticker()
	defer stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("link: %w", err)
			}
			return nil
		case <-power:
			if l.saver.look(l.log) && l.saving() {
				l.farewell(ctx)
				cancel()
			}
		case <-tick.C:
			if mode, _, _ := l.schedule(); mode == topics.ModePolling {
				l.log.Info("going over to polling, as assigned")
				cancel()
			}
		}
	}
}

// poll connects on schedule until ctx ends or the device is to stay connected.
func (l *Link) poll(ctx context.Context) {
	// After a power cut all devices begin at once.
	_, _, jitter := l.schedule()
	wait := time.Duration(0)
	if jitter > 0 {
		wait = rand.N(min(jitter, time.Minute))
	}
	var began time.Time // of the present wake
	for failures := 0; ; {
		scheduled, ok := l.sleep(ctx, wait)
		if !ok {
			return
		}
		l.saver.look(l.log)
		mode, interval, _ := l.schedule()
		if mode != topics.ModePolling {
			return
		}
		// A check-in before its time, or one that is tried again, gets nothing anew.
		if began.IsZero() || scheduled && (failures == 0 || time.Since(began) >= interval) {
			began = time.Now()
			l.cfg.Wake.Begin()
			l.cfg.Wake.Plan(l.clock.Now().Add(interval)) // or so
		}
		err := l.pollOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		mode, interval, jitter := l.schedule()
		if mode != topics.ModePolling {
			l.log.Info("staying connected from now on")
			return
		}
		if err != nil {
			failures++
			l.change(func() { l.turn++ })
			wait = retryAfter(failures, l.pause(failures), interval-time.Since(began))
			l.log.Warn("check-in failed", "err", err, "again_in", wait.String())
			continue
		}
		failures, wait = 0, interval
		if jitter > 0 {
			wait += rand.N(jitter)
		}
		l.cfg.Wake.Plan(l.clock.Now().Add(wait))
	}
}

// triesPerWake is how often a wake tries to check in. A broker that is away for long is
// asked as rarely as one that is there.
const triesPerWake = 6

// retryAfter is when a check-in that failed, the failures'th in a row, is tried again:
// after pause, or in the next wake, which is due after next.
func retryAfter(failures int, pause, next time.Duration) time.Duration {
	next = max(next, 0)
	if failures%triesPerWake == 0 {
		return next
	}
	return min(pause, next)
}

// sleep waits for the next check-in, or for a wish for one before its time; not ok: ctx
// has ended. A device that saves its battery ends it when it need not any more.
func (l *Link) sleep(ctx context.Context, wait time.Duration) (scheduled, ok bool) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	power, stop := l.saver.ticker()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return false, false
		case <-l.checkIn:
			return false, true
		case <-timer.C:
			return true, true
		case <-power:
			if mode, _, _ := l.assigned(); l.saver.look(l.log) && mode == topics.ModeConnected {
				return false, true
			}
		}
	}
}
