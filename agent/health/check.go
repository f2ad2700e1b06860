package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"groundswell/agent/child"
	"groundswell/agent/telemetry"

	"golang.org/x/sys/unix"
)

// Check is one thing that must hold. Of the fields from HTTP to Metric, one is set; that
// is its kind.
type Check struct {
	// Name tells it from others of its kind, in reports. May be empty.
	Name string `yaml:"name"`
	// HTTP is a URL that answers 200. In it and in TCP, "{addr}" stands for the address
	// that the component was given.
	HTTP string `yaml:"http"`
	// TCP is a host:port that takes a connection.
	TCP string `yaml:"tcp"`
	// Exec is a command, with its arguments, that ends with exit status 0.
	Exec []string `yaml:"exec"`
	// Unit is a unit of systemd that is active.
	Unit string `yaml:"unit"`
	// Disk is a directory on whose file system at least FreeMB (10^6 bytes) are free.
	Disk   string `yaml:"disk"`
	FreeMB int64  `yaml:"free_mb"`
	// Broker: a device that cannot report is not well, because nobody could bring it
	// the next version. The broker must have been heard since the boot, and not longer
	// ago than Offline, which is for connections that break off now and then, and at
	// least the keep-alive. Default 5 min.
	Broker  bool          `yaml:"broker"`
	Offline time.Duration `yaml:"offline"`
	// Metric is a command, with its arguments, that prints a number. It must be at least
	// MinPercent and at most MaxPercent (0: no such bound) of what it was before the
	// update, give or take Slack. What could not be measured then is not compared.
	Metric     []string `yaml:"metric"`
	MinPercent int      `yaml:"min_percent"`
	MaxPercent int      `yaml:"max_percent"`
	Slack      float64  `yaml:"slack"`
}

// The kinds, as they stand in reasons after "health-".
const (
	kindHTTP   = "http"
	kindTCP    = "tcp"
	kindExec   = "exec"
	kindUnit   = "unit"
	kindDisk   = "disk"
	kindBroker = "broker"
	kindMetric = "metric"
	kindAgent  = "agent" // Config.Own
)

// kinds are those that are set.
func (c *Check) kinds() (kinds []string) {
	for _, k := range []struct {
		kind string
		set  bool
	}{
		{kindHTTP, c.HTTP != ""}, {kindTCP, c.TCP != ""}, {kindExec, len(c.Exec) > 0},
		{kindUnit, c.Unit != ""}, {kindDisk, c.Disk != ""}, {kindBroker, c.Broker},
		{kindMetric, len(c.Metric) > 0},
	} {
		if k.set {
			kinds = append(kinds, k.kind)
		}
	}
	return kinds
}

// Validate names the key that is wrong. A check that could never hold would have every
// release rolled back.
func (c *Check) Validate() error {
	kinds := c.kinds()
	if len(kinds) != 1 {
		return fmt.Errorf("one of http, tcp, exec, unit, disk, broker and metric must be set, here are %d", len(kinds))
	}
	if (c.FreeMB != 0) != (c.Disk != "") || c.FreeMB < 0 {
		return errors.New("free_mb: must be above 0, with disk and only there")
	}
	if c.Offline < 0 || c.Offline > 0 && !c.Broker {
		return errors.New("offline: must be above 0, and only with broker")
	}
	if err := c.validateMetric(); err != nil {
		return err
	}
	switch kinds[0] {
	case kindHTTP:
		return CheckURL("http", c.HTTP)
	case kindTCP:
		if _, port, err := net.SplitHostPort(strings.ReplaceAll(c.TCP, "{addr}", "127.0.0.1:80")); err != nil || port == "" {
			return fmt.Errorf("tcp: %q is not of the form host:port", c.TCP)
		}
	case kindExec:
		if !filepath.IsAbs(c.Exec[0]) {
			return fmt.Errorf("exec: %q must be an absolute path", c.Exec[0])
		}
	case kindDisk:
		if !filepath.IsAbs(c.Disk) {
			return fmt.Errorf("disk: %q must be an absolute path", c.Disk)
		}
	}
	return nil
}

