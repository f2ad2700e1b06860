package mqtt

import (
	"crypto/tls"
	"fmt"
	"sync"
	"testing"
	"time"

	"groundswell/broker/cluster"
	"groundswell/certs"
	"groundswell/internal/devstack/devtest"
	"groundswell/internal/mqttclient"
	"groundswell/topics"
)

func peerTLS(t *testing.T) *tls.Config {
	t.Helper()
	config, err := certs.PeerTLS(certs.TLSOptions{Credential: serviceCredential(t, certs.ServiceBroker), Authority: authority().Authority()}, certs.ServiceBroker)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func inRegion(listen, region, other, address string, config *tls.Config) option {
	return withStore(func(c *cluster.Config) {
		c.Region, c.StoreTimeout = region, 2*time.Second
		c.Gateways = &cluster.Gateways{Listen: listen, Remotes: []cluster.Remote{{Region: other, Servers: []string{address}}}, TLS: config}
	})
}

// TestEveryForwardIsAnsweredWhateverEnds: many at once, while the other region's
// broker, whose node has the same name, stops and starts: each is acknowledged or refused, what was acknowledged is
// there, and nothing outlives the brokers.
func TestEveryForwardIsAnsweredWhateverEnds(t *testing.T) {
	t.Parallel()
	addresses := devtest.FreeAddresses(t, 2)
	eu := startNode(t, inRegion(addresses[0], "eu", "us", addresses[1], peerTLS(t)))
	us := startNode(t, inRegion(addresses[1], "us", "eu", addresses[0], peerTLS(t)))
	fleetd := eu.fleetd("fleetd")
	send := func(cohort string, version int) error {
		return fleetd.Publish(t.Context(), mqttclient.Publication{
			Topic: topics.CohortManifest(cohort), Payload: fmt.Append(nil, version), QoS: 1, Retain: true,
			Properties: []mqttclient.Property{{Key: topics.PropVersion, Value: fmt.Sprint(version)}, {Key: topics.PropRegion, Value: "us"}},
		})
	}
	devtest.Eventually(t, time.Minute, "the regions to find each other", func() error { return send("first", 1) })
	const cohorts = 20
	var stored [cohorts]int
	var working sync.WaitGroup
	stop := make(chan struct{})
	for i := range cohorts {
		working.Go(func() {
			for version := 1; ; version++ {
				select {
				case <-stop:
					return
				default:
				}
				err := send(fmt.Sprint("c-", i), version)
				if err == nil {
					stored[i] = version
				} else if code, ok := mqttclient.Refused(err); !ok || code != 0x97 {
					t.Errorf("version %d: %v", version, err)
					return
				}
			}
		})
	}
	for range 2 {
		us.restart()
		devtest.Eventually(t, time.Minute, "forwards after a restart", func() error { return send("first", 1) })
	}
	close(stop)
	working.Wait()
	for i, version := range stored {
		got, err := us.stored.Get(t.Context(), topics.Name{Kind: topics.KindManifest, ID: fmt.Sprint("c-", i)})
		if err != nil || got.Version < int64(version) {
			t.Errorf("cohort %d: version %d was acknowledged, %d is there, %v", i, version, got.Version, err)
		}
	}
}
