package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"groundswell/certs/token"
	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

// Device is a device as operators see it.
type Device struct {
	ID       string `json:"id"`
	Model    string `json:"model,omitempty" doc:"From its certificate; absent until the first contact"`
	Hardware string `json:"hardware,omitempty" doc:"Hardware revision, from its certificate"`
	DeviceAttributes
	Bucket            int64              `json:"bucket" doc:"Its fixed place in [0, 1000000)"`
	Cohorts           []string           `json:"cohorts"`
	AssignmentVersion int64              `json:"assignment_version"`
	Connected         bool               `json:"connected"`
	Node              string             `json:"node,omitempty" doc:"Broker node of the newest connection"`
	Mode              string             `json:"mode,omitempty"`
	Versions          map[string]string  `json:"versions" doc:"What runs, by component, as the device says"`
	Agent             string             `json:"agent,omitempty" doc:"The agent's own version"`
	CheckInMillis     int64              `json:"check_in_ms" doc:"How long the newest check-in took; 0: none yet"`
	FirstContact      *time.Time         `json:"first_contact,omitempty"`
	LastContact       *time.Time         `json:"last_contact,omitempty"`
	LastCheckIn       *time.Time         `json:"last_check_in,omitempty"`
	Targets           map[string]Target  `json:"targets" doc:"What its manifests tell it to run, by component; absent where nothing does"`
	Installs          map[string]Install `json:"installs" doc:"The newest step that it reported, by component"`
	Heartbeat         json.RawMessage    `json:"heartbeat,omitempty" doc:"The newest one as it came"`
	Revision          int64              `json:"revision"`
}

// Target is what a device is told to run of a component.
type Target struct {
	Rollout string `json:"rollout"`
	Kind    string `json:"kind" enum:"update,revert"`
	State   string `json:"state" enum:"running,paused,completed" doc:"Of the rollout; a paused one blocks, nothing else comes instead"`
	Release string `json:"release"`
	Version string `json:"version"`
	Reached bool   `json:"reached" doc:"Whether a wave that has opened covers it; else it waits for its turn"`
}

// Install is a step that a device reported.
type Install struct {
	Rollout string     `json:"rollout"`
	Version string     `json:"version" doc:"That the rollout brings"`
	State   string     `json:"state" enum:"waiting,downloading,verified,staged,trying,committed,failed,rolled_back"`
	Reason  string     `json:"reason,omitempty"`
	Attempt int        `json:"attempt"`
	At      *time.Time `json:"at,omitempty" doc:"When the report was stored"`
}

func viewTargets(in map[string]fleet.Target) map[string]Target {
	out := map[string]Target{}
	for component, t := range in {
		out[component] = Target{Rollout: t.Rollout, Kind: string(t.Kind), State: string(t.State), Release: t.Release, Version: t.Version, Reached: t.Reached}
	}
	return out
}

func viewInstalls(in map[string]fleet.Install) map[string]Install {
	out := map[string]Install{}
	for component, i := range in {
		out[component] = Install{Rollout: i.Rollout, Version: i.Version, State: string(i.State), Reason: i.Reason, Attempt: i.Attempt, At: when(i.At)}
	}
	return out
}

// DeviceAttributes are what operators say about a device.
type DeviceAttributes struct {
	Region         string            `json:"region,omitempty"`
	Customer       string            `json:"customer,omitempty"`
	TimeZone       string            `json:"time_zone,omitempty" doc:"IANA name; absent: the device's own setting" example:"Europe/Berlin"`
	Labels         map[string]string `json:"labels,omitempty"`
	PollingSeconds int64             `json:"polling_s,omitempty" doc:"Interval of a polling device; 0: its own setting"`
}

func (a DeviceAttributes) domain() fleet.DeviceAttributes {
	return fleet.DeviceAttributes{Region: a.Region, Customer: a.Customer, TimeZone: a.TimeZone, Labels: a.Labels, PollingSeconds: a.PollingSeconds}
}

