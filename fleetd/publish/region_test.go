package publish_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"groundswell/certs"
	"groundswell/fleetd/fleet"
	"groundswell/fleetd/publish"
	"groundswell/fleetd/store/storetest"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

// newRegions is a platform of two regions that were not started; fleetd is in the
// first.
func newRegions(t *testing.T) (eu, us *platform) {
	t.Helper()
	eu = newKeys(t)
	there := *eu
	us = &there
	us.listen = devtest.FreeAddresses(t, 1)[0]
	addresses := devtest.FreeAddresses(t, 2)
	region := func(p *platform, name, listen, other, address string) {
		p.node = name
		p.more = map[string]any{
			"region": name, "limits": map[string]any{"store_timeout": "2s"},
			"gateways": map[string]any{"listen": listen, "remotes": []any{map[string]any{"region": other, "servers": []string{address}}}},
		}
	}
	region(eu, "eu", addresses[0], "us", addresses[1])
	region(us, "us", addresses[1], "eu", addresses[0])
	eu.to = publish.Config{Region: "eu", Regions: []string{"us"}}
	eu.Open("eu", "us")
	eu.Exec(`UPDATE region SET retired_at = now() WHERE name = 'default'; DELETE FROM outbox WHERE region = 'default'`)
	return eu, us
}

// empty waits until nothing waits for a region.
func (p *platform) empty(region string) {
	p.T.Helper()
	devtest.Eventually(p.T, 2*time.Minute, "region "+region+" to have everything", func() error {
		stats, err := p.Stats(p.T.Context())
		if err != nil || stats.Regions[region].Pending > 0 {
			return fmt.Errorf("%+v, %v", stats.Regions, err)
		}
		return nil
	})
}

// TestARegionThatIsDownHoldsUpNoOther: fleetd goes on with its own, as ready as it
// was, while another cannot be reached; that one gets the newest when it is back.
func TestARegionThatIsDownHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	eu, us := newRegions(t)
	eu.startBroker("data-eu")
	pub, _ := eu.publisher()
	eu.Seed(200) // more than a window of assignments
	r := eu.Running(fleet.PolicySpec{})
	for range 3 {
		r = eu.toggle(r, 1)
		eu.empty("eu")
	}
	if err := pub.Ready(); err != nil {
		t.Error(err)
	}
	if n := storetest.Must(eu.Stats(t.Context())).Regions["us"].Pending; n != 201 {
		t.Errorf("%d messages wait for the region that is down, want 200 assignments and a manifest", n)
	}

	us.startBroker("data-us")
	us.mustMatch()
	us.broker.Kill()
	eu.toggle(r, 1)
	eu.empty("eu")
	us.startBroker("data-us")
	us.mustMatch()
	eu.mustMatch()
}

// TestARegionThatIsAheadIsOvertaken: it holds a version above those of the database and
// of the own region, and says so. What is signed anew goes to both.
func TestARegionThatIsAheadIsOvertaken(t *testing.T) {
	t.Parallel()
	eu, us := newRegions(t)
	eu.startBroker("data-eu")
	us.startBroker("data-us")
	pub, _ := eu.publisher()
	eu.Seed(1)
	r := eu.Running(fleet.PolicySpec{})
	us.mustMatch()
	ahead := storetest.Must(eu.SignedOne(t.Context(), topics.KindManifest, "all")).Version + 1000
	there, err := mqttclient.Dial(t.Context(), mqttclient.Config{
		Servers: []string{"mqtts://" + us.listen}, ClientID: "fleetd-of-another-day", TLS: storetest.Must(certs.ClientTLS(us.tls, certs.ServiceBroker)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	err = there.Publish(t.Context(), mqttclient.Publication{
		Topic: topics.CohortManifest("all"), Payload: []byte("of another day"), QoS: 1, Retain: true,
		Properties: []mqttclient.Property{{Key: topics.PropVersion, Value: strconv.FormatInt(ahead, 10)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	eu.toggle(r, 1)
	us.mustMatch()
	eu.mustMatch()
	if got := storetest.Must(eu.SignedOne(t.Context(), topics.KindManifest, "all")).Version; got <= ahead || pub.Stats().Superseded == 0 {
		t.Errorf("version %d, %+v; the other region had %d", got, pub.Stats(), ahead)
	}
}
