package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"groundswell/certs/token"
	"groundswell/certs/trust"
	"groundswell/fleetd/artifact"
	"groundswell/fleetd/fleet"
)

// Release is a version of a component that the release role signed.
type Release struct {
	Component     string    `json:"component"`
	Name          string    `json:"name"`
	Version       string    `json:"version"`
	Path          string    `json:"path" doc:"Target path in the image repository"`
	Length        int64     `json:"length" doc:"Bytes"`
	SHA256        string    `json:"sha256"`
	Models        []string  `json:"models"`
	Hardware      []string  `json:"hardware" doc:"Revisions that it runs on; empty: any"`
	SecurityFloor string    `json:"security_floor,omitempty" doc:"Lowest version of the component that may be installed once this release exists"`
	Requires      []require `json:"requires,omitempty" doc:"Conditions on what a device runs; one on the release's own component means a stepping stone"`
	Index         *Document `json:"index,omitempty" doc:"The artifact's block index; absent: it has none, and is fetched and checked as a whole"`
	Notes         string    `json:"notes,omitempty"`
	CreatedAt     time.Time `json:"created_at"`
	CreatedBy     string    `json:"created_by"`
}

// Document is bytes that are fetched by their digest, as artifacts are.
type Document struct {
	Length int64  `json:"length" doc:"Bytes"`
	SHA256 string `json:"sha256"`
}

type require struct {
	Component string `json:"component"`
	Versions  string `json:"versions" doc:"Constraint" example:">=2.0"`
}

func viewRelease(r fleet.Release) Release {
	var requires []require
	for _, q := range r.Requires {
		requires = append(requires, require(q))
	}
	return Release{
		Component: r.Component, Name: r.Name, Version: r.Version, Path: r.Path, Length: r.Length, SHA256: r.SHA256,
		Models: never(r.Models), Hardware: never(r.Hardware), SecurityFloor: r.SecurityFloor, Requires: requires, Index: (*Document)(r.Index), Notes: r.Notes,
		CreatedAt: r.CreatedAt.UTC(), CreatedBy: r.CreatedBy,
	}
}

