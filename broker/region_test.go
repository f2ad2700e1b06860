package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// startRegions builds and starts two regions of one node each, "eu" and "us", with
// gateways between them.
func startRegions(t *testing.T) (eu, us *process) {
	t.Helper()
	s := newSite(t)
	gateways := devtest.FreeAddresses(t, 2)
	mqtts := devtest.FreeAddresses(t, 2)
	region := func(i int, name, other string) *process {
		return s.broker(name+"-1", mqtts[i], fmt.Sprintf(`
region: %s
gateways: {listen: %q, remotes: [{region: %s, servers: [%q]}]}
`, name, gateways[i], other, gateways[1-i]))
	}
	eu, us = region(0, "eu", "us"), region(1, "us", "eu")
	eu.start()
	us.start()
	return eu, us
}

// inRegion publishes what is retained, or a command if version is 0, for a region.
func inRegion(s *mqttclient.Session, region, topic string, version int64, payload string) error {
	p := mqttclient.Publication{Topic: topic, Payload: []byte(payload), QoS: 1}
	if version > 0 {
		p.Retain = true
		p.Properties = []mqttclient.Property{{Key: topics.PropVersion, Value: strconv.FormatInt(version, 10)}}
	}
	if region != "" {
		p.Properties = append(p.Properties, mqttclient.Property{Key: topics.PropRegion, Value: region})
	}
	return s.Publish(context.Background(), p)
}

func assigned(cohort string) string {
	return fmt.Sprintf(`{"signatures":[],"signed":{"_type":"targets","groundswell":{"kind":"assignment","cohorts":[%q]}}}`, cohort)
}

// inbox collects what a client gets.
type inbox struct {
	mu  sync.Mutex // guards got
	got []mqttclient.Message
}

func (b *inbox) receive(m mqttclient.Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, m)
}

// await waits for a payload on a topic.
func (b *inbox) await(t *testing.T, topic, payload string) (found mqttclient.Message) {
	t.Helper()
	devtest.Eventually(t, time.Minute, payload+" on "+topic, devtest.True(func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, m := range b.got {
			if m.Topic == topic && string(m.Payload) == payload {
				found = m
				return true
			}
		}
		return false
	}))
	return found
}

// camera connects a device to a region and subscribes it to its own topics.
func (p *process) camera(id, cohort string) (*mqttclient.Session, *inbox) {
	p.t.Helper()
	credential, err := p.ca.IssueDevice(id, "cam-a", "r1", time.Hour)
	if err != nil {
		p.t.Fatal(err)
	}
	b := &inbox{}
	s, err := p.client(credential, id, b.receive)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { s.Close() })
	var subscriptions []mqttclient.Subscription
	for _, topic := range []string{topics.DeviceAssignment(id), topics.DeviceCommand(id), topics.CohortManifest(cohort)} {
		subscriptions = append(subscriptions, mqttclient.Subscription{Filter: topic, QoS: 1})
	}
	if err := s.Subscribe(p.t.Context(), subscriptions); err != nil {
		p.t.Fatal(err)
	}
	return s, b
}

// connected waits until a region's broker takes what is for the other.
func connected(t *testing.T, s *mqttclient.Session, region, cohort string, version int64, payload string) {
	t.Helper()
	devtest.Eventually(t, time.Minute, "region "+region+" to take what is forwarded", func() error {
		return inRegion(s, region, topics.CohortManifest(cohort), version, payload)
	})
}

func refusedWith(t *testing.T, err error, code byte, reason string) {
	t.Helper()
	var refused *mqttclient.RefusedError
	if !errors.As(err, &refused) || refused.Code != code || !strings.Contains(refused.Reason, reason) {
		t.Errorf("got %v, want 0x%02X %s", err, code, reason)
	}
}

// TestAManifestReachesADeviceOfAnotherRegion: fleetd is in one region, the device in
// the other. What is published for one region is not in the other.
func TestAManifestReachesADeviceOfAnotherRegion(t *testing.T) {
	t.Parallel()
	eu, us := startRegions(t)
	fleetd := eu.fleetd("fleetd-publish", nil)
	connected(t, fleetd, "us", "warm", 1, "warm")
	if err := inRegion(fleetd, "us", topics.DeviceAssignment("cam-1"), 1, assigned("dock")); err != nil {
		t.Fatal(err)
	}
	device, got := us.camera("cam-1", "dock")
	got.await(t, topics.DeviceAssignment("cam-1"), assigned("dock"))
	if err := inRegion(fleetd, "us", topics.CohortManifest("dock"), 5, "five"); err != nil {
		t.Fatal(err)
	}
	got.await(t, topics.CohortManifest("dock"), "five")

	// The other region's word on versions is the same as its own.
	refusedWith(t, inRegion(fleetd, "us", topics.CohortManifest("dock"), 4, "four"), 0x83, "retained version 5")
	if err := inRegion(fleetd, "us", topics.CohortManifest("dock"), 5, "five"); err != nil {
		t.Errorf("the same once more: %v", err)
	}
	// Regions have versions of their own.
	if err := inRegion(fleetd, "", topics.CohortManifest("dock"), 2, "two, here"); err != nil {
		t.Errorf("a version that is older than the other region's: %v", err)
	}
	if err := inRegion(fleetd, "eu", topics.CohortManifest("dock"), 3, "three, here"); err != nil {
		t.Errorf("the own region by its name: %v", err)
	}

	// A command waits in its region; its device is not told of regions.
	if err := inRegion(fleetd, "us", topics.DeviceCommand("cam-1"), 0, "report"); err != nil {
		t.Fatal(err)
	}
	if m := got.await(t, topics.DeviceCommand("cam-1"), "report"); len(m.Properties) != 0 {
		t.Errorf("the device got properties %v", m.Properties)
	}

	refusedWith(t, inRegion(fleetd, "mars", topics.CohortManifest("dock"), 9, "x"), 0x83, "unknown region")
	refusedWith(t, inRegion(fleetd, "a b", topics.CohortManifest("dock"), 9, "x"), 0x83, "no region")
	refusedWith(t, inRegion(fleetd, "us", topics.DeviceAssignment("cam-1"), 9, "no JSON"), 0x83, "assignment")

	// Devices may not name a region, on whatever topic, not even their own.
	for _, region := range []string{"eu", "us"} {
		refusedWith(t, inRegion(device, region, topics.DeviceStatus("cam-1"), 0, "{}"), 0x87, "")
		refusedWith(t, inRegion(device, region, topics.CohortManifest("dock"), 10, "mine"), 0x87, "")
	}
}

