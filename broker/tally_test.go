package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// tally compares what devices had acknowledged with what a group received. The
// payload of a report is its number.
type tally struct {
	t    *testing.T
	mu   sync.Mutex // guards what follows
	next map[string]int
	// acknowledged are the numbers by device.
	acknowledged map[string][]int
	total        int
	got          map[string]map[int]bool
	repeated     int
}

func newTally(t *testing.T) *tally {
	return &tally{t: t, next: map[string]int{}, acknowledged: map[string][]int{}, got: map[string]map[int]bool{}}
}

// report sends the device's next report, and notes it if it is acknowledged.
// After an error it is perhaps stored, perhaps not.
func (y *tally) report(ctx context.Context, s *mqttclient.Session, device string) error {
	y.mu.Lock()
	y.next[device]++
	n := y.next[device]
	y.mu.Unlock()
	err := s.Publish(ctx, mqttclient.Publication{Topic: topics.DeviceStatus(device), Payload: strconv.AppendInt(nil, int64(n), 10), QoS: 1})
	if err != nil {
		return err
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	y.acknowledged[device] = append(y.acknowledged[device], n)
	y.total++
	return nil
}

func (y *tally) count() int { y.mu.Lock(); defer y.mu.Unlock(); return y.total }

// receive notes what a member of a group got.
func (y *tally) receive(m mqttclient.Message) {
	name, err := topics.Parse(m.Topic)
	if err != nil || name.Kind != topics.KindStatus {
		return
	}
	n, err := strconv.Atoi(string(m.Payload))
	if err != nil {
		y.t.Errorf("got %q", m.Payload)
	}
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.got[name.ID] == nil {
		y.got[name.ID] = map[int]bool{}
	}
	if y.got[name.ID][n] {
		y.repeated++
	}
	y.got[name.ID][n] = true
}

// missing names a report that was acknowledged and has not come.
func (y *tally) missing() error {
	y.mu.Lock()
	defer y.mu.Unlock()
	for device, list := range y.acknowledged {
		for _, n := range list {
			if !y.got[device][n] {
				return fmt.Errorf("%s: %d of %d", device, n, len(list))
			}
		}
	}
	return nil
}

// lost is how many were acknowledged and have not come.
func (y *tally) lost() (n int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for device, list := range y.acknowledged {
		for _, number := range list {
			if !y.got[device][number] {
				n++
			}
		}
	}
	return n
}

// collect takes everything as the only member of a group on p, until nothing is
// missing.
func (y *tally) collect(p *process) {
	y.t.Helper()
	member := p.fleetd("fleetd-registry", y.receive)
	if err := member.Subscribe(y.t.Context(), []mqttclient.Subscription{{Filter: topics.Share(topics.GroupRegistry, topics.Uplink), QoS: 1}}); err != nil {
		y.t.Fatal(err)
	}
	devtest.Eventually(y.t, 2*time.Minute, "everything acknowledged", y.missing)
	y.mu.Lock()
	defer y.mu.Unlock()
	y.t.Logf("%d reports were acknowledged; %d came twice", y.total, y.repeated)
}
