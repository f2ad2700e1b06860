package simulated

import (
	"context"
	"os"
	"path/filepath"

	"groundswell/certs"
	"groundswell/internal/devstack/stack"
)

// Fleet makes devices for one platform.
type Fleet struct {
	servers                 []string // broker URLs
	trustDomain             string
	imageRoot, directorRoot []byte
	ca                      *certs.CA
	stack                   *stack.Stack
}

// NewFleet reads what devices of a running platform are provisioned with.
func NewFleet(s *stack.Stack) (*Fleet, error) {
	f := &Fleet{servers: []string{s.BrokerURL()}, trustDomain: s.TrustDomain, stack: s}
	var err error
	if f.ca, err = s.CA(); err != nil {
		return nil, err
	}
	if f.imageRoot, err = os.ReadFile(filepath.Join(s.Keys, "public", "image-root.json")); err != nil {
		return nil, err
	}
	f.directorRoot, err = os.ReadFile(filepath.Join(s.Keys, "public", "director-root.json"))
	return f, err
}

// importBatch is how many devices go into one request.
const importBatch = 1000

// Register tells fleetd about devices in a region, before their first contact,
// and makes a cohort of the region's name out of it.
func (f *Fleet) Register(ctx context.Context, region string, devices []*Device) error {
	for len(devices) > 0 {
		batch := devices[:min(len(devices), importBatch)]
		devices = devices[len(batch):]
		rows := make([]map[string]string, len(batch))
		for i, d := range batch {
			rows[i] = map[string]string{"id": d.ID, "region": region, "time_zone": "Europe/Berlin"}
		}
		if err := f.stack.API(ctx, "POST", "/v1/devices/import", map[string]any{"devices": rows}, nil); err != nil {
			return err
		}
	}
	return f.stack.API(ctx, "POST", "/v1/cohorts", map[string]string{"name": region, "selector": "region=" + region}, nil)
}