func viewDevice(d fleet.Device) Device {
	return Device{
		ID: d.ID, Model: d.Model, Hardware: d.Hardware,
		DeviceAttributes: DeviceAttributes{Region: d.Region, Customer: d.Customer, TimeZone: d.TimeZone, Labels: d.Labels, PollingSeconds: d.PollingSeconds},
		Bucket:           d.Bucket, Cohorts: never(d.Cohorts), AssignmentVersion: d.AssignmentVersion,
		Connected: d.Connected, Node: d.Node, Mode: string(d.Mode), Versions: orEmpty(d.Versions), Agent: d.Agent,
		Targets: viewTargets(d.Targets), Installs: viewInstalls(d.Installs),
		CheckInMillis: d.CheckInMillis, FirstContact: when(d.FirstContact), LastContact: when(d.LastContact),
		LastCheckIn: when(d.LastCheckIn), Heartbeat: d.Heartbeat, Revision: d.Revision,
	}
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func deviceObject(d fleet.Device) *object[Device] {
	return &object[Device]{ETag: etag(d.Revision), Body: viewDevice(d)}
}

// Report is a status in a device's history.
type Report struct {
	Rollout   string    `json:"rollout"`
	Revision  int64     `json:"revision"`
	Cohort    string    `json:"cohort"`
	Component string    `json:"component"`
	Release   string    `json:"release"`
	State     string    `json:"state"`
	Reason    string    `json:"reason,omitempty"`
	Detail    string    `json:"detail,omitempty"`
	From      string    `json:"from"`
	Running   string    `json:"running"`
	Target    string    `json:"target"`
	Attempt   int       `json:"attempt"`
	Epoch     int64     `json:"epoch"`
	Sequence  int64     `json:"sequence"`
	At        time.Time `json:"at" doc:"By the device's clock"`
	Stored    time.Time `json:"stored" doc:"By the broker's clock"`
}

func viewReport(r fleet.Report) Report {
	return Report{
		Rollout: r.Rollout, Revision: r.Revision, Cohort: r.Cohort, Component: r.Component, Release: r.Release,
		State: string(r.State), Reason: r.Reason, Detail: r.Detail, From: r.From, Running: r.Running, Target: r.Target,
		Attempt: r.Attempt, Epoch: r.Epoch, Sequence: r.Sequence, At: r.At.UTC(), Stored: r.Stored.UTC(),
	}
}

// Log is a log text that a device sent.
type Log struct {
	Rollout  string    `json:"rollout,omitempty"`
	Source   string    `json:"source"`
	Text     string    `json:"text"`
	Epoch    int64     `json:"epoch"`
	Sequence int64     `json:"sequence"`
	At       time.Time `json:"at" doc:"By the device's clock"`
	Stored   time.Time `json:"stored" doc:"By the broker's clock"`
}

func viewLog(l store.DeviceLog) Log {
	return Log{Rollout: l.Rollout, Source: l.Source, Text: l.Text, Epoch: l.Epoch, Sequence: l.Sequence, At: l.At.UTC(), Stored: l.Stored.UTC()}
}

// Command is a request to one device.
type Command struct {
	ID        string     `json:"id"`
	Device    string     `json:"device"`
	Version   int64      `json:"version"`
	Action    string     `json:"action"`
	Rollout   string     `json:"rollout,omitempty"`
	CreatedAt time.Time  `json:"created_at"`
	CreatedBy string     `json:"created_by"`
	ExpiresAt time.Time  `json:"expires_at"`
	AckedAt   *time.Time `json:"acked_at,omitempty" doc:"When the device said that it obeyed; absent: not yet"`
}

func viewCommand(c fleet.Command) Command {
	return Command{
		ID: c.ID, Device: c.Device, Version: c.Version, Action: string(c.Action), Rollout: c.Rollout,
		CreatedAt: c.CreatedAt.UTC(), CreatedBy: c.CreatedBy, ExpiresAt: c.ExpiresAt.UTC(), AckedAt: when(c.AckedAt),
	}
}

type DevicePath struct {
	ID string `path:"id" maxLength:"63" pattern:"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$"`
}

type DeviceQuery struct {
	PageQuery
	Cohort    string `query:"cohort"`
	Model     string `query:"model"`
	Hardware  string `query:"hardware"`
	Region    string `query:"region"`
	Customer  string `query:"customer"`
	Component string `query:"component" doc:"Of version and below; default system"`
	Version   string `query:"version" doc:"Runs exactly this"`
	Below     string `query:"below" doc:"Runs a lower one, for example 2.0"`
	State     string `query:"state" doc:"State of its deployment"`
	Rollout   string `query:"rollout" doc:"Whose state; absent: of any running rollout" maxLength:"63" pattern:"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$"`
	Connected string `query:"connected" enum:"true,false"`
}

func (q DeviceQuery) filter() fleet.DeviceFilter {
	f := fleet.DeviceFilter{
		Cohort: q.Cohort, Model: q.Model, Hardware: q.Hardware, Region: q.Region, Customer: q.Customer,
		Component: q.Component, Version: q.Version, Below: q.Below, State: topics.State(q.State), Rollout: q.Rollout,
	}
	if q.Connected != "" {
		connected := q.Connected == "true"
		f.Connected = &connected
	}
	return f
}

type devicePatch struct {
	Region         patched[string]    `json:"region,omitempty"`
	Customer       patched[string]    `json:"customer,omitempty"`
	TimeZone       patched[string]    `json:"time_zone,omitempty"`
	Labels         map[string]*string `json:"labels,omitempty" doc:"Those to set; null takes one away"`
	PollingSeconds patched[int64]     `json:"polling_s,omitempty"`
}

func (p devicePatch) apply(a *fleet.DeviceAttributes) {
	p.Region.apply(&a.Region)
	p.Customer.apply(&a.Customer)
	p.TimeZone.apply(&a.TimeZone)
	p.PollingSeconds.apply(&a.PollingSeconds)
	for key, value := range p.Labels {
		if value == nil {
			delete(a.Labels, key)
			continue
		}
		if a.Labels == nil {
			a.Labels = map[string]string{}
		}
		a.Labels[key] = *value
	}
}

type deviceImport struct {
	ID string `json:"id"`
	DeviceAttributes
}

func (s *Server) registerDevices() {
	register(s, operation{
		id: "list-devices", method: http.MethodGet, path: "/v1/devices", tag: "devices", role: token.Viewer, summary: "List devices",
	}, func(ctx context.Context, in *struct{ DeviceQuery }) (*listOutput[Device], error) {
		devices, next, err := s.Store.Devices(ctx, in.filter(), in.page())
		return list(devices, next, err, viewDevice)
	})

	register(s, operation{
		id: "get-device", method: http.MethodGet, path: "/v1/devices/{id}", tag: "devices", role: token.Viewer, summary: "Get a device",
		errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *DevicePath) (*object[Device], error) {
		d, err := s.Store.Device(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		return deviceObject(d), nil
	})

	register(s, operation{
		id: "put-device", method: http.MethodPut, path: "/v1/devices/{id}", tag: "devices", role: token.Operator, creates: true,
		summary:     "Register a device in advance, or replace its attributes",
		description: "Without If-Match the device is created; one that exists needs If-Match. Changing attributes may change the cohorts that it belongs to.",
		errors:      []int{http.StatusPreconditionFailed, http.StatusPreconditionRequired},
	}, func(ctx context.Context, in *struct {
		DevicePath
		IfMatch
		Body DeviceAttributes
	}) (*deviceStored, error) {
		return s.putDevice(ctx, in.ID, in.IfMatch, in.Body.domain())
	})

	register(s, operation{
		id: "patch-device", method: http.MethodPatch, path: "/v1/devices/{id}", tag: "devices", role: token.Operator,
		summary:     "Change some attributes of a device",
		description: "What is absent stays; null or an empty text takes the attribute away.",
		errors:      []int{http.StatusNotFound, http.StatusPreconditionFailed, http.StatusPreconditionRequired},
	}, func(ctx context.Context, in *struct {
		DevicePath
		IfMatch
		Body devicePatch
	}) (*object[Device], error) {
		revision, err := in.revision()
		if err != nil {
			return nil, err
		}
		d, err := s.Store.Device(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		if err := current("device "+in.ID, d.Revision, revision); err != nil {
			return nil, err
		}
		in.Body.apply(&d.DeviceAttributes)
		// If the device changed between the two, the revision is stale.
		d, _, err = s.Store.PutDevice(ctx, actor(ctx), in.ID, d.DeviceAttributes, revision)
		if err != nil {
			return nil, err
		}
		return deviceObject(d), nil
	})

	register(s, operation{
		id: "import-devices", method: http.MethodPost, path: "/v1/devices/import", tag: "devices", role: token.Operator,
		summary:     "Register or change many devices",
		description: "All or none; the attributes of a device that exists are replaced. At most 10,000 at a time.",
		maxBody:     maxImport, timeout: slowTimeout,
	}, func(ctx context.Context, in *struct {
		Body struct {
			Devices []deviceImport `json:"devices" minItems:"1" maxItems:"10000"`
		}
	}) (*importOutput, error) {
		// Replacing is idempotent by itself: there is no Idempotency-Key.
		devices := make([]store.ImportDevice, len(in.Body.Devices))
		for i, d := range in.Body.Devices {
			devices[i] = store.ImportDevice{ID: d.ID, DeviceAttributes: d.domain()}
		}
		created, updated, err := s.Store.ImportDevices(ctx, actor(ctx), devices)
		if err != nil {
			return nil, err
		}
		out := &importOutput{}
		out.Body.Created, out.Body.Updated = created, updated
		return out, nil
	})

	register(s, operation{
		id: "device-history", method: http.MethodGet, path: "/v1/devices/{id}/history", tag: "devices", role: token.Viewer,
		summary: "List what a device reported, newest first", errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *struct {
		DevicePath
		PageQuery
	}) (*listOutput[Report], error) {
		reports, next, err := s.Store.DeviceHistory(ctx, in.ID, in.page())
		return list(reports, next, err, viewReport)
	})

	register(s, operation{
		id: "device-logs", method: http.MethodGet, path: "/v1/devices/{id}/logs", tag: "devices", role: token.Viewer,
		summary: "List the log texts that a device sent, newest first", errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *struct {
		DevicePath
		PageQuery
	}) (*listOutput[Log], error) {
		logs, next, err := s.Store.DeviceLogs(ctx, in.ID, in.page())
		return list(logs, next, err, viewLog)
	})

	register(s, operation{
		id: "command-device", method: http.MethodPost, path: "/v1/devices/{id}/commands", tag: "devices", role: token.Operator, status: http.StatusCreated,
		summary: "Ask a device for something once", errors: []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *struct {
		DevicePath
		Creation
		Body struct {
			Action  string `json:"action" enum:"report,logs,retry" doc:"report: a heartbeat now; logs: the last log lines; retry: forget the failed attempts of a rollout"`
			Rollout string `json:"rollout,omitempty" doc:"For retry"`
			Expires string `json:"expires,omitempty" doc:"How long it may wait for the device; default 1h" example:"1h"`
		}
	}) (*object[Command], error) {
		expires, err := durationOr("/expires", in.Body.Expires, time.Hour)
		if err != nil {
			return nil, err
		}
		if in.Body.Rollout != "" || in.Body.Action == string(topics.CommandRetry) {
			if !topics.ValidID(in.Body.Rollout) {
				return nil, fieldProblem("/rollout", "is not the id of a rollout; a retry needs one")
			}
		}
		by, err := in.Creation.actor(ctx, "command", in.ID, in.Body)
		if err != nil {
			return nil, err
		}
		c, err := s.Store.CreateCommand(ctx, by, in.ID, topics.CommandAction(in.Body.Action), in.Body.Rollout, expires)
		if err != nil {
			return nil, err
		}
		return &object[Command]{ETag: etag(c.Version), Location: "/v1/commands/" + c.ID, Body: viewCommand(c)}, nil
	})

	register(s, operation{
		id: "get-command", method: http.MethodGet, path: "/v1/commands/{id}", tag: "devices", role: token.Viewer,
		summary: "Get a command and what became of it", errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *DevicePath) (*object[Command], error) {
		c, err := s.Store.Command(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		return &object[Command]{ETag: etag(c.Version), Body: viewCommand(c)}, nil
	})
}

type importOutput struct {
	Body struct {
		Created int `json:"created"`
		Updated int `json:"updated"`
	}
}

// deviceStored is 201 or 200.
type deviceStored struct {
	Status   int
	ETag     string `header:"ETag"`
	Location string `header:"Location"`
	Body     Device
}

func (s *Server) putDevice(ctx context.Context, id string, match IfMatch, attributes fleet.DeviceAttributes) (*deviceStored, error) {
	var revision int64 // 0: create
	if match.IfMatch != "" {
		var err error
		if revision, err = match.revision(); err != nil {
			return nil, err
		}
	}
	d, created, err := s.Store.PutDevice(ctx, actor(ctx), id, attributes, revision)
	if revision == 0 && errors.Is(err, fleet.ErrConflict) {
		return nil, headerProblem(http.StatusPreconditionRequired, "If-Match", "the device exists; to replace its attributes, send its ETag")
	}
	if err != nil {
		return nil, err
	}
	out := &deviceStored{Status: http.StatusOK, ETag: etag(d.Revision), Body: viewDevice(d)}
	if created {
		out.Status, out.Location = http.StatusCreated, "/v1/devices/"+d.ID
	}
	return out, nil
}
