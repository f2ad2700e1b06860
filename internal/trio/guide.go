package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"groundswell/topics"
)

// guide says what to do with the nodes.
func guide(dir string, nodes []*node) string {
	at := func(name string) string { return filepath.Join(dir, name) }
	client := func(program, who string, n *node) string {
		host, port, _ := strings.Cut(n.mqtt, ":")
		return fmt.Sprintf("%s -V mqttv5 -h %s -p %s --insecure --cafile %s \\\n    --cert %s --key %s -q 1",
			program, host, port, at("ca.crt"), at(who+".crt"), at(who+".key"))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nThree nodes are one broker. Certificates, logs and data: %s\n\n", dir)
	for _, n := range nodes {
		fmt.Fprintf(&b, "  %s   mqtts://%s   http://%s/readyz and /metrics   pid %d\n", n.name, n.mqtt, n.ops, n.process.PID())
	}
	fmt.Fprintf(&b, `
With Debian's mosquitto-clients, for instance (the certificates name services, not
hosts, hence --insecure: it skips only the comparison of the host's name):

  # take what devices report, on the last node, as fleetd does
  %s \
    -i fleetd-try -t '%s'

  # report something, on the first node, as a device
  %s \
    -i %s -t %s -m hello

Kill a node, and see it come back:

  kill -9 %d
  %s --config %s

Ctrl-C stops those that this program started; the next start finds what they hold.
To begin anew, remove the directory.
`, client("mosquitto_sub", "fleetd", nodes[2]), topics.Share(topics.GroupRegistry, topics.Uplink),
		client("mosquitto_pub", device, nodes[0]), device, topics.DeviceStatus(device),
		nodes[1].process.PID(), nodes[1].spec.Path, at(nodes[1].name+".yaml"))
	return b.String()
}
