package ingest

import (
	"slices"
	"strconv"
	"time"

	"groundswell/fleetd/ingest/influx"
	"groundswell/fleetd/store"
	"groundswell/topics"
)

// The measurements and their tags. Everything else about a message is a field.
//
//	status     model, region, version (target), state, shard, cohort
//	heartbeat  model, region, version (running), shard
//	presence   model, region, shard
//	refusal    model, region, shard, reason
//
// Where the bytes of an attempt came from are the fields local_bytes, delta_bytes,
// packed_bytes, full_bytes, peer_bytes and index_bytes of its status: of an attempt, the
// newest counts, the sums of a rollout are fleetd's (the rollout's transfer). What its peers
// did wrong meanwhile are peer_wrong, peer_failed and peer_away.
//
// Logs make no points.
const (
	measurementStatus    = "status"
	measurementHeartbeat = "heartbeat"
	measurementPresence  = "presence"
	measurementRefusal   = "refusal"
)

// How many values a device's word can add to a tag or to the fields, in the
// life of a process.
const (
	maxVersions = 2000
	maxCohorts  = 2000
	maxMetrics  = 500
)

// pointMaker turns messages into points. Only one goroutine uses it.
type pointMaker struct{ versions, cohorts, metrics *vocabulary }

func newPointMaker() *pointMaker {
	return &pointMaker{newVocabulary(maxVersions), newVocabulary(maxCohorts), newVocabulary(maxMetrics)}
}

// vocabulary lets only so many different words through.
type vocabulary struct {
	most  int
	words map[string]bool
}

func newVocabulary(most int) *vocabulary { return &vocabulary{most, map[string]bool{}} }

func (v *vocabulary) admits(word string) bool {
	if !v.words[word] && len(v.words) >= v.most {
		return false
	}
	v.words[word] = true
	return true
}

// word is the word, or "other" when there are too many.
func (v *vocabulary) word(word string) string {
	if v.admits(word) {
		return word
	}
	return "other"
}

// make makes the point of a message. ok is false when it makes none.
func (p *pointMaker) make(r store.UplinkRecord, regions map[string]string) (point influx.Point, ok bool) {
	name, err := topics.Parse(r.Topic)
	if err != nil {
		return point, false
	}
	point = influx.Point{
		Tags:   map[string]string{"model": r.Model, "region": regions[name.ID], "shard": shardTag(r)},
		Fields: map[string]any{"device": name.ID},
		Time:   pointTime(r),
	}
	switch name.Kind {
	case topics.KindStatus:
		err = p.status(r.Payload, &point)
	case topics.KindHeartbeat:
		err = p.heartbeat(r.Payload, &point)
	case topics.KindPresence:
		err = p.presence(r.Payload, &point)
	case topics.KindRefusal:
		err = p.refusal(r.Payload, &point)
	default:
		return point, false
	}
	return point, err == nil
}

// shardTag names a shard of all regions. Those of the default region had no region in
// it when there was only one.
func shardTag(r store.UplinkRecord) string {
	shard := strconv.FormatInt(r.Shard, 10)
	if r.Region == "" || r.Region == store.DefaultRegion {
		return shard
	}
	return r.Region + "/" + shard
}

// pointTime is unique among the messages of a shard, and the same when a
// message comes again: two points with the same tags and time overwrite each
// other.
func pointTime(r store.UplinkRecord) time.Time {
	return time.UnixMilli(r.Stored.UnixMilli()).Add(time.Duration(r.Sequence % 1e6)).UTC()
}

func (p *pointMaker) status(raw []byte, point *influx.Point) error {
	s, err := topics.DecodeStatus(raw)
	if err != nil {
		return err
	}
	point.Measurement = measurementStatus
	point.Tags["version"] = p.versions.word(s.Target)
	point.Tags["state"] = string(s.State)
	point.Tags["cohort"] = p.cohorts.word(s.Cohort)
	for key, value := range map[string]any{
		"rollout": s.Rollout, "revision": s.Revision, "component": s.Component, "release": s.Release, "attempt": int64(s.Attempt),
		"reason": s.Reason, "from": s.From, "running": s.Running, "epoch": s.Epoch, "sequence": s.Sequence,
		"downloaded_bytes": s.DownloadedBytes, "bytes": s.Bytes, "clock": s.Clock, "at_ms": s.At.UnixMilli(),
	} {
		point.Fields[key] = value
	}
	if t := s.Transfer; t != nil {
		for key, n := range map[string]int64{"local": t.Local, "delta": t.Delta, "packed": t.Packed, "full": t.Full, "peer": t.Peer, "index": t.Index} {
			point.Fields[key+"_bytes"] = n
		}
	}
	if f := s.PeerFaults; f != nil {
		for key, n := range map[string]int64{"wrong": f.Wrong, "failed": f.Failed, "away": f.Away} {
			point.Fields["peer_"+key] = n
		}
	}
	return nil
}

func (p *pointMaker) heartbeat(raw []byte, point *influx.Point) error {
	h, err := topics.DecodeHeartbeat(raw)
	if err != nil {
		return err
	}
	point.Measurement = measurementHeartbeat
	point.Tags["version"] = p.versions.word(mainVersion(h.Versions))
	for key, value := range map[string]any{
		"mode": string(h.Mode), "agent": h.Agent, "uptime_s": h.UptimeSeconds, "charging": h.Charging,
		"check_in_ms": h.CheckInMillis, "assignment": h.Assignment, "epoch": h.Epoch, "sequence": h.Sequence, "clock": h.Clock, "at_ms": h.At.UnixMilli(),
	} {
		point.Fields[key] = value
	}
	for key, value := range map[string]*int64{"battery_pct": h.BatteryPercent, "signal_dbm": h.SignalDBm, "disk_free_bytes": h.DiskFreeBytes} {
		if value != nil {
			point.Fields[key] = *value
		}
	}
	for component, version := range h.Versions {
		if p.metrics.admits("version_" + component) {
			point.Fields["version_"+component] = version
		}
	}
	for name, value := range h.Metrics {
		if p.metrics.admits("metric_" + name) {
			point.Fields["metric_"+name] = value
		}
	}
	return nil
}

// mainVersion is the version of the component that stands for the device: the
// default one, or else the first by name.
func mainVersion(versions map[string]string) string {
	if v, ok := versions[topics.DefaultComponent]; ok {
		return v
	}
	components := make([]string, 0, len(versions))
	for c := range versions {
		components = append(components, c)
	}
	return versions[slices.Min(components)]
}

func (p *pointMaker) presence(raw []byte, point *influx.Point) error {
	b, err := topics.DecodePresence(raw)
	if err != nil {
		return err
	}
	point.Measurement = measurementPresence
	if point.Tags["model"] == "" {
		point.Tags["model"] = b.Model
	}
	for key, value := range map[string]any{
		"connected": b.Connected, "reason": b.Reason, "node": b.Node, "connection": b.Connection,
	} {
		point.Fields[key] = value
	}
	return nil
}

// refusal: reasons are the broker's own words, so that there are few.
func (p *pointMaker) refusal(raw []byte, point *influx.Point) error {
	b, err := topics.DecodeRefusal(raw)
	if err != nil {
		return err
	}
	point.Measurement = measurementRefusal
	point.Tags["reason"] = b.Reason
	point.Fields["action"] = string(b.Action)
	return nil
}
