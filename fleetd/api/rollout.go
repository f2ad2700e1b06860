package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"groundswell/certs/token"
	"groundswell/fleetd/fleet"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

// Rollout brings a release to cohorts.
type Rollout struct {
	ID       string `json:"id"`
	Revision int64  `json:"revision"`
	Kind     string `json:"kind" enum:"update,revert"`
	State    string `json:"state" enum:"draft,scheduled,running,paused,completed,cancelled,reverting,reverted"`
	RolloutTarget
	Component  string        `json:"component"`
	Sequence   int64         `json:"sequence" doc:"Order of creation"`
	Offset     int64         `json:"offset" doc:"Where in the ring of buckets it begins"`
	Policy     fleet.Policy  `json:"policy" doc:"With every default filled in"`
	Waves      []Wave        `json:"waves"`
	Reason     string        `json:"reason,omitempty" doc:"Why it is in this state, in the words of the operator or of the part of fleetd that brought it there"`
	CreatedBy  string        `json:"created_by"`
	CreatedAt  time.Time     `json:"created_at"`
	StartedAt  *time.Time    `json:"started_at,omitempty"`
	PausedAt   *time.Time    `json:"paused_at,omitempty"`
	FinishedAt *time.Time    `json:"finished_at,omitempty"`
	RevertOf   string        `json:"revert_of,omitempty" doc:"The rollout that this one reverts"`
	Stones     []Stone       `json:"stepping_stones,omitempty" doc:"Devices that wait for a stepping stone: they have to pass through another release before they can take this one, and count in no wave until then. Only where one rollout is created, changed or read"`
	Warnings   []string      `json:"warnings,omitempty" doc:"What to know about the rollout, in words"`
	Transfer   *Transfers    `json:"transfer,omitempty" doc:"Where the bytes came from; only on a single rollout, absent while no device has said it"`
	Deltas     []DeltaSource `json:"deltas,omitempty" doc:"What its devices run, the most common first, and the deltas from there. Only on a single rollout whose release has a block index"`
}

// Stone is devices that have to pass through other releases first.
type Stone struct {
	From    string       `json:"from" doc:"Version that they run"`
	Devices int64        `json:"devices"`
	Path    []releaseRef `json:"path" doc:"What to pass through, in order; empty: no release leads there"`
	Rollout string       `json:"rollout,omitempty" doc:"Brings them the first of the path; absent: none does"`
	Stays   bool         `json:"stays,omitempty" doc:"That rollout wins over this one, so who has followed it goes no further"`
}

// RolloutTarget is what operators say about a rollout, besides the policy.
type RolloutTarget struct {
	Release      releaseRef `json:"release"`
	Cohorts      []string   `json:"cohorts"`
	CanaryCohort string     `json:"canary_cohort,omitempty" doc:"Comes first, all of it at once"`
	From         string     `json:"from,omitempty" doc:"Constraint on the version that a device runs" example:"<2.0"`
	Priority     int64      `json:"priority,omitempty" doc:"Higher wins over other rollouts of the component"`
	StartAt      *time.Time `json:"start_at,omitempty" doc:"Starts by itself then"`
	Note         string     `json:"note,omitempty" maxLength:"2048" pattern:"^[^\\x00]*$"`
}

type releaseRef struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Wave is a share of a rollout's devices.
type Wave struct {
	Index     int              `json:"index"`
	Percent   float64          `json:"percent"`
	Cohort    string           `json:"cohort,omitempty" doc:"The canary cohort in its wave"`
	State     string           `json:"state" enum:"pending,open,passed"`
	Start     int64            `json:"start"`
	Threshold int64            `json:"threshold"`
	OpenedAt  *time.Time       `json:"opened_at,omitempty"`
	OpensAt   *time.Time       `json:"opens_at,omitempty" doc:"What devices count from: opened_at, or the newest resume"`
	ClosedAt  *time.Time       `json:"closed_at,omitempty"`
	Spread    string           `json:"spread"`
	Soak      string           `json:"soak"`
	SampleAt  *time.Time       `json:"sample_at,omitempty" doc:"When the gate first had its sample"`
	Members   int64            `json:"members" doc:"Devices that have said what they run and that the release concerns; those never seen do not count until they appear"`
	Counts    map[string]int64 `json:"counts" doc:"Devices by state; silent: started, then nothing for too long; unreached: due for long, never reported; absent: not heard of since long before the wave opened, which no gate waits for. Only on a single rollout"`
	Gate      string           `json:"gate,omitempty" doc:"What the open wave waits for, or the first one before it opens; only on a single rollout"`
}

