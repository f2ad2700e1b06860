package peers

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"groundswell/agent/condition"
)

// Config is the `peers` section of the agent's configuration.
type Config struct {
	// Listen is host:port where other devices of the site fetch blocks; host may be
	// empty, port 0 takes a free one. Empty (default): the device takes no part.
	Listen string `yaml:"listen"`
	// Interfaces name the network interfaces of the LAN, such as eth0. Peers are looked
	// for on these alone, and served on these alone: those of a metered link do not
	// belong here. Needed, unless there are Static ones only.
	Interfaces []string `yaml:"interfaces"`
	// Static are peers that are not to be looked for, as address:port, where the network
	// keeps multicast from them. At most 64.
	Static []string `yaml:"static"`
	// UploadRate is how many bytes a second are given to all peers together, at least
	// 65,536 for each of MaxUploads. Default 16 MiB.
	UploadRate int64 `yaml:"upload_rate"`
	// MaxUploads is how many blocks are given at once. Default 4; at most 64.
	MaxUploads int `yaml:"max_uploads"`
	// Facts must hold while the device takes part (see conditions.facts), for instance
	// that the link is not metered. Before is not used here; Again is how long an answer
	// is good for, default 5 min.
	Facts []condition.Fact `yaml:"facts"`
}

// Default is what applies where the file is silent.
func Default() Config { return Config{UploadRate: 16 << 20, MaxUploads: 4} }

const (
	maxStatic = 64
	// minRate is in bytes a second: what an upload has to be given.
	minRate = 64 << 10
)

// Validate names the key that is wrong. It does no I/O.
func (c *Config) Validate() error {
	if c.Listen == "" {
		if len(c.Interfaces) > 0 || len(c.Static) > 0 {
			return errors.New("listen: is missing: who copies from others gives to them")
		}
		return nil
	}
	_, port, err := net.SplitHostPort(c.Listen)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("listen: %q is not of the form host:port", c.Listen)
	}
	if len(c.Interfaces) == 0 && len(c.Static) == 0 {
		return errors.New("interfaces: is missing")
	}
	for i, name := range c.Interfaces {
		// As the kernel wants it (dev_valid_name).
		if name == "" || len(name) > 15 || slices.Contains(c.Interfaces[:i], name) {
			return fmt.Errorf("interfaces[%d]: %q is not the name of an interface, or stands twice", i, name)
		}
	}
	if len(c.Static) > maxStatic {
		return fmt.Errorf("static: at most %d", maxStatic)
	}
	for i, s := range c.Static {
		if a, err := netip.ParseAddrPort(s); err != nil || a.Port() == 0 || slices.Contains(c.Static[:i], s) {
			return fmt.Errorf("static[%d]: %q is not of the form address:port, or stands twice", i, s)
		}
	}
	if c.MaxUploads < 1 || c.MaxUploads > 64 {
		return errors.New("max_uploads: must be from 1 to 64")
	}
	if c.UploadRate < minRate*int64(c.MaxUploads) {
		return fmt.Errorf("upload_rate: must be at least %d bytes a second for each of max_uploads", minRate)
	}
	if err := (&condition.Config{Facts: c.Facts}).Validate(); err != nil {
		return err
	}
	return nil
}
