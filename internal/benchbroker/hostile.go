package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"groundswell/topics"
)

const (
	// wellBehaved is how many sessions report while others misbehave, and pause is
	// what each of them leaves between two reports.
	wellBehaved = 50
	pause       = 50 * time.Millisecond
	// slow is how many say a byte a minute, and deafs how many stop reading.
	slow, deafs = 20, 5
)

// hostile measures how long reports take to be acknowledged, first alone, then
// beside clients that misbehave.
func (b *bench) hostile(ctx context.Context, s server, p *running, out figures) error {
	links := make([]*link, min(wellBehaved, b.Publishers))
	defer func() {
		for _, l := range links {
			if l != nil {
				l.drop()
			}
		}
	}()
	for i := range links {
		var err error
		if links[i], err = dial(ctx, p, nil, b.devices[i]); err != nil {
			return err
		}
	}
	attack, stop := context.WithCancel(ctx)
	var attackers sync.WaitGroup
	defer func() { stop(); attackers.Wait() }()
	var deaf atomic.Bool
	if err := b.flood(attack, s, p, &deaf, &attackers); err != nil {
		return err
	}
	quiet, err := b.roundTrips(links)
	if err != nil {
		return err
	}
	deaf.Store(true)
	var open atomic.Int64
	for range b.HalfOpen {
		attackers.Go(func() { b.halfOpen(attack, p, &open) })
	}
	for i := range slow {
		attackers.Go(func() { b.slowly(attack, p, b.devices[len(b.devices)-1-i%len(b.devices)]) })
	}
	for began := time.Now(); open.Load() < int64(b.HalfOpen); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute || ctx.Err() != nil {
			break // the server does not let so many in, which is its right
		}
	}
	during, err := b.roundTrips(links)
	if err != nil {
		return err
	}
	out[figureQuiet], out[figureHostile] = ms(percentile(quiet, 99)), ms(percentile(during, 99))
	b.log.Info("hostile", "server", s.name, "quiet_p50_ms", ms(percentile(quiet, 50)), "quiet_p99_ms", out[figureQuiet],
		"hostile_p50_ms", ms(percentile(during, 50)), "hostile_p99_ms", out[figureHostile], "half_open", open.Load())
	return nil
}

// roundTrips has each session report, wait for the answer and pause, and returns
// all times, sorted.
func (b *bench) roundTrips(links []*link) ([]time.Duration, error) {
	var mu sync.Mutex
	var all []time.Duration
	var g errgroup.Group
	end := time.Now().Add(b.For * time.Duration(b.Rounds))
	for i, l := range links {
		packet := l.protocol.publish(nil, 1, topics.DeviceStatus(deviceID(i)), noise(reportSize), 0)
		g.Go(func() error {
			var took []time.Duration
			for first := true; first || time.Now().Before(end); first = false {
				began := time.Now()
				if _, err := l.publish(1, once(packet)); err != nil {
					return err
				}
				took = append(took, time.Since(began))
				time.Sleep(pause)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			return nil
		})
	}
	err := g.Wait()
	slices.Sort(all)
	return all, err
}

// halfOpen begins a handshake and leaves it there, again whenever the server has
// had enough.
func (b *bench) halfOpen(ctx context.Context, p *running, open *atomic.Int64) {
	for ctx.Err() == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.addr)
		if err != nil {
			continue
		}
		_, _ = conn.Write([]byte{22, 3, 1, 2, 0, 1}) // the beginning of a ClientHello
		open.Add(1)
		untilEnd(ctx, conn)
		open.Add(-1)
	}
}

// slowly sends a CONNECT, a byte a minute; the measurement is over before the second.
func (b *bench) slowly(ctx context.Context, p *running, c client) {
	for ctx.Err() == nil {
		conn, err := (&tls.Dialer{Config: c.tls}).DialContext(ctx, "tcp", p.addr)
		if err != nil {
			continue
		}
		_, _ = conn.Write([]byte{0x10})
		untilEnd(ctx, conn)
	}
}

// untilEnd reads, and does nothing about it, until the server or ctx ends it.
func untilEnd(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // wakes the reader
	defer stop()
	defer func() { _ = conn.Close() }() // at the end of all
	var scrap [512]byte
	for {
		if _, err := conn.Read(scrap[:]); err != nil {
			return
		}
	}
}

// flood publishes to a few clients all the time, until ctx ends. They read what comes
// until they are deaf.
func (b *bench) flood(ctx context.Context, s server, p *running, deaf *atomic.Bool, running *sync.WaitGroup) error {
	fleetd, err := b.fleetd("flood")
	if err != nil {
		return err
	}
	publisher, err := dial(ctx, p, nil, fleetd)
	if err != nil {
		return err
	}
	var filters []string
	for i := range min(deafs, len(b.devices)/2) {
		n := len(b.devices)/2 + i
		filters = append(filters, topics.DeviceCommand(deviceID(n)))
		l, err := dial(ctx, p, nil, b.devices[n])
		if err == nil {
			err = l.subscribe(filters[i], nil)
		}
		if err != nil {
			publisher.drop()
			return fmt.Errorf("client of the flood: %w", err)
		}
		running.Go(func() {
			defer l.drop()
			// The flood may have ended before it was deaf: then nothing comes any more.
			defer context.AfterFunc(ctx, l.drop)()
			// That it was cut off is the server's right.
			_ = l.consume(time.Hour, func(received) bool { return !deaf.Load() })
			<-ctx.Done()
		})
	}
	running.Go(func() {
		defer publisher.drop()
		payload := noise(manifestSize)
		for i := 0; ctx.Err() == nil; i++ {
			packet := p.protocol.publish(nil, 1, filters[i%len(filters)], payload, 0)
			if _, err := publisher.publish(1, once(packet)); err != nil && !errors.Is(err, errRefused) {
				b.log.Info("the flood has ended", "server", s.name, "err", err)
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	return nil
}