// Artifact is what is known about stored bytes.
type Artifact struct {
	SHA256    string    `json:"sha256"`
	Length    int64     `json:"length" doc:"Bytes"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
}

func viewArtifact(a fleet.Artifact) Artifact {
	return Artifact{SHA256: a.SHA256, Length: a.Length, CreatedAt: a.CreatedAt.UTC(), CreatedBy: a.CreatedBy}
}

type ReleaseQuery struct {
	PageQuery
	Component string `query:"component" maxLength:"63" pattern:"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$"`
	Name      string `query:"name" maxLength:"63" pattern:"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$"`
}

type ArtifactPath struct {
	SHA256 string `path:"sha256" pattern:"^[0-9a-f]{64}$"`
}

func (s *Server) registerReleases() {
	register(s, operation{
		id: "list-releases", method: http.MethodGet, path: "/v1/releases", tag: "releases", role: token.Viewer, summary: "List releases",
	}, func(ctx context.Context, in *struct{ ReleaseQuery }) (*listOutput[Release], error) {
		releases, next, err := s.Store.Releases(ctx, in.Component, in.Name, in.page())
		return list(releases, next, err, viewRelease)
	})

	register(s, operation{
		id: "get-release", method: http.MethodGet, path: "/v1/releases/{name}/{version}", tag: "releases", role: token.Viewer,
		summary: "Get a release", errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *struct {
		CohortPath        // the same grammar
		Version    string `path:"version" maxLength:"64" pattern:"^[0-9A-Za-z.+-]+$"`
	}) (*object[Release], error) {
		r, err := s.Store.Release(ctx, in.Name, in.Version)
		if err != nil {
			return nil, err
		}
		return &object[Release]{ETag: `"` + r.SHA256 + `"`, Body: viewRelease(r)}, nil
	})

	register(s, operation{
		id: "publish-releases", method: http.MethodPost, path: "/v1/releases", tag: "releases", role: token.Admin, status: http.StatusCreated,
		summary:     "Publish a signed list of releases",
		description: "The next targets.json of the image repository, signed by the release keys. It is taken byte for byte or refused; no release may vanish or change, and the artifacts must be there already.",
		errors:      []int{http.StatusConflict}, maxBody: maxTargets, timeout: slowTimeout,
	}, func(ctx context.Context, in *struct {
		Body struct {
			Targets []byte `json:"targets_b64" doc:"targets.json, in base64 so that not a byte changes"`
		}
	}) (*releasesCreated, error) {
		// The same list again is no change: there is no Idempotency-Key.
		created, err := s.Catalogue.Publish(ctx, actor(ctx), in.Body.Targets)
		if err != nil {
			return nil, pointAt("/targets_b64", err)
		}
		out := &releasesCreated{}
		out.Body.Created = make([]Release, len(created))
		for i, r := range created {
			out.Body.Created[i] = viewRelease(r)
		}
		return out, nil
	})

	s.registerArtifacts()
	s.registerRepository()
}

type releasesCreated struct {
	Body struct {
		Created []Release `json:"created"`
	}
}

// pointAt says which field an error is about, if it is the caller's.
func pointAt(pointer string, err error) error {
	if errors.Is(err, fleet.ErrInvalid) {
		return err // it points itself
	}
	if errors.Is(err, artifact.ErrNoArtifact) {
		return fieldProblem(pointer, err.Error()) // not 404: the artifact is not what was asked for
	}
	p, ok := problemOf(err, false)
	if !ok {
		return err
	}
	if len(p.Errors) == 0 {
		p.Errors = []Cause{{Pointer: pointer, Detail: err.Error()}}
	}
	return p
}

func (s *Server) registerArtifacts() {
	register(s, operation{
		id: "get-artifact", method: http.MethodGet, path: "/v1/artifacts/{sha256}", tag: "releases", role: token.Viewer,
		summary: "Say what is known about an artifact", description: "The bytes themselves are on the listener for downloads.", errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *ArtifactPath) (*object[Artifact], error) {
		a, err := s.Store.Artifact(ctx, in.SHA256)
		if err != nil {
			return nil, err
		}
		return &object[Artifact]{ETag: `"` + a.SHA256 + `"`, Body: viewArtifact(a)}, nil
	})

	binary := &huma.RequestBody{
		Required: true,
		Content:  map[string]*huma.MediaType{"application/octet-stream": {Schema: &huma.Schema{Type: "string", Format: "binary"}}},
	}
	register(s, operation{
		id: "put-artifact", method: http.MethodPut, path: "/v1/artifacts/{sha256}", tag: "releases", role: token.Admin, body: binary, creates: true,
		summary:     "Store an artifact",
		description: "Needs Content-Length. Stored only if length and digest are right; the same again is no change.",
		errors:      []int{http.StatusLengthRequired, http.StatusRequestTimeout}, timeout: uploadTimeout,
	}, func(ctx context.Context, in *upload) (*artifactStored, error) {
		if in.length < 0 {
			return nil, headerProblem(http.StatusLengthRequired, "Content-Length", "is needed")
		}
		if _, err := s.Blobs.Put(ctx, in.SHA256, in.length, in); err != nil {
			return nil, s.uploadProblem(in, err)
		}
		a, created, err := s.Store.PutArtifact(ctx, actor(ctx), fleet.Artifact{SHA256: in.SHA256, Length: in.length})
		if err != nil {
			return nil, err
		}
		out := &artifactStored{Status: http.StatusOK, ETag: `"` + a.SHA256 + `"`, Body: viewArtifact(a)}
		if created {
			out.Status, out.Location = http.StatusCreated, "/v1/artifacts/"+a.SHA256
		}
		return out, nil
	})
}

type artifactStored struct {
	Status   int
	ETag     string `header:"ETag"`
	Location string `header:"Location"`
	Body     Artifact
}

type RepositoryPath struct {
	Repository string `path:"repository" enum:"image,director"`
}

// Root is what a root says.
type Root struct {
	Repository string    `json:"repository"`
	Version    int64     `json:"version"`
	Expires    time.Time `json:"expires"`
}

func (s *Server) registerRepository() {
	register(s, operation{
		id: "get-repository-file", method: http.MethodGet, path: "/v1/repository/{repository}/{file}", tag: "repository", role: token.Viewer,
		summary:     "Get signed metadata, byte for byte",
		description: "N.root.json, N.targets.json, N.snapshot.json or timestamp.json.",
		errors:      []int{http.StatusNotFound},
	}, func(ctx context.Context, in *struct {
		RepositoryPath
		File string `path:"file" maxLength:"40"`
	}) (*signedFile, error) {
		raw, err := s.Catalogue.RepositoryFile(ctx, trust.Repository(in.Repository), in.File)
		if err != nil {
			return nil, err
		}
		return &signedFile{ContentType: "application/json", Body: raw}, nil
	})

	register(s, operation{
		id: "rotate-root", method: http.MethodPut, path: "/v1/repository/{repository}/root", tag: "repository", role: token.Admin,
		summary:     "Rotate a root",
		description: "The root that follows the one in force, signed by the thresholds of both. The version in it makes If-Match needless.",
		errors:      []int{http.StatusConflict},
	}, func(ctx context.Context, in *struct {
		RepositoryPath
		Body struct {
			Root []byte `json:"root_b64" doc:"root.json, in base64 so that not a byte changes"`
		}
	}) (*struct{ Body Root }, error) {
		info, err := s.Catalogue.RotateRoot(ctx, actor(ctx), trust.Repository(in.Repository), in.Body.Root)
		if err != nil {
			return nil, pointAt("/root_b64", err)
		}
		out := &struct{ Body Root }{Root{Repository: in.Repository, Version: info.Version, Expires: info.Expires.UTC()}}
		return out, nil
	})
}
