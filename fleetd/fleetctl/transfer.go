package main

import "strconv"

// transfer is where the bytes came from that the devices of a rollout got.
type transfer struct {
	Region  string `json:"region"`
	Devices int    `json:"devices"`
	Origin  int64  `json:"origin_bytes"`
	Delta   int64  `json:"delta_bytes"`
	Packed  int64  `json:"packed_bytes"`
	Full    int64  `json:"full_bytes"`
	Index   int64  `json:"index_bytes"`
	Peer    int64  `json:"peer_bytes"`
	Local   int64  `json:"local_bytes"`
	Saved   int64  `json:"saved_by_delta_bytes"`
}

type transfers struct {
	transfer
	Regions []transfer `json:"regions"`
}

// rows are the regions, and all of them together if they are several.
func (t *transfers) rows() []transfer {
	if len(t.Regions) < 2 {
		return t.Regions
	}
	all := t.transfer
	all.Region = "all"
	return append(t.Regions, all)
}

var transferTable = table[transfer]{
	{"REGION", func(t transfer) string { return t.Region }},
	{"DEVICES", func(t transfer) string { return strconv.Itoa(t.Devices) }},
	{"ORIGIN", func(t transfer) string { return size(t.Origin) }},
	{"DELTA", func(t transfer) string { return size(t.Delta) }},
	{"PACKED", func(t transfer) string { return size(t.Packed) }},
	{"FULL", func(t transfer) string { return size(t.Full) }},
	{"INDEXES", func(t transfer) string { return size(t.Index) }},
	{"PEERS", func(t transfer) string { return size(t.Peer) }},
	{"HAD ALREADY", func(t transfer) string { return size(t.Local) }},
	{"SAVED BY DELTA", func(t transfer) string { return size(t.Saved) }},
}
