package cluster

import (
	"hash/fnv"
	"time"
)

const (
	// putters is how many puts run at once; those of one topic run in order.
	putters = 16
	// putQueue is how many puts wait for one putter; more are ErrBusy.
	putQueue = 1024
)

// put is a write that reads first, and so cannot be left to a future.
type put struct {
	run  func() error
	done func(error)
}

// enqueue has run called soon, after those that were enqueued for the same topic
// before, and done with what it returns; with ErrBusy at once when too many wait.
// kind is the metrics' name of what is stored.
func (c *Cluster) enqueue(topic, kind string, run func() error, done func(error)) {
	start := time.Now()
	p := &put{run: run, done: func(err error) {
		c.metrics.latency.Observe(time.Since(start).Seconds())
		if err != nil {
			c.metrics.failed.With(reason(err)).Inc()
		} else {
			c.metrics.stored.With(kind).Inc()
		}
		done(err)
	}}
	h := fnv.New32a()
	_, _ = h.Write([]byte(topic)) // a hash never fails
	select {
	case c.puts[h.Sum32()%putters] <- p:
	default:
		p.done(ErrBusy)
	}
}

func (c *Cluster) startPutters() {
	for range putters {
		queue := make(chan *put, putQueue)
		c.puts = append(c.puts, queue)
		c.putters.Go(func() {
			for {
				select {
				case <-c.closing:
					// Nobody puts any more: the broker has closed its
					// connections before it closes the store.
					for {
						select {
						case p := <-queue:
							p.done(ErrUnavailable)
						default:
							return
						}
					}
				case p := <-queue:
					p.done(p.run())
				}
			}
		})
	}
}
