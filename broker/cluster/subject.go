package cluster

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"groundswell/topics"
)

// Only topics of the contract are stored, and their ids are legal subject
// tokens (letters, digits, '-' and '_'), so nothing needs escaping.

const (
	uplinkPrefix   = "uplink."
	retainedPrefix = "retained."
	retainedStream = "retained"
)

func uplinkStream(shard int) string { return "uplink-" + strconv.Itoa(shard) }

// uplinkSubject is where a device's message is stored.
func uplinkSubject(shard int, name topics.Name) string {
	return uplinkPrefix + strconv.Itoa(shard) + "." + string(name.Kind) + "." + name.ID
}

// uplinkShard reads the shard out of a subject.
func uplinkShard(subject string) (int, error) {
	rest, ok := strings.CutPrefix(subject, uplinkPrefix)
	text, _, _ := strings.Cut(rest, ".")
	shard, err := strconv.Atoi(text)
	if !ok || err != nil || shard < 0 || shard >= MaxShards {
		return 0, fmt.Errorf("subject %q is not of the uplink", subject)
	}
	return shard, nil
}

// shardOf is the shard of a device: fixed for ever, or a device's reports could
// overtake one another.
func shardOf(device string, shards int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(device)) // a hash never fails
	return int(h.Sum32() % uint32(shards))
}

// uplinkName reads a subject of an uplink stream.
func uplinkName(subject string) (topics.Name, error) {
	parts := strings.Split(subject, ".")
	if len(parts) != 4 || parts[0] != "uplink" {
		return topics.Name{}, fmt.Errorf("subject %q is not of the uplink", subject)
	}
	return checked(topics.Name{Kind: topics.Kind(parts[2]), ID: parts[3]})
}

func retainedSubject(name topics.Name) string {
	return retainedPrefix + string(name.Kind) + "." + name.ID
}

func retainedName(subject string) (topics.Name, error) {
	parts := strings.Split(subject, ".")
	if len(parts) != 3 || parts[0] != "retained" {
		return topics.Name{}, fmt.Errorf("subject %q is not of a retained message", subject)
	}
	return checked(topics.Name{Kind: topics.Kind(parts[1]), ID: parts[2]})
}

func checked(name topics.Name) (topics.Name, error) { return topics.Parse(name.String()) }

// retainedSubjects are the subjects that can hold what filter matches; the
// reader still has to match each topic.
func retainedSubjects(filter string) []string {
	var subjects []string
	for _, pattern := range []topics.Name{
		{Kind: topics.KindManifest, ID: "+"},
		{Kind: topics.KindAssignment, ID: "+"},
	} {
		if id, ok := overlap(filter, pattern.String()); ok {
			subjects = append(subjects, retainedPrefix+string(pattern.Kind)+"."+id)
		}
	}
	return subjects
}

// overlap reports whether filter can match a topic of pattern, which has one
// '+'. id is what filter has in its place, "*" for any.
func overlap(filter, pattern string) (id string, ok bool) {
	f, p := strings.Split(filter, "/"), strings.Split(pattern, "/")
	id = "*"
	for i, level := range p {
		if i < len(f) && f[i] == "#" {
			return id, true
		}
		if i >= len(f) {
			return "", false
		}
		switch {
		case level == "+" && f[i] != "+":
			if !topics.ValidID(f[i]) {
				return "", false
			}
			id = f[i]
		case level != "+" && f[i] != "+" && f[i] != level:
			return "", false
		}
	}
	return id, len(f) == len(p) || (len(f) == len(p)+1 && f[len(p)] == "#")
}
