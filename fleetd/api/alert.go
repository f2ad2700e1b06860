package api

import (
	"context"
	"net/http"
	"time"

	"groundswell/certs/token"
	"groundswell/fleetd/store"
)

// Alert is a condition that an operator should see.
type Alert struct {
	ID             int64      `json:"id"`
	Revision       int64      `json:"revision" doc:"Grows with each sighting and each change"`
	Kind           string     `json:"kind"`
	Object         string     `json:"object"`
	Message        string     `json:"message" doc:"Of the newest sighting"`
	Count          int64      `json:"count" doc:"How often it was seen"`
	FirstAt        time.Time  `json:"first_at"`
	LastAt         time.Time  `json:"last_at"`
	State          string     `json:"state" enum:"open,acknowledged"`
	AcknowledgedAt *time.Time `json:"acknowledged_at,omitempty"`
	AcknowledgedBy string     `json:"acknowledged_by,omitempty"`
	Note           string     `json:"note,omitempty" doc:"Of who acknowledged it"`
}

func viewAlert(a store.Alert) Alert {
	out := Alert{
		ID: a.ID, Revision: a.Revision, Kind: a.Kind, Object: a.Object, Message: a.Message, Count: a.Count,
		FirstAt: a.FirstAt.UTC(), LastAt: a.LastAt.UTC(), State: string(store.AlertOpen),
		AcknowledgedAt: when(a.AcknowledgedAt), AcknowledgedBy: a.AcknowledgedBy, Note: a.Note,
	}
	if !a.AcknowledgedAt.IsZero() {
		out.State = string(store.AlertAcknowledged)
	}
	return out
}

func alertObject(a store.Alert, err error) (*object[Alert], error) {
	if err != nil {
		return nil, err
	}
	return &object[Alert]{ETag: etag(a.Revision), Body: viewAlert(a)}, nil
}

type AlertPath struct {
	ID int64 `path:"id" minimum:"1"`
}

func (s *Server) registerAlerts() {
	register(s, operation{
		id: "list-alerts", method: http.MethodGet, path: "/v1/alerts", tag: "alerts", role: token.Viewer, summary: "List conditions that an operator should see",
	}, func(ctx context.Context, in *struct {
		PageQuery
		State string `query:"state" enum:"open,acknowledged" doc:"Absent: all"`
	}) (*listOutput[Alert], error) {
		alerts, next, err := s.Store.Alerts(ctx, store.AlertState(in.State), in.page())
		return list(alerts, next, err, viewAlert)
	})

	register(s, operation{
		id: "get-alert", method: http.MethodGet, path: "/v1/alerts/{id}", tag: "alerts", role: token.Viewer, summary: "Get an alert",
		errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *AlertPath) (*object[Alert], error) {
		return alertObject(s.Store.Alert(ctx, in.ID))
	})

	stale := []int{http.StatusNotFound, http.StatusPreconditionFailed, http.StatusPreconditionRequired}
	register(s, operation{
		id: "acknowledge-alert", method: http.MethodPost, path: "/v1/alerts/{id}/acknowledge", tag: "alerts", role: token.Operator,
		summary:     "Say that somebody knows of it",
		description: "It stays, and stays acknowledged however often it is seen, until it is cleared.",
		errors:      stale,
	}, func(ctx context.Context, in *struct {
		AlertPath
		IfMatch
		Body *struct {
			Note string `json:"note,omitempty" doc:"For the others who look after the fleet" maxLength:"2048" pattern:"^[^\\x00]*$"`
		}
	}) (*object[Alert], error) {
		revision, err := in.revision()
		if err != nil {
			return nil, err
		}
		note := ""
		if in.Body != nil {
			note = in.Body.Note
		}
		return alertObject(s.Store.AcknowledgeAlert(ctx, actor(ctx), in.ID, revision, note))
	})

	register(s, operation{
		id: "clear-alert", method: http.MethodDelete, path: "/v1/alerts/{id}", tag: "alerts", role: token.Operator, status: http.StatusNoContent,
		summary: "Say that it is over", description: "Seen again, it is a new alert. The audit trail keeps what it was.", errors: stale,
	}, func(ctx context.Context, in *struct {
		AlertPath
		IfMatch
	}) (*struct{}, error) {
		revision, err := in.revision()
		if err != nil {
			return nil, err
		}
		return nil, s.Store.ClearAlert(ctx, actor(ctx), in.ID, revision)
	})
}
