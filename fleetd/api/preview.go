package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"groundswell/certs/token"
	"groundswell/fleetd/fleet"
)

// Prices is what a byte costs.
type Prices struct {
	PerGB    float64 // of 10^9 bytes; 0: not known
	Currency string
}

// Preview says what a rollout will cost.
type Preview struct {
	Rollout    string          `json:"rollout"`
	Devices    int64           `json:"devices" doc:"That it is to move, unknown ones too"`
	Unknown    int64           `json:"unknown_devices" doc:"That never said what they run, and may be concerned"`
	Bytes      int64           `json:"bytes" doc:"That those will receive at most whom its waves reach, if nothing is sent twice: less what they have already, and what peers send"`
	Cost       *Cost           `json:"cost,omitempty" doc:"Absent: no price is known"`
	Versions   []PreviewSource `json:"versions" doc:"By what devices run, the most common first"`
	StepHours  int64           `json:"step_hours" doc:"How long a step is: 1 unless it takes a month or longer"`
	Steps      []PreviewStep   `json:"steps" doc:"When they will be received, at the earliest: each wave opens when the one before is over, and nobody waits for a window. Steps without bytes are left out"`
	Peak       int64           `json:"peak_bytes_per_hour"`
	EndsAfterS int64           `json:"ends_after_s" doc:"When the last device begins, at the earliest: seconds from the start"`
}

// Cost is what bytes cost.
type Cost struct {
	Amount     float64 `json:"amount"`
	Currency   string  `json:"currency,omitempty"`
	PricePerGB float64 `json:"price_per_gb" doc:"Of 10^9 bytes"`
}

// PreviewSource is devices that need the same.
type PreviewSource struct {
	From    string `json:"from,omitempty" doc:"Version that they run; absent: it is not known"`
	Devices int64  `json:"devices"`
	Delta   string `json:"delta" enum:"none,pending,running,ready,useless,failed" doc:"State of the delta from there; deltas are made from when the rollout is scheduled or started"`
	Way     string `json:"way" enum:"delta,packed,full"`
	Each    int64  `json:"bytes_each" doc:"With indexes"`
	Bytes   int64  `json:"bytes"`
}

// PreviewStep is an hour, or some, in which something is received.
type PreviewStep struct {
	Hour  int64 `json:"hour" doc:"Since the start, when it begins"`
	Bytes int64 `json:"bytes"`
}

func viewPreview(id string, p fleet.Preview, prices Prices) Preview {
	out := Preview{
		Rollout: id, Devices: p.Devices, Unknown: p.Unknown, Bytes: p.Bytes, Versions: []PreviewSource{},
		StepHours: int64(p.Step.Hours()), Steps: []PreviewStep{}, Peak: p.Peak, EndsAfterS: int64(p.Ends.Seconds()),
	}
	for _, s := range p.Sources {
		out.Versions = append(out.Versions, PreviewSource{From: s.From, Devices: s.Devices, Delta: deltaState(s.Delta), Way: s.Way, Each: s.Each, Bytes: s.Bytes})
	}
	for _, s := range p.Steps {
		out.Steps = append(out.Steps, PreviewStep{Hour: int64(s.From.Hours()), Bytes: s.Bytes})
	}
	if prices.PerGB > 0 {
		out.Cost = &Cost{Amount: float64(p.Bytes) / 1e9 * prices.PerGB, Currency: prices.Currency, PricePerGB: prices.PerGB}
	}
	return out
}

// indexPatience bounds how long a preview waits for deltas between block indexes, which may
// have to be made. Devices of whose version none is known by then count with the whole index.
const indexPatience = 10 * time.Second

// indexDeltas are those from what the devices run to the release's block index.
func (s *Server) indexDeltas(ctx context.Context, in fleet.PreviewInput) map[string]int64 {
	if s.IndexDelta == nil || in.Release.Index == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, indexPatience)
	defer cancel()
	lengths := map[string]int64{}
	for _, source := range in.Sources {
		if source.Index == "" {
			continue
		}
		if n, ok := s.IndexDelta(ctx, in.Release.Index.SHA256, source.Index); ok {
			lengths[source.Index] = n
		}
	}
	return lengths
}

func (s *Server) registerPreview() {
	register(s, operation{
		id: "preview-rollout", method: http.MethodGet, path: "/v1/rollouts/{id}/preview", tag: "rollouts", role: token.Viewer,
		summary:     "Say what a rollout will cost: devices, bytes, money, and when",
		description: "As if it started now, with the devices that it has still to move. It changes nothing; a draft does as well.",
		errors:      []int{http.StatusNotFound}, timeout: slowTimeout,
	}, func(ctx context.Context, in *struct {
		RolloutPath
		PricePerGB string `query:"price_per_gb" maxLength:"20" doc:"Instead of the configured one; of 10^9 bytes" example:"0.08"`
	}) (*struct{ Body Preview }, error) {
		prices := s.Prices
		if in.PricePerGB != "" {
			price, err := strconv.ParseFloat(in.PricePerGB, 64)
			if err != nil || !(price >= 0 && price <= 1e6) {
				return nil, parameterProblem("price_per_gb", "must be a number from 0 to 1000000")
			}
			prices.PerGB = price
		}
		input, err := s.Store.PreviewRollout(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		if s.Packed != nil {
			input.Packed, _ = s.Packed(ctx, input.Release.SHA256)
		}
		input.IndexDeltas = s.indexDeltas(ctx, input)
		return &struct{ Body Preview }{viewPreview(in.ID, fleet.NewPreview(input), prices)}, nil
	})
}
