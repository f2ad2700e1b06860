package main

import "strconv"

// deltaSource is devices of a rollout that run one version, and the delta from there.
type deltaSource struct {
	From    string `json:"from"`
	Devices int    `json:"devices"`
	State   string `json:"state"`
	Bytes   int64  `json:"bytes"`
	Plain   int64  `json:"plain_bytes"` // 0: Bytes are those of the plain one
	Listed  bool   `json:"listed"`
	Error   string `json:"error"`
}

var deltaTable = table[deltaSource]{
	{"FROM", func(d deltaSource) string { return d.From }},
	{"DEVICES", func(d deltaSource) string { return strconv.Itoa(d.Devices) }},
	{"DELTA", func(d deltaSource) string {
		if d.State == "ready" && !d.Listed {
			return "ready, not told to devices yet"
		}
		return d.State
	}},
	{"SIZE", func(d deltaSource) string {
		if d.Bytes == 0 {
			return ""
		}
		if d.Plain > 0 {
			return size(d.Bytes) + " through compression (" + size(d.Plain) + " without)"
		}
		return size(d.Bytes)
	}},
	{"ERROR", func(d deltaSource) string { return d.Error }},
}
