package main

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// TestALostDiskOfThreeLosesNothing: a node is killed and everything that it had
// stored is deleted; started again it has it all from the others.
func TestALostDiskOfThreeLosesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	all := startClusterOf(t, s, "shards: 2")
	const devices = 6
	f := &fleet{tally: newTally(t), nodes: all}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	f.report(ctx, devices, 0)
	more := func(what string) {
		t.Helper()
		before := f.count()
		devtest.Eventually(t, 2*time.Minute, what, devtest.True(func() bool { return f.count() > before+500 }))
	}
	topic, victim := topics.CohortManifest("a"), all[1]
	devtest.Eventually(t, time.Minute, "a manifest to be retained", func() error {
		publisher, err := all[0].service("fleetd-publisher", nil)
		if err != nil {
			return err
		}
		defer publisher.Close()
		return publisher.Publish(t.Context(), mqttclient.Publication{
			Topic: topic, Payload: []byte("1"), QoS: 1, Retain: true,
			Properties: []mqttclient.Property{{Key: topics.PropVersion, Value: "1"}},
		})
	})
	more("reports before the disk is lost")
	victim.Kill()
	if err := os.RemoveAll(s.path(victim.spec.Name)); err != nil {
		t.Fatal(err)
	}
	behind := func() (n float64) {
		for _, p := range all {
			if p != victim {
				n += p.metric("broker_replicas_behind")
			}
		}
		return n
	}
	more("reports without the node")
	devtest.Eventually(t, time.Minute, "its copies to be missed", devtest.True(func() bool { return behind() > 0 }))
	victim.start()
	victim.ready()
	more("reports with the node on its new disk")
	stop()
	f.working.Wait()
	devtest.Eventually(t, time.Minute, "every copy to be complete", devtest.True(func() bool { return behind()+victim.metric("broker_replicas_behind") == 0 }))
	f.collect(victim)

	got := make(chan string, 1)
	reader := victim.fleetd("fleetd-reader", func(m mqttclient.Message) { got <- string(m.Payload) })
	if err := reader.Subscribe(t.Context(), []mqttclient.Subscription{{Filter: topic, QoS: 1}}); err != nil {
		t.Fatal(err)
	}
	devtest.Eventually(t, time.Minute, "the manifest", func() error {
		select {
		case m := <-got:
			if m != "1" {
				t.Errorf("the manifest is %q", m)
			}
			return nil
		default:
			return fmt.Errorf("nothing is retained")
		}
	})
}