// CheckURL refuses what cannot be asked.
func CheckURL(key, address string) error {
	u, err := url.Parse(strings.ReplaceAll(address, "{addr}", "127.0.0.1:80"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%s: %q is not an http or https URL", key, address)
	}
	return nil
}

// DefaultOffline is Check.Offline where it is 0.
const DefaultOffline = 5 * time.Minute

// problem is why a check does not hold.
type problem struct {
	kind string
	err  error
}

// examiner asks the checks.
type examiner struct {
	client *http.Client
	checks []Check
	before map[string]float64 // metrics, by name
	own    func() error
	// hung are the answers that are still to come of checks that nothing can end, such as
	// of a disk that hangs; nil for the others.
	hung []chan error
}

func newExaminer(cfg Config) *examiner {
	e := &examiner{checks: cfg.Checks, own: cfg.Own, before: cfg.Before, client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		// Each check is a connection of its own: a kept one would say that the
		// process before the crash is well.
		Transport: &http.Transport{DisableKeepAlives: true},
	}}
	if cfg.URL != "" {
		e.checks = append([]Check{{HTTP: cfg.URL}}, e.checks...)
	}
	return e
}

// ask asks all checks at once, and returns the first, in their order, that does not
// hold; nil if all do.
func (e *examiner) ask(ctx context.Context, timeout time.Duration, c Component) *problem {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if e.hung == nil {
		e.hung = make([]chan error, len(e.checks))
	}
	answers := make([]chan error, len(e.checks))
	for i, check := range e.checks {
		if answers[i] = e.hung[i]; answers[i] != nil && len(answers[i]) == 0 {
			continue // asking again would only be one more that hangs
		}
		answers[i] = make(chan error, 1)
		go func() { answers[i] <- e.askOne(ctx, check, c) }()
	}
	var first *problem
	for i, check := range e.checks {
		var err error
		late := false
		select {
		case err = <-answers[i]:
		case <-ctx.Done():
			// An answer that came in the same moment was in time.
			select {
			case err = <-answers[i]:
			case <-time.After(2 * time.Second): // those that can be ended were, and say why
				err, late = ctx.Err(), true
			}
		}
		if e.hung[i] = nil; late {
			e.hung[i] = answers[i]
		}
		if err != nil && first == nil {
			if check.Name != "" {
				err = fmt.Errorf("%s: %w", check.Name, err)
			}
			first = &problem{check.kinds()[0], err}
		}
	}
	if first == nil && e.own != nil {
		if err := e.own(); err != nil {
			first = &problem{kindAgent, err}
		}
	}
	return first
}

func (e *examiner) askOne(ctx context.Context, check Check, c Component) error {
	at := func(address string) string { return strings.ReplaceAll(address, "{addr}", c.Addr) }
	switch {
	case check.HTTP != "":
		return ask(ctx, e.client, at(check.HTTP))
	case check.TCP != "":
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", at(check.TCP))
		if err != nil {
			return err
		}
		return conn.Close()
	case len(check.Exec) > 0:
		return execute(ctx, check.Exec, c)
	case check.Unit != "":
		return execute(ctx, []string{"systemctl", "is-active", "--", check.Unit}, c)
	case check.Disk != "":
		return room(check.Disk, check.FreeMB)
	case len(check.Metric) > 0:
		return e.compare(ctx, check, c)
	default:
		return heard(c, check.Offline)
	}
}

// maxPrinted is how much of what a command prints stands in a report, its end.
const maxPrinted = 200

func execute(ctx context.Context, command []string, c Component) error {
	_, err := output(ctx, command, c)
	return err
}

// output is the end of what a command prints that ends well.
func output(ctx context.Context, command []string, c Component) (string, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "FIRMWARE_ADDR=" + c.Addr, "FIRMWARE_BOOT_ID=" + c.BootID}
	out := telemetry.NewTail(maxPrinted)
	cmd.Stdout, cmd.Stderr = out, out
	err := child.Run(cmd)
	if err == nil {
		return out.String(), nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return "", fmt.Errorf("%s: %w: %s", filepath.Base(command[0]), err, strings.TrimSpace(out.String()))
}

// statfs is for tests to have a disk that hangs.
var statfs = unix.Statfs

func room(dir string, megabytes int64) error {
	var s unix.Statfs_t
	if err := statfs(dir, &s); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if free := int64(s.Bavail) * int64(s.Bsize) / 1e6; free < megabytes {
		return fmt.Errorf("%s: %d MB are free, %d are wanted", dir, free, megabytes)
	}
	return nil
}

func heard(c Component, offline time.Duration) error {
	if offline == 0 {
		offline = DefaultOffline
	}
	switch {
	case !c.Heard:
		return errors.New("not heard since the boot")
	case c.HeardAgo > offline:
		return fmt.Errorf("heard %v ago, at most %v is allowed", c.HeardAgo.Round(time.Second), offline)
	}
	return nil
}