// TestLosingARegionStopsNoOther: the broker of one region is killed, and that of the
// other goes on in all that it does, and starts anew alone.
func TestLosingARegionStopsNoOther(t *testing.T) {
	t.Parallel()
	eu, us := startRegions(t)
	fleetd := eu.fleetd("fleetd-publish", nil)
	connected(t, fleetd, "us", "dock", 1, "one")
	us.Kill()

	alone := func() {
		t.Helper()
		eu.ready()
		refusedWith(t, inRegion(fleetd, "us", topics.CohortManifest("dock"), 2, "two"), 0x97, "try again later")
		if err := inRegion(fleetd, "", topics.DeviceAssignment("cam-1"), 1, assigned("dock")); err != nil {
			t.Errorf("an assignment of the own region: %v", err)
		}
		device, got := eu.camera("cam-1", "dock")
		got.await(t, topics.DeviceAssignment("cam-1"), assigned("dock"))
		if err := device.Publish(t.Context(), mqttclient.Publication{Topic: topics.DeviceStatus("cam-1"), Payload: []byte("{}"), QoS: 1}); err != nil {
			t.Errorf("a report: %v", err)
		}
		device.Close()
	}
	alone()
	eu.Kill()
	eu.start() // and with it its streams and groups, which nobody else is asked about
	fleetd = eu.fleetd("fleetd-publish", nil)
	alone()

	us.start()
	connected(t, fleetd, "us", "dock", 2, "two")
	got := &inbox{}
	there := us.fleetd("fleetd-reads", got.receive)
	if err := there.Subscribe(t.Context(), []mqttclient.Subscription{{Filter: topics.CohortManifest("dock"), QoS: 1}}); err != nil {
		t.Fatal(err)
	}
	got.await(t, topics.CohortManifest("dock"), "two")
}

// TestARegionOfThreeNodesAnswersFromWhichever: any node of a region forwards and gets
// the answer, whichever of them has the gateway connection, and one that is killed is
// not missed.
func TestARegionOfThreeNodesAnswersFromWhichever(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	gateways := devtest.FreeAddresses(t, 4) // eu-1 to eu-3, us
	routes := devtest.FreeAddresses(t, 3)
	peers, mqtts := devtest.FreeAddresses(t, 3), devtest.FreeAddresses(t, 4)
	list := func(addresses []string) string { return `["` + strings.Join(addresses, `", "`) + `"]` }
	var eu nodes
	for i := range 3 {
		eu = append(eu, s.broker(fmt.Sprintf("eu-%d", i+1), mqtts[i], fmt.Sprintf(`
region: eu
cluster: {name: test, listen: %q, routes: %s}
gateways: {listen: %q, routes_listen: %q, routes: %s, remotes: [{region: us, servers: [%q]}]}
limits: {store_timeout: 3s}
`, peers[i], list(peers), gateways[i], routes[i], list(routes), gateways[3])))
	}
	us := s.broker("us-1", mqtts[3], fmt.Sprintf(`
region: us
gateways: {listen: %q, remotes: [{region: eu, servers: %s}]}
limits: {store_timeout: 3s}
`, gateways[3], list(gateways[:3])))
	var starting sync.WaitGroup
	for _, p := range append(nodes{us}, eu...) {
		starting.Go(p.start)
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	version := int64(0)
	// Each answer finds the node that asked: twenty publications in a row are taken. If
	// those of one node went astray that would never be; while nodes find themselves
	// together again, some may be refused.
	across := func(from *process, region string) {
		t.Helper()
		session := from.fleetd("fleetd-publish", nil)
		defer session.Close()
		version++
		connected(t, session, region, "dock", version, "x")
		devtest.Eventually(t, 2*time.Minute, "twenty publications in a row for "+region, func() error {
			for range 20 {
				version++
				if err := inRegion(session, region, topics.CohortManifest("dock"), version, "x"); err != nil {
					return fmt.Errorf("version %d: %w", version, err)
				}
			}
			return nil
		})
	}
	for _, p := range eu {
		across(p, "us")
	}
	across(us, "eu")
	for i, p := range eu {
		p.Kill()
		across(us, "eu")
		across(eu[(i+1)%3], "us")
		p.start()
		p.ready()
	}
}
