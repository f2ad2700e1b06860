package api

import (
	"context"
	"net/http"
	"time"

	"groundswell/certs/token"
	"groundswell/fleetd/fleet"
)

// Cohort is a named set of devices.
type Cohort struct {
	CohortSpec
	Members         int64      `json:"members"`
	ManifestVersion int64      `json:"manifest_version"`
	PublishedAt     *time.Time `json:"published_at,omitempty" doc:"When the broker took the newest manifest; absent: not yet"`
	CreatedAt       time.Time  `json:"created_at"`
	Revision        int64      `json:"revision"`
}

type CohortSpec struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty" maxLength:"2048" pattern:"^[^\\x00]*$"`
	Selector    string   `json:"selector,omitempty" doc:"Kubernetes label selector over model, hardware, region, customer, time_zone and labels" example:"region=eu,model in (cam-a,cam-b)"`
	Devices     []string `json:"devices,omitempty" doc:"Instead of a selector: these devices"`
}

func (c CohortSpec) domain() fleet.CohortSpec {
	return fleet.CohortSpec{Name: c.Name, Description: c.Description, Selector: c.Selector, Devices: c.Devices}
}

func viewCohort(c fleet.Cohort) Cohort {
	return Cohort{
		CohortSpec: CohortSpec{Name: c.Name, Description: c.Description, Selector: c.Selector, Devices: c.Devices},
		Members:    c.Members, ManifestVersion: c.ManifestVersion, PublishedAt: when(c.PublishedAt),
		CreatedAt: c.CreatedAt.UTC(), Revision: c.Revision,
	}
}

func cohortObject(c fleet.Cohort) *object[Cohort] {
	return &object[Cohort]{ETag: etag(c.Revision), Body: viewCohort(c)}
}

type CohortPath struct {
	Name string `path:"name" maxLength:"63" pattern:"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$"`
}

func (s *Server) registerCohorts() {
	register(s, operation{
		id: "list-cohorts", method: http.MethodGet, path: "/v1/cohorts", tag: "cohorts", role: token.Viewer, summary: "List cohorts",
	}, func(ctx context.Context, in *struct{ PageQuery }) (*listOutput[Cohort], error) {
		cohorts, next, err := s.Store.Cohorts(ctx, in.page())
		return list(cohorts, next, err, viewCohort)
	})

	register(s, operation{
		id: "create-cohort", method: http.MethodPost, path: "/v1/cohorts", tag: "cohorts", role: token.Operator, status: http.StatusCreated,
		summary:     "Create a cohort",
		description: "By a selector or by a list of devices. Costs time in proportion to the number of members: each gets a new assignment.",
		errors:      []int{http.StatusConflict}, timeout: slowTimeout, maxBody: maxImport,
	}, func(ctx context.Context, in *struct {
		Creation
		Body CohortSpec
	}) (*object[Cohort], error) {
		by, err := in.Creation.actor(ctx, "cohort", in.Body)
		if err != nil {
			return nil, err
		}
		c, err := s.Store.CreateCohort(ctx, by, in.Body.domain())
		if err != nil {
			return nil, err
		}
		out := cohortObject(c)
		out.Location = "/v1/cohorts/" + c.Name
		return out, nil
	})

	register(s, operation{
		id: "get-cohort", method: http.MethodGet, path: "/v1/cohorts/{name}", tag: "cohorts", role: token.Viewer, summary: "Get a cohort",
		errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *CohortPath) (*object[Cohort], error) {
		c, err := s.Store.Cohort(ctx, in.Name)
		if err != nil {
			return nil, err
		}
		return cohortObject(c), nil
	})

	register(s, operation{
		id: "patch-cohort", method: http.MethodPatch, path: "/v1/cohorts/{name}", tag: "cohorts", role: token.Operator,
		summary:     "Change a cohort",
		description: "What is absent stays. Giving a selector replaces a list of devices, and the other way round. Members of a running rollout stay until it is over.",
		errors:      []int{http.StatusNotFound, http.StatusPreconditionFailed, http.StatusPreconditionRequired},
		timeout:     slowTimeout, maxBody: maxImport,
	}, func(ctx context.Context, in *struct {
		CohortPath
		IfMatch
		Body struct {
			Description patched[string]   `json:"description,omitempty" maxLength:"2048" pattern:"^[^\\x00]*$"`
			Selector    patched[string]   `json:"selector,omitempty"`
			Devices     patched[[]string] `json:"devices,omitempty"`
		}
	}) (*object[Cohort], error) {
		revision, err := in.revision()
		if err != nil {
			return nil, err
		}
		c, err := s.Store.Cohort(ctx, in.Name)
		if err != nil {
			return nil, err
		}
		if err := current("cohort "+in.Name, c.Revision, revision); err != nil {
			return nil, err
		}
		spec := c.CohortSpec
		in.Body.Description.apply(&spec.Description)
		if in.Body.Selector.given {
			spec.Selector, spec.Devices = in.Body.Selector.value, nil
		}
		if in.Body.Devices.given {
			if !in.Body.Selector.given {
				spec.Selector = ""
			}
			spec.Devices = in.Body.Devices.value
		}
		// If the cohort changed between the two, the revision is stale.
		c, err = s.Store.UpdateCohort(ctx, actor(ctx), revision, spec)
		if err != nil {
			return nil, err
		}
		return cohortObject(c), nil
	})

	register(s, operation{
		id: "delete-cohort", method: http.MethodDelete, path: "/v1/cohorts/{name}", tag: "cohorts", role: token.Operator, status: http.StatusNoContent,
		summary: "Delete a cohort that no rollout names",
		errors:  []int{http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired},
		timeout: slowTimeout,
	}, func(ctx context.Context, in *struct {
		CohortPath
		IfMatch
	}) (*struct{}, error) {
		revision, err := in.revision()
		if err != nil {
			return nil, err
		}
		return nil, s.Store.DeleteCohort(ctx, actor(ctx), in.Name, revision)
	})

	register(s, operation{
		id: "cohort-members", method: http.MethodGet, path: "/v1/cohorts/{name}/members", tag: "cohorts", role: token.Viewer,
		summary: "List the devices of a cohort", errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *struct {
		CohortPath
		PageQuery
	}) (*listOutput[string], error) {
		members, next, err := s.Store.CohortMembers(ctx, in.Name, in.page())
		return list(members, next, err, func(id string) string { return id })
	})

	register(s, operation{
		id: "cohort-manifest", method: http.MethodGet, path: "/v1/cohorts/{name}/manifest", tag: "cohorts", role: token.Viewer,
		summary: "Get the signed manifest of a cohort, byte for byte", errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *CohortPath) (*signedFile, error) {
		raw, version, err := s.Store.CohortManifest(ctx, in.Name)
		if err != nil {
			return nil, err
		}
		return &signedFile{ContentType: "application/json", ETag: etag(version), Body: raw}, nil
	})
}

// signedFile is metadata as it was signed.
type signedFile struct {
	ContentType string `header:"Content-Type"`
	ETag        string `header:"ETag"`
	Body        []byte `contentType:"application/json"`
}
