package stack

import (
	"context"
	"fmt"
	"net/url"
	"time"
)

// Rollout is what fleetd says about a rollout, as far as tests and the demo ask.
type Rollout struct {
	ID       string `json:"id"`
	Revision int64  `json:"revision"`
	Kind     string `json:"kind"`
	State    string `json:"state"`
	Release  struct {
		Name    string `json:"name"`
		Version string `json:"version"`
	} `json:"release"`
	Cohorts   []string   `json:"cohorts"`
	Reason    string     `json:"reason"`
	StartedAt *time.Time `json:"started_at"`
	Waves     []Wave     `json:"waves"`
	// Deltas are those from what its devices run that it is to move, most of them first.
	Deltas []Delta `json:"deltas"`
	// Transfer is where the bytes came from; absent: no device has said.
	Transfer Transfer `json:"transfer"`
}

// Delta is the delta from a version that devices of a rollout run.
type Delta struct {
	From    string `json:"from"`
	Devices int    `json:"devices"`
	State   string `json:"state"`
	Bytes   int64  `json:"bytes"`
	// Plain is how many bytes the plain one has, where this one looks through compression;
	// 0: it does not.
	Plain  int64 `json:"plain_bytes"`
	Listed bool  `json:"listed"` // devices know of it
}

// Transfer is where the bytes came from that the devices of a rollout got.
type Transfer struct {
	Devices int64 `json:"devices"`
	Origin  int64 `json:"origin_bytes"`
	Delta   int64 `json:"delta_bytes"`
	Packed  int64 `json:"packed_bytes"`
	Full    int64 `json:"full_bytes"`
	Index   int64 `json:"index_bytes"`
	Peer    int64 `json:"peer_bytes"`
	Local   int64 `json:"local_bytes"`
	Saved   int64 `json:"saved_by_delta_bytes"`
}

// Wave is one wave of a rollout.
type Wave struct {
	Index     int            `json:"index"`
	Percent   float64        `json:"percent"`
	Start     int64          `json:"start"`
	Threshold int64          `json:"threshold"`
	State     string         `json:"state"` // pending, open or passed
	OpenedAt  *time.Time     `json:"opened_at"`
	ClosedAt  *time.Time     `json:"closed_at"`
	Members   int            `json:"members"`
	Counts    map[string]int `json:"counts"` // by a device's state, and silent and unreached
}

// Count adds up the devices of all waves in the given states.
func (r *Rollout) Count(states ...string) int {
	n := 0
	for _, w := range r.Waves {
		for _, s := range states {
			n += w.Counts[s]
		}
	}
	return n
}

// Outcome is a device's newest step in a rollout.
type Outcome struct {
	Device  string `json:"device"`
	Wave    *int   `json:"wave"`
	State   string `json:"state"`
	Attempt int    `json:"attempt"`
	Reason  string `json:"reason"`
}

// Device is what fleetd says about a device.
type Device struct {
	ID            string            `json:"id"`
	Model         string            `json:"model"`
	Region        string            `json:"region"`
	TimeZone      string            `json:"time_zone"`
	Connected     bool              `json:"connected"`
	Mode          string            `json:"mode"`
	Versions      map[string]string `json:"versions"`
	Cohorts       []string          `json:"cohorts"`
	CheckInMillis int64             `json:"check_in_ms"`
}

// Rollout fetches a rollout.
func (s *Stack) Rollout(ctx context.Context, id string) (*Rollout, error) {
	r := &Rollout{}
	return r, s.API(ctx, "GET", "/v1/rollouts/"+url.PathEscape(id), nil, r)
}

// CreateRollout drafts a rollout and starts it. body is as the REST interface
// takes it.
func (s *Stack) CreateRollout(ctx context.Context, body any) (*Rollout, error) {
	r := &Rollout{}
	if err := s.API(ctx, "POST", "/v1/rollouts", body, r); err != nil {
		return nil, err
	}
	return s.Change(ctx, r.ID, "start", nil)
}

// Change starts, pauses, resumes or cancels a rollout as it is now.
func (s *Stack) Change(ctx context.Context, id, action string, body any) (*Rollout, error) {
	now, err := s.Rollout(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.ChangeRevision(ctx, id, action, now.Revision, body)
}

// ChangeRevision is Change for a rollout that still has the revision; if it has
// not, the error is a *StatusError with status 412.
func (s *Stack) ChangeRevision(ctx context.Context, id, action string, revision int64, body any) (*Rollout, error) {
	if body == nil {
		body = struct{}{}
	}
	a, err := s.Call(ctx, Request{Method: "POST", Path: "/v1/rollouts/" + url.PathEscape(id) + "/" + action,
		Body: body, IfMatch: fmt.Sprintf("%q", fmt.Sprint(revision))})
	if err != nil {
		return nil, err
	}
	r := &Rollout{}
	return r, a.into(r)
}

// AwaitRollout polls a rollout until cond holds.
func (s *Stack) AwaitRollout(ctx context.Context, id string, every time.Duration, cond func(*Rollout) bool) (*Rollout, error) {
	for {
		r, err := s.Rollout(ctx, id)
		if err != nil && ctx.Err() == nil {
			return nil, err
		}
		if err == nil && cond(r) {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(every):
		}
	}
}

// Outcomes fetches the devices of a rollout.
func (s *Stack) Outcomes(ctx context.Context, id string) ([]Outcome, error) {
	return list[Outcome](ctx, s, "/v1/rollouts/"+url.PathEscape(id)+"/devices", nil)
}

// Devices fetches the devices that a query such as cohort=eu selects.
func (s *Stack) Devices(ctx context.Context, query url.Values) ([]Device, error) {
	return list[Device](ctx, s, "/v1/devices", query)
}

// list fetches every page of a collection.
func list[T any](ctx context.Context, s *Stack, path string, query url.Values) ([]T, error) {
	q := url.Values{"limit": {"500"}}
	for k, v := range query {
		q[k] = v
	}
	var all []T
	for {
		var page struct {
			Items []T    `json:"items"`
			Next  string `json:"next"`
		}
		if err := s.API(ctx, "GET", path+"?"+q.Encode(), nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Items...)
		if page.Next == "" {
			return all, nil
		}
		q.Set("cursor", page.Next)
	}
}
