package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"groundswell/topics"
)

// retainedIdle is after how long without a message the rest counts as missing.
const retainedIdle = 10 * time.Second

// retained fills the server with retained messages, and measures how long a new
// subscriber of all of them waits for the last.
func (b *bench) retained(ctx context.Context, s server, p *running, out figures) error {
	fleetd, err := b.fleetd("loader")
	if err != nil {
		return err
	}
	loader, err := dial(ctx, p, nil, fleetd)
	if err != nil {
		return err
	}
	defer loader.drop()
	before, err := settled(ctx, p.PID(), min(b.Settle, time.Second))
	if err != nil {
		return err
	}
	began := time.Now()
	if _, err := loader.publish(1024, p.protocol.assignments(b.Retained)); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	out[figureRetainedLoad] = float64(b.Retained) / time.Since(began).Seconds()
	b.log.Info("retained messages published", "server", s.name, "per_s", int(out[figureRetainedLoad]))
	after, err := settled(ctx, p.PID(), b.Settle)
	if err != nil {
		return err
	}
	out[figureRetainedMemory] = float64(after-before) / float64(b.Retained)
	b.log.Info("memory with them", "server", s.name, "before_mb", before>>20, "after_mb", after>>20)
	var times, missing []float64
	for round := range b.Rounds {
		took, n, err := b.readRetained(ctx, p, round)
		if err != nil {
			return err
		}
		times, missing = append(times, took.Seconds()), append(missing, float64(b.Retained-n))
		if n < b.Retained {
			break // one wait for what does not come is enough
		}
	}
	out[figureRetained], out[figureRetainedMissing] = median(times), median(missing)
	b.log.Info("retained messages read", "server", s.name, "s", rounded(times), "missing", missing)
	return nil
}

// readRetained subscribes to all and returns when the last came, and how many
// different ones did.
func (b *bench) readRetained(ctx context.Context, p *running, round int) (took time.Duration, n int, err error) {
	fleetd, err := b.fleetd("reader-" + strconv.Itoa(round))
	if err != nil {
		return 0, 0, err
	}
	l, err := dial(ctx, p, nil, fleetd)
	if err != nil {
		return 0, 0, err
	}
	defer l.drop()
	l.roomy()
	seen := make([]bool, b.Retained)
	began, last := time.Now(), time.Now()
	take := func(m received) error {
		i, err := deviceIndex(string(m.topic))
		if err != nil || i >= len(seen) {
			return fmt.Errorf("a message on %s, which nobody published", m.topic)
		}
		if !seen[i] {
			seen[i], last = true, m.at
			n++
		}
		return nil
	}
	if err := l.subscribe(topics.AllAssignments, take); err != nil {
		return 0, 0, err
	}
	var odd error
	err = l.consume(retainedIdle, func(m received) bool {
		odd = take(m)
		return odd == nil && n < len(seen)
	})
	if odd != nil {
		return 0, 0, odd
	}
	return last.Sub(began), n, err
}

// deviceIndex is the number of the device that an assignment is for.
func deviceIndex(topic string) (int, error) {
	id, _ := strings.CutPrefix(topic, topics.Prefix+"/devices/bench-")
	id, _ = strings.CutSuffix(id, "/"+string(topics.KindAssignment))
	return strconv.Atoi(id)
}