func viewRollout(r fleet.Rollout) Rollout {
	out := Rollout{
		ID: r.ID, Revision: r.Revision, Kind: string(r.Kind), State: string(r.State),
		RolloutTarget: RolloutTarget{
			Release: releaseRef{r.Release, r.Version}, Cohorts: never(r.Cohorts), CanaryCohort: r.CanaryCohort,
			From: r.From, Priority: r.Priority, StartAt: when(r.StartAt), Note: r.Note,
		},
		Component: r.Component, Sequence: r.Sequence, Offset: r.Offset, Policy: r.Policy, Waves: []Wave{},
		Reason: r.Reason, CreatedBy: r.CreatedBy, CreatedAt: r.CreatedAt.UTC(), StartedAt: when(r.StartedAt),
		PausedAt: when(r.PausedAt), FinishedAt: when(r.FinishedAt), RevertOf: r.RevertOf, Warnings: r.Warnings, Deltas: viewDeltas(r.Deltas), Transfer: viewTransfers(r.Transfers),
	}
	for _, s := range r.Stones {
		stone := Stone{From: s.From, Devices: s.Devices, Path: []releaseRef{}, Rollout: s.Rollout, Stays: s.Stays}
		for _, p := range s.Path {
			stone.Path = append(stone.Path, releaseRef{p.Name, p.Version})
		}
		out.Stones = append(out.Stones, stone)
	}
	for _, w := range r.Waves {
		counts := w.Counts
		if counts == nil {
			counts = map[string]int64{}
		}
		out.Waves = append(out.Waves, Wave{
			Index: w.Index, Percent: w.Percent, Cohort: w.Cohort, State: string(w.State), Start: w.Start, Threshold: w.Threshold,
			OpenedAt: when(w.OpenedAt), OpensAt: when(w.OpensAt), ClosedAt: when(w.ClosedAt), Spread: w.Spread.String(), Soak: w.Soak.String(),
			SampleAt: when(w.SampleAt), Members: w.Members, Counts: counts, Gate: w.Gate,
		})
	}
	return out
}

func rolloutObject(r fleet.Rollout, err error) (*object[Rollout], error) {
	if err != nil {
		return nil, err
	}
	return &object[Rollout]{ETag: etag(r.Revision), Body: viewRollout(r)}, nil
}

func rolloutCreated(r fleet.Rollout, err error) (*object[Rollout], error) {
	out, err := rolloutObject(r, err)
	if err == nil {
		out.Location = "/v1/rollouts/" + r.ID
	}
	return out, err
}

type rolloutCreate struct {
	RolloutTarget
	Policy *policySpec `json:"policy,omitempty"`
}

func (c rolloutCreate) domain() (fleet.RolloutSpec, error) {
	spec := fleet.RolloutSpec{
		Release: c.Release.Name, Version: c.Release.Version, Cohorts: c.Cohorts, CanaryCohort: c.CanaryCohort,
		From: c.From, Priority: c.Priority, StartAt: moment(c.StartAt), Note: c.Note,
	}
	if c.Policy == nil {
		return spec, nil
	}
	policy, err := c.Policy.domain()
	spec.PolicySpec = policy
	return spec, err
}

