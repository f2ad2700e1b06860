// Fleetctl is the operators' command line: it makes the keys, signs and
// publishes releases, and steers cohorts, rollouts and devices through fleetd's
// REST interface. It holds no state; what it knows of the fleet it asks for.
//
// The release keys and the roots' keys are used here and only here: what goes
// to fleetd is signed metadata.
//
// Tables are for people; `-o json` prints what fleetd answered, for programs.
// Exit codes: 0 done, 1 failed, 2 used wrongly, 3 a watched rollout ended
// otherwise than hoped (or a device did not obey in time), 4 the object changed meanwhile (look again), 5 there is
// no such object.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"groundswell/internal/cli"
	"groundswell/internal/cli/tool"
	"groundswell/internal/config"
)

// Exit codes beyond cli's.
const (
	exitUnwanted = 3
	exitStale    = 4
	exitNotFound = 5
)

const description = `Operate a Groundswell fleet: keys, releases, cohorts, rollouts, devices.

Where fleetd is and who you are comes from flags, else from FLEETCTL_SERVER,
FLEETCTL_TOKEN_FILE and FLEETCTL_CA, else from a configuration file
(--config, FLEETCTL_CONFIG, ~/.config/fleetctl.yaml) with the keys server,
token_file, ca, trust_domain, image_root and director_root. "keys init" writes
such a file.

A change holds for what the command saw a moment before, or for the revision
that you name by --revision: if somebody else was faster it is refused.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a watched rollout ended otherwise
than hoped or a device did not obey in time, 4 changed meanwhile by somebody
else, 5 not found.`

// grammar is the command line as a whole.
type grammar struct {
	Global

	Keys    keysCmd    `cmd:"" help:"Make keys, certificates and tokens; rotate the roots."`
	Release releaseCmd `cmd:"" help:"Sign, publish and list releases."`
	Cohort  cohortCmd  `cmd:"" help:"Create, change and list cohorts."`
	Rollout rolloutCmd `cmd:"" help:"Create, start, watch, pause, resume, cancel and revert rollouts."`
	Device  deviceCmd  `cmd:"" help:"List, show, register, change and ask devices."`

	Alert       alertCmd       `cmd:"" aliases:"alerts" help:"List, acknowledge and clear what an operator should look at."`
	DeadLetters deadLettersCmd `cmd:"" help:"List messages of devices that could not be stored."`
	Audit       auditCmd       `cmd:"" help:"List who changed what."`
	Whoami      whoamiCmd      `cmd:"" help:"Show who fleetd takes you for."`
	// Not a flag: --version is a release's.
	Version versionCmd `cmd:"" help:"Show which build this is."`
}

// Global are the flags of every command.
type Global struct {
	Server       string `help:"fleetd's REST address, https://host:port." env:"FLEETCTL_SERVER" placeholder:"URL"`
	TokenFile    string `help:"File with your bearer token." env:"FLEETCTL_TOKEN_FILE" placeholder:"FILE"`
	CA           string `help:"CA certificates that fleetd's certificate is checked against; the system's when absent." env:"FLEETCTL_CA" placeholder:"FILE"`
	TrustDomain  string `help:"The fleet's trust domain." env:"FLEETCTL_TRUST_DOMAIN" placeholder:"NAME"`
	ImageRoot    string `help:"Trusted root of the image repository (root.json)." placeholder:"FILE"`
	DirectorRoot string `help:"Trusted root of the director repository (root.json)." placeholder:"FILE"`
	Config       string `help:"Configuration file." env:"FLEETCTL_CONFIG" placeholder:"FILE"`
	Output       string `short:"o" help:"table or json." default:"table" enum:"table,json"`
}

// fileConfig is the configuration file. Relative paths in it are relative to
// its own directory.
type fileConfig struct {
	Server       string `yaml:"server"`
	TokenFile    string `yaml:"token_file"`
	CA           string `yaml:"ca"`
	TrustDomain  string `yaml:"trust_domain"`
	ImageRoot    string `yaml:"image_root"`
	DirectorRoot string `yaml:"director_root"`
}

// AfterApply fills in what flags and environment leave open.
func (g *Global) AfterApply() error {
	path := g.Config
	if path == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return nil // no home, no file
		}
		path = filepath.Join(dir, "fleetctl.yaml")
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	var file fileConfig
	if err := config.Load(path, &file); err != nil {
		return err
	}
	fill := func(flag *string, value string, isPath bool) {
		if *flag != "" || value == "" {
			return
		}
		if isPath && !filepath.IsAbs(value) {
			value = filepath.Join(filepath.Dir(path), value)
		}
		*flag = value
	}
	fill(&g.Server, file.Server, false)
	fill(&g.TokenFile, file.TokenFile, true)
	fill(&g.CA, file.CA, true)
	fill(&g.TrustDomain, file.TrustDomain, false)
	fill(&g.ImageRoot, file.ImageRoot, true)
	fill(&g.DirectorRoot, file.DirectorRoot, true)
	return nil
}

type versionCmd struct{}

func (versionCmd) Run(io cli.Streams) error {
	_, err := fmt.Fprintln(io.Out, "fleetctl", cli.Version())
	return err
}

func program() tool.Tool {
	g := &grammar{}
	return tool.Tool{Name: "fleetctl", Description: description, Grammar: g, Bind: []any{&g.Global}}
}

func main() {
	program().Main()
}

// need is the error for a setting that a command cannot do without.
func need(flag, value string) error {
	if value == "" {
		return cli.UsageError("--%s is missing (or its entry in the configuration file)", flag)
	}
	return nil
}

// lifetimeEnd is the expiry of something made now, in whole seconds.
func lifetimeEnd(now time.Time, lifetime time.Duration) (time.Time, error) {
	if lifetime <= 0 {
		return time.Time{}, cli.UsageError("a lifetime of %v is not positive", lifetime)
	}
	return now.Add(lifetime).UTC().Truncate(time.Second), nil
}

// passphraseSource makes the callback that trust.LoadKey asks: the file's content, or a
// clear refusal.
func passphraseSource(file string) func() ([]byte, error) {
	return func() ([]byte, error) {
		if file == "" {
			return nil, fmt.Errorf("the key is encrypted: name a --passphrase-file")
		}
		text, err := config.SecretFile(file).Read()
		return []byte(text), err
	}
}
