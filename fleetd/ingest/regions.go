package ingest

import (
	"context"
	"time"

	"groundswell/fleetd/store"
	"groundswell/topics"
)

// unknown is the region of a device without one, or while PostgreSQL does not
// say.
const unknown = "unknown"

const (
	// regionAge is how long a region is believed.
	regionAge = 10 * time.Minute
	// regionsMax is how many are remembered.
	regionsMax = 200_000
)

// regions remembers the regions of devices. Only one goroutine uses it.
type regions struct {
	shelf Shelf
	known map[string]region
}

type region struct {
	name string
	read time.Time
}

func newRegions(shelf Shelf) *regions { return &regions{shelf: shelf, known: map[string]region{}} }

// of answers for all devices of a batch, with one query at most.
func (c *regions) of(ctx context.Context, batch []store.UplinkRecord) map[string]string {
	out := make(map[string]string, len(batch))
	var missing []string
	now := time.Now()
	for _, r := range batch {
		name, err := topics.Parse(r.Topic)
		if err != nil {
			continue
		}
		if _, seen := out[name.ID]; seen {
			continue
		}
		entry, ok := c.known[name.ID]
		out[name.ID] = entry.name
		if !ok || now.Sub(entry.read) > regionAge {
			missing = append(missing, name.ID)
		}
		if !ok {
			out[name.ID] = unknown
		}
	}
	if len(missing) == 0 {
		return out
	}
	read, err := c.shelf.Regions(ctx, missing)
	if err != nil {
		return out // what is known goes on; the next batch asks again
	}
	for _, id := range missing {
		// A device that is not registered yet will be in a moment: only what
		// was found is remembered.
		if name := read[id]; name != "" {
			c.remember(id, region{name, now})
			out[id] = name
		}
	}
	return out
}

func (c *regions) remember(id string, r region) {
	for other := range c.known { // in no order: any will do
		if len(c.known) < regionsMax {
			break
		}
		delete(c.known, other)
	}
	c.known[id] = r
}
