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
	// The mode can only change with an assignment, so now and then is enough.
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("link: %w", err)
			}
			return nil
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
	for failures := 0; ; {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-l.checkIn:
		case <-timer.C:
		}
		timer.Stop()
		err := l.pollOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		mode, interval, jitter := l.schedule()
		if mode != topics.ModePolling {
			l.log.Info("staying connected from now on, as assigned")
			return
		}
		if err != nil {
			failures++
			l.change(func() { l.turn++ })
			wait = min(l.pause(failures), interval)
			l.log.Warn("check-in failed", "err", err, "again_in", wait.String())
			continue
		}
		failures, wait = 0, interval
		if jitter > 0 {
			wait += rand.N(jitter)
		}
	}
}

// pollOnce is one check-in.
func (l *Link) pollOnce(ctx context.Context) error {
	s, err := mqttclient.Dial(ctx, l.mqtt())
	if err != nil {
		return err
	}
	defer s.Disconnect()
	serving, stop := context.WithCancel(ctx)
	defer stop()
	c := l.open(s.ConnectedAt.Add(-s.Timing.Connect))
	defer l.close(c)
	served := make(chan error, 1)
	go func() { served <- l.serve(serving, c, s) }()
	defer func() {
		stop()
		if served != nil {
			<-served
		}
	}()

	timeout := time.NewTimer(l.cfg.CheckInTimeout)
	defer timeout.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.Done():
		return s.Err()
	case err := <-served:
		served = nil
		return err
	case <-c.completed:
	case <-timeout.C:
		// A device that fleetd does not know yet has no assignment: its
		// heartbeat makes it known.
		l.log.Info("check-in is not complete in time")
		l.change(func() { l.turn++ })
	}
	l.Heartbeat()
	return l.drain(ctx, s)
}

// drain waits until everything in the journal was sent. It gives up quietly
// when the broker does not take it in time: it stays for the next check-in.
func (l *Link) drain(ctx context.Context, s *mqttclient.Session) error {
	timeout := time.NewTimer(l.cfg.CheckInTimeout)
	defer timeout.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, waiting := l.journal.Next(); !waiting {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.Done():
			return s.Err()
		case <-timeout.C:
			return nil
		case <-tick.C:
		}
	}
}