// rolloutPatch changes a draft. What is absent stays; a policy is replaced as
// a whole.
type rolloutPatch struct {
	Release      patched[releaseRef] `json:"release,omitempty"`
	Cohorts      patched[[]string]   `json:"cohorts,omitempty"`
	CanaryCohort patched[string]     `json:"canary_cohort,omitempty"`
	From         patched[string]     `json:"from,omitempty"`
	Priority     patched[int64]      `json:"priority,omitempty"`
	StartAt      patched[time.Time]  `json:"start_at,omitempty" doc:"null: it starts when told to"`
	Note         patched[string]     `json:"note,omitempty" maxLength:"2048" pattern:"^[^\\x00]*$"`
	Policy       patched[policySpec] `json:"policy,omitempty" doc:"null: the default"`
}

func (p rolloutPatch) apply(r fleet.Rollout) (fleet.RolloutSpec, error) {
	spec := r.RolloutSpec
	spec.PolicySpec = specOf(r.Policy)
	if p.Release.given {
		spec.Release, spec.Version = p.Release.value.Name, p.Release.value.Version
	}
	p.Cohorts.apply(&spec.Cohorts)
	p.CanaryCohort.apply(&spec.CanaryCohort)
	p.From.apply(&spec.From)
	p.Priority.apply(&spec.Priority)
	p.StartAt.apply(&spec.StartAt)
	p.Note.apply(&spec.Note)
	if !p.Policy.given {
		return spec, nil
	}
	policy, err := p.Policy.value.domain()
	spec.PolicySpec = policy
	return spec, err
}

// specOf says again what a policy holds, so that a change of something else
// keeps it.
func specOf(p fleet.Policy) fleet.PolicySpec {
	spec := fleet.PolicySpec{
		Gate: &fleet.GateSpec{SuccessPercent: &p.Gate.SuccessPercent, MinSample: &p.Gate.MinSample, MaxSilentPercent: &p.Gate.MaxSilentPercent},
		Breaker: &fleet.BreakerSpec{Percent: &p.Breaker.Percent, Window: &p.Breaker.Window, MinSample: &p.Breaker.MinSample,
			Absolute: &p.Breaker.Absolute, Slices: p.Breaker.Slices},
		Silent:   &fleet.SilentSpec{Factor: &p.Silent.Factor, AtLeast: &p.Silent.AtLeast},
		Deadline: &p.Deadline, DeltaWait: &p.DeltaWait, DeltaCoder: p.DeltaCoder, Windows: p.Windows, DownloadWindows: p.DownloadWindows, Attempts: &p.Attempts, Settle: &p.Settle, HealthTimeout: &p.HealthTimeout, Fresh: &p.Fresh,
	}
	if len(p.Breaker.Slices) == 0 {
		spec.Breaker.Slices = []string{"none"}
	}
	for _, w := range p.Waves {
		spec.Waves = append(spec.Waves, fleet.WaveSpec{Percent: w.Percent, Spread: &w.Spread, Soak: &w.Soak})
	}
	return spec
}

// RolloutDevice is a device that reported on a rollout.
type RolloutDevice struct {
	Device   string     `json:"device"`
	Wave     *int       `json:"wave,omitempty" doc:"Absent: in none that has opened"`
	Position int64      `json:"position"`
	State    string     `json:"state"`
	Reason   string     `json:"reason,omitempty"`
	Detail   string     `json:"detail,omitempty"`
	Attempt  int        `json:"attempt"`
	From     string     `json:"from,omitempty"`
	Outcome  string     `json:"outcome,omitempty" doc:"Of the newest attempt that ended"`
	At       *time.Time `json:"at,omitempty" doc:"Of the newest report"`
}

func viewRolloutDevice(d store.RolloutDevice) RolloutDevice {
	out := RolloutDevice{
		Device: d.Device, Position: d.Position, State: string(d.State), Reason: d.Reason, Detail: d.Detail,
		Attempt: d.Attempt, From: d.From, Outcome: string(d.Outcome), At: when(d.ReportedAt),
	}
	if d.Wave >= 0 {
		out.Wave = &d.Wave
	}
	return out
}

