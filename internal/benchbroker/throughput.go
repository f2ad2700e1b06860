package main

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"groundswell/topics"
)

// reportSize is that of a status report, in bytes.
const reportSize = 256

// connects makes connections as fast as it can, each with a full handshake, and
// ends each of them when it is accepted.
func (b *bench) connects(ctx context.Context, s server, p *running, out figures) error {
	workers := min(b.Connecting, len(b.devices))
	var rates, costs []float64
	for range b.Rounds {
		var made atomic.Int64
		used, took, err := timed(p, func() error {
			end := time.Now().Add(b.For)
			g, ctx := errgroup.WithContext(ctx)
			for w := range workers {
				g.Go(func() error {
					for i, first := w, true; first || time.Now().Before(end); i, first = next(i, w, workers, len(b.devices)), false {
						l, err := dial(ctx, p, nil, b.devices[i])
						if err != nil {
							return err
						}
						made.Add(1)
						l.bye()
					}
					return nil
				})
			}
			return g.Wait()
		})
		if err != nil {
			return err
		}
		rates = append(rates, float64(made.Load())/took.Seconds())
		costs = append(costs, ms(used)/float64(made.Load()))
	}
	out[figureConnects], out[figureConnectCost] = median(rates), median(costs)
	b.log.Info("connects", "server", s.name, "per_s", rounded(rates), "server_ms_each", rounded(costs))
	return nil
}

// next is the index after i of those that worker w of n has, so that no two
// workers are the same device at once.
func next(i, w, n, devices int) int {
	if i += n; i < devices {
		return i
	}
	return w
}

// uplink has many sessions report as fast as they are acknowledged, while one
// subscriber takes everything.
func (b *bench) uplink(ctx context.Context, s server, p *running, out figures) error {
	var taken atomic.Int64
	consumer, stopped, err := b.consumer(ctx, s, p, &taken)
	if err != nil {
		return err
	}
	defer func() { consumer.drop(); <-stopped }()
	links := make([]*link, b.Publishers)
	defer func() {
		for _, l := range links {
			if l != nil {
				l.drop()
			}
		}
	}()
	connecting, connectCtx := errgroup.WithContext(ctx)
	connecting.SetLimit(b.Connecting)
	for i := range links {
		connecting.Go(func() (err error) {
			links[i], err = dial(connectCtx, p, nil, b.devices[i])
			return err
		})
	}
	if err := connecting.Wait(); err != nil {
		return err
	}
	payload := noise(reportSize)
	var rates, costs, delivered []float64
	for range b.Rounds {
		var acked atomic.Int64
		before := taken.Load()
		used, took, err := timed(p, func() error {
			end := time.Now().Add(b.For)
			var g errgroup.Group
			for i, l := range links {
				topic := topics.DeviceStatus(deviceID(i))
				g.Go(func() error {
					first := true
					n, err := l.publish(b.Window, func(out []byte, id uint16) ([]byte, bool) {
						if !first && !time.Now().Before(end) {
							return out, false
						}
						first = false
						return p.protocol.publish(out, id, topic, payload, 0), true
					})
					acked.Add(int64(n))
					return err
				})
			}
			return g.Wait()
		})
		if err != nil {
			return err
		}
		n := float64(acked.Load())
		rates, costs = append(rates, n/took.Seconds()), append(costs, float64(used.Microseconds())/n)
		rest := time.Second
		if s.ours {
			rest = patience // it loses nothing, however busy the machine
		}
		delivered = append(delivered, 100*float64(atRest(ctx, &taken, before+acked.Load(), rest)-before)/n)
	}
	out[figureUplink], out[figureUplinkCost], out[figureUplinkTaken] = median(rates), median(costs), median(delivered)
	b.log.Info("uplink", "server", s.name, "per_s", rounded(rates), "server_us_each", rounded(costs), "percent_taken", median(delivered))
	return nil
}

// consumer subscribes to the reports: on our broker as the consumer group that
// they are kept for, elsewhere to the topics. stopped is closed when it has
// ended.
func (b *bench) consumer(ctx context.Context, s server, p *running, taken *atomic.Int64) (l *link, stopped chan struct{}, err error) {
	fleetd, err := b.fleetd("consumer")
	if err != nil {
		return nil, nil, err
	}
	if l, err = dial(ctx, p, nil, fleetd); err != nil {
		return nil, nil, err
	}
	l.roomy()
	filter := topics.Prefix + "/devices/+/" + string(topics.KindStatus)
	if s.ours {
		filter = topics.Share(topics.GroupRegistry, topics.Uplink)
	}
	if err := l.subscribe(filter, nil); err != nil {
		l.drop()
		return nil, nil, err
	}
	stopped = make(chan struct{})
	go func() {
		defer close(stopped)
		// Its end is the caller's doing, or shows in what was taken.
		_ = l.consume(time.Hour, func(m received) bool {
			if string(m.topic[len(m.topic)-6:]) == string(topics.KindStatus) { // not presence
				taken.Add(1)
			}
			return true
		})
	}()
	return l, stopped, nil
}

// atRest waits until n is reached, or until nothing has moved for so long.
func atRest(ctx context.Context, n *atomic.Int64, want int64, rest time.Duration) int64 {
	last, since := n.Load(), time.Now()
	for last < want && time.Since(since) < rest && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		if now := n.Load(); now != last {
			last, since = now, time.Now()
		}
	}
	return last
}

// timed runs f and returns how long it took and how much processor time the
// server used meanwhile.
func timed(p *running, f func() error) (used, took time.Duration, err error) {
	before, err := processorTime(p.PID())
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := f(); err != nil {
		return 0, 0, err
	}
	took = time.Since(began)
	after, err := processorTime(p.PID())
	return after - before, took, err
}
