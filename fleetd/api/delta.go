package api

import "groundswell/fleetd/fleet"

// DeltaSource is devices of a rollout that run one version, and the delta from there.
type DeltaSource struct {
	From    string `json:"from" doc:"Version that they run"`
	Devices int64  `json:"devices" doc:"That the rollout is to move; with those that it has moved they get fewer"`
	State   string `json:"state" enum:"none,pending,running,ready,useless,failed" doc:"Of the delta. none: not asked for, or nothing to make it from; useless: not worth its bytes; failed: given up for a day"`
	Bytes   int64  `json:"bytes,omitempty" doc:"Of the delta"`
	Plain   int64  `json:"plain_bytes,omitempty" doc:"Of the plain delta, where the one of bytes looks through compression, whether the plain one is worth its bytes or not; absent: it does not"`
	Listed  bool   `json:"listed,omitempty" doc:"Devices know of it"`
	Error   string `json:"error,omitempty" doc:"Of the newest attempt"`
}

func deltaState(s fleet.DeltaState) string {
	if s == fleet.DeltaNone {
		return "none"
	}
	return string(s)
}

func viewDeltas(sources []fleet.DeltaSource) (out []DeltaSource) {
	for _, s := range sources {
		out = append(out, DeltaSource{From: s.From, Devices: s.Devices, State: deltaState(s.State), Bytes: s.Delta.Length, Plain: s.Plain, Listed: s.Listed, Error: s.Error})
	}
	return out
}