// Event is something that happened to a rollout.
type Event struct {
	At     time.Time       `json:"at"`
	Kind   string          `json:"kind"`
	Actor  string          `json:"actor"`
	Before int64           `json:"before,omitempty"`
	After  int64           `json:"after,omitempty"`
	Detail json.RawMessage `json:"detail,omitempty"`
}

func viewEvent(e fleet.AuditEntry) Event {
	return Event{At: e.At.UTC(), Kind: e.Action, Actor: e.Actor, Before: e.Before, After: e.After, Detail: rawDetail(e.Detail)}
}

type RolloutPath struct {
	ID string `path:"id" maxLength:"63" pattern:"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$"`
}

type reasonBody struct {
	Reason string `json:"reason,omitempty" doc:"Why; it stands in the rollout and in the audit trail" maxLength:"2048" pattern:"^[^\\x00]*$"`
}

func (s *Server) registerRollouts() {
	register(s, operation{
		id: "create-rollout", method: http.MethodPost, path: "/v1/rollouts", tag: "rollouts", role: token.Operator, status: http.StatusCreated,
		summary: "Create a rollout, as a draft", errors: []int{http.StatusConflict},
	}, func(ctx context.Context, in *struct {
		Creation
		Body rolloutCreate
	}) (*object[Rollout], error) {
		spec, err := in.Body.domain()
		if err != nil {
			return nil, err
		}
		by, err := in.Creation.actor(ctx, "rollout", in.Body)
		if err != nil {
			return nil, err
		}
		return rolloutCreated(s.Store.CreateRollout(ctx, by, spec))
	})

	register(s, operation{
		id: "list-rollouts", method: http.MethodGet, path: "/v1/rollouts", tag: "rollouts", role: token.Viewer, summary: "List rollouts, newest first",
	}, func(ctx context.Context, in *struct {
		PageQuery
		State   string `query:"state" enum:"draft,scheduled,running,paused,completed,cancelled,reverting,reverted"`
		Release string `query:"release" doc:"Name of the release" maxLength:"63" pattern:"^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$"`
	}) (*listOutput[Rollout], error) {
		rollouts, next, err := s.Store.Rollouts(ctx, store.RolloutFilter{State: fleet.State(in.State), Release: in.Release}, in.page())
		return list(rollouts, next, err, viewRollout)
	})

	register(s, operation{
		id: "get-rollout", method: http.MethodGet, path: "/v1/rollouts/{id}", tag: "rollouts", role: token.Viewer,
		summary: "Get a rollout with the counts of its waves", errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *RolloutPath) (*object[Rollout], error) {
		return rolloutObject(s.Store.Rollout(ctx, in.ID))
	})

	register(s, operation{
		id: "patch-rollout", method: http.MethodPatch, path: "/v1/rollouts/{id}", tag: "rollouts", role: token.Operator,
		summary: "Change a draft", description: "What is absent stays, null takes away; a policy is replaced as a whole.",
		errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired},
	}, func(ctx context.Context, in *struct {
		RolloutPath
		IfMatch
		Body rolloutPatch
	}) (*object[Rollout], error) {
		revision, err := in.revision()
		if err != nil {
			return nil, err
		}
		r, err := s.Store.Rollout(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		if err := current("rollout "+in.ID, r.Revision, revision); err != nil {
			return nil, err
		}
		spec, err := in.Body.apply(r)
		if err != nil {
			return nil, err
		}
		// If the rollout changed between the two, the revision is stale.
		return rolloutObject(s.Store.UpdateRollout(ctx, actor(ctx), in.ID, revision, spec))
	})

	s.registerSteps()
	s.registerPreview()

	register(s, operation{
		id: "revert-rollout", method: http.MethodPost, path: "/v1/rollouts/{id}/revert", tag: "rollouts", role: token.Operator, status: http.StatusCreated,
		summary:     "Bring devices that run this release back to an older one",
		description: "Makes and starts a rollout of kind revert. Never goes below the security floor.",
		errors:      []int{http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired}, timeout: slowTimeout,
	}, func(ctx context.Context, in *struct {
		RolloutPath
		IfMatch
		Creation
		Body struct {
			To            string      `json:"to" doc:"Version of the same release to go back to" example:"1.0.0"`
			IgnoreWindows bool        `json:"ignore_windows,omitempty" doc:"Install outside of maintenance windows too"`
			Note          string      `json:"note,omitempty" maxLength:"2048" pattern:"^[^\\x00]*$"`
			Policy        *policySpec `json:"policy,omitempty"`
		}
	}) (*object[Rollout], error) {
		revision, err := in.revision()
		if err != nil {
			return nil, err
		}
		spec := store.RevertSpec{To: in.Body.To, IgnoreWindows: in.Body.IgnoreWindows, Note: in.Body.Note}
		if in.Body.Policy != nil {
			policy, err := in.Body.Policy.domain()
			if err != nil {
				return nil, err
			}
			spec.Policy = &policy
		}
		by, err := in.Creation.actor(ctx, "revert", in.ID, in.Body)
		if err != nil {
			return nil, err
		}
		return rolloutCreated(s.Store.RevertRollout(ctx, by, in.ID, revision, spec))
	})

	register(s, operation{
		id: "rollout-devices", method: http.MethodGet, path: "/v1/rollouts/{id}/devices", tag: "rollouts", role: token.Viewer,
		summary: "List the devices that reported on a rollout, and where they stand", errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *struct {
		RolloutPath
		PageQuery
		Wave  string `query:"wave" pattern:"^[0-9]{1,2}$" doc:"Only of this wave"`
		State string `query:"state" doc:"Only in this state"`
	}) (*listOutput[RolloutDevice], error) {
		var wave *int
		if in.Wave != "" {
			n, err := strconv.Atoi(in.Wave)
			if err != nil {
				return nil, parameterProblem("wave", "is not a number")
			}
			wave = &n
		}
		devices, next, err := s.Store.RolloutDevices(ctx, in.ID, wave, topics.State(in.State), in.page())
		return list(devices, next, err, viewRolloutDevice)
	})

	register(s, operation{
		id: "rollout-events", method: http.MethodGet, path: "/v1/rollouts/{id}/events", tag: "rollouts", role: token.Viewer,
		summary: "List what happened to a rollout, oldest first", errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *struct {
		RolloutPath
		PageQuery
	}) (*listOutput[Event], error) {
		events, next, err := s.Store.RolloutEvents(ctx, in.ID, in.page())
		return list(events, next, err, viewEvent)
	})
}

// registerSteps adds start, pause, resume and cancel.
func (s *Server) registerSteps() {
	type step func(ctx context.Context, by fleet.Actor, id string, revision int64, reason string) (fleet.Rollout, error)
	steps := []struct {
		name, summary string
		do            step
	}{
		{"start", "Start a draft, or schedule it when it has start_at", s.Store.StartRollout},
		{"pause", "Pause: nobody starts, nobody activates", s.Store.PauseRollout},
		{"resume", "Go on after a pause", s.Store.ResumeRollout},
		{"cancel", "Cancel: its entry leaves the manifests", s.Store.CancelRollout},
	}
	for _, step := range steps {
		register(s, operation{
			id: step.name + "-rollout", method: http.MethodPost, path: "/v1/rollouts/{id}/" + step.name, tag: "rollouts", role: token.Operator,
			summary: step.summary, timeout: slowTimeout,
			errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusPreconditionFailed, http.StatusPreconditionRequired},
		}, func(ctx context.Context, in *struct {
			RolloutPath
			IfMatch
			Body *reasonBody
		}) (*object[Rollout], error) {
			revision, err := in.revision()
			if err != nil {
				return nil, err
			}
			reason := ""
			if in.Body != nil {
				reason = in.Body.Reason
			}
			return rolloutObject(step.do(ctx, actor(ctx), in.ID, revision, reason))
		})
	}
}
