package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"groundswell/certs/trust"
	"groundswell/internal/cli"
	"groundswell/topics"
)

type releaseCmd struct {
	Create releaseCreate `cmd:"" help:"Sign an artifact as a release and publish it."`
	List   releaseList   `cmd:"" help:"List releases."`
	Show   releaseShow   `cmd:"" help:"Show one release."`
}

var releaseTable = table[release]{
	{"RELEASE", func(r release) string { return r.Name }},
	{"VERSION", func(r release) string { return r.Version }},
	{"COMPONENT", func(r release) string { return r.Component }},
	{"SIZE", func(r release) string { return size(r.Length) }},
	{"SHA256", func(r release) string { return r.SHA256[:min(12, len(r.SHA256))] }},
	{"MODELS", func(r release) string { return strings.Join(r.Models, ",") }},
	{"HARDWARE", func(r release) string { return strings.Join(r.Hardware, ",") }},
	{"FLOOR", func(r release) string { return r.SecurityFloor }},
	{"CREATED", func(r release) string { return when(&r.CreatedAt) }},
}

type releaseList struct {
	Component string `help:"Only of this component."`
	Name      string `help:"Only of this name."`
}

func (c *releaseList) Run(ctx context.Context, io cli.Streams, g *Global) error {
	api, err := g.client()
	if err != nil {
		return err
	}
	items, err := api.list(ctx, "/v1/releases", url.Values{"component": {c.Component}, "name": {c.Name}}, 0)
	if err != nil {
		return err
	}
	return showList(g, io, items, releaseTable)
}

type releaseShow struct {
	Release string `arg:"" help:"NAME@VERSION."`
}

func (c *releaseShow) Run(ctx context.Context, io cli.Streams, g *Global) error {
	name, version, ok := strings.Cut(c.Release, "@")
	if !ok {
		return cli.UsageError("%q is not of the form NAME@VERSION", c.Release)
	}
	api, err := g.client()
	if err != nil {
		return err
	}
	a, err := api.get(ctx, "/v1/releases/"+url.PathEscape(name)+"/"+url.PathEscape(version), nil)
	if err != nil {
		return err
	}
	return show(g, io, a, releaseTable)
}

type releaseCreate struct {
	Name           string        `required:"" help:"The release's name."`
	Version        string        `required:"" help:"Semantic version."`
	Component      string        `help:"What it replaces on a device." default:"system"`
	Artifact       string        `required:"" help:"The file that devices install." type:"existingfile" placeholder:"FILE"`
	Models         []string      `name:"model" required:"" help:"Device model it is made for; may be repeated." placeholder:"MODEL"`
	Hardware       []string      `help:"Hardware revision it is made for; may be repeated. None: any." placeholder:"REVISION"`
	SecurityFloor  string        `help:"Lowest version of the component that may still be installed from now on." placeholder:"VERSION"`
	Requires       []string      `help:"COMPONENT CONSTRAINT, for instance 'modem >=2.1'; may be repeated." placeholder:"CONDITION" sep:"none"`
	Notes          string        `help:"What is new."`
	Keys           []string      `name:"key" required:"" help:"Release key; as many as the threshold asks for." type:"existingfile" placeholder:"FILE"`
	PassphraseFile string        `help:"Passphrase of encrypted keys." placeholder:"FILE"`
	Lifetime       time.Duration `help:"How long the signed list of releases is valid." default:"8760h"`
}

// Run signs here, with keys that never leave this machine. It first fetches the
// list of releases as it stands and verifies it like a device would, because
// the new list holds the old one and the signature vouches for all of it.
func (c *releaseCreate) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	var keys []*trust.Key
	for _, file := range c.Keys {
		key, err := trust.LoadKey(file, passphraseSource(c.PassphraseFile))
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		keys = append(keys, key)
	}
	image, err := c.image()
	if err != nil {
		return err
	}
	api, err := g.client()
	if err != nil {
		return err
	}
	now := time.Now()
	current, err := fetchRepository(ctx, api, g, now)
	if err != nil {
		return err
	}
	expires, err := lifetimeEnd(now, c.Lifetime)
	if err != nil {
		return err
	}
	signed, err := trust.SignTargets(trust.TargetsSpec{
		Root: current.root, Previous: current.targets, Add: []trust.ReleaseImage{image}, Expires: expires, Now: now,
	}, keys...)
	if err != nil {
		return err
	}
	// What fleetd and every device will check is checked here first.
	if _, err := trust.CheckTargets(g.TrustDomain, current.root, current.targets, signed, now); err != nil {
		return fmt.Errorf("nobody would accept this release: %w", err)
	}
	if err := upload(ctx, api, c.Artifact, image); err != nil {
		return err
	}
	a, err := api.do(ctx, request{method: http.MethodPost, path: "/v1/releases", create: true,
		body: map[string]string{"targets_b64": base64.StdEncoding.EncodeToString(signed)}})
	if err != nil {
		return err
	}
	if g.Output == "json" {
		return printJSON(streams.Out, a.raw)
	}
	var body struct {
		Created []release `json:"created"`
	}
	if err := a.decode(&body); err != nil {
		return err
	}
	return releaseTable.print(streams.Out, body.Created)
}

// image describes the artifact.
func (c *releaseCreate) image() (trust.ReleaseImage, error) {
	r := trust.Release{
		Schema: trust.ReleaseSchema, Component: c.Component, Name: c.Name, Version: c.Version, Models: c.Models,
		Hardware: c.Hardware, SecurityFloor: c.SecurityFloor, Notes: c.Notes,
	}
	for _, condition := range c.Requires {
		component, constraint, ok := strings.Cut(strings.TrimSpace(condition), " ")
		if !ok {
			return trust.ReleaseImage{}, cli.UsageError("--requires %q is not of the form 'COMPONENT CONSTRAINT'", condition)
		}
		r.Requires = append(r.Requires, trust.Requirement{Component: component, Versions: strings.TrimSpace(constraint)})
	}
	if err := r.Validate(); err != nil {
		return trust.ReleaseImage{}, err
	}
	f, err := os.Open(c.Artifact)
	if err != nil {
		return trust.ReleaseImage{}, err
	}
	defer f.Close()
	digest := sha256.New()
	n, err := io.Copy(digest, f)
	if err != nil {
		return trust.ReleaseImage{}, err
	}
	return trust.ReleaseImage{Path: trust.ReleasePath(r), Length: n, SHA256: hex.EncodeToString(digest.Sum(nil)), Release: r}, nil
}

// upload brings the artifact's bytes to fleetd, unless it has them.
func upload(ctx context.Context, api *client, file string, image trust.ReleaseImage) error {
	path := "/v1/artifacts/" + image.SHA256
	if _, err := api.get(ctx, path, nil); err == nil {
		return nil
	} else if !notFound(err) {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = api.do(ctx, request{method: http.MethodPut, path: path, body: f, length: image.Length})
	return err
}

// repository is the image repository as fleetd serves it, verified.
type repository struct {
	root    []byte // the newest
	targets []byte // nil before the first release
}

// fetchRepository follows the metadata from the trusted roots on, as a device
// does: roots in order, timestamp, snapshot, targets.
func fetchRepository(ctx context.Context, api *client, g *Global, now time.Time) (repository, error) {
	var repo repository
	if err := errors.Join(need("trust-domain", g.TrustDomain), need("image-root", g.ImageRoot), need("director-root", g.DirectorRoot)); err != nil {
		return repo, err
	}
	imageRoot, err := os.ReadFile(g.ImageRoot)
	if err != nil {
		return repo, err
	}
	directorRoot, err := os.ReadFile(g.DirectorRoot)
	if err != nil {
		return repo, err
	}
	state, err := trust.NewState(g.TrustDomain, imageRoot, directorRoot)
	if err != nil {
		return repo, err
	}
	repo.root = imageRoot
	for {
		raw, err := metadata(ctx, api, fmt.Sprintf("%d.root.json", state.RootVersion(trust.Image)+1))
		if err != nil {
			return repo, err
		}
		if raw == nil {
			break
		}
		if state, err = state.Root(trust.Image, raw); err != nil {
			return repo, fmt.Errorf("fleetd's image root: %w", err)
		}
		repo.root = raw
	}
	timestamp, err := metadata(ctx, api, "timestamp.json")
	if err != nil || timestamp == nil {
		return repo, err // no timestamp: nothing was published yet
	}
	var pin topics.SnapshotPin
	if state, pin, err = state.Timestamp(timestamp, now); err != nil {
		return repo, fmt.Errorf("fleetd's timestamp: %w", err)
	}
	snapshot, err := required(ctx, api, fmt.Sprintf("%d.snapshot.json", pin.Version))
	if err != nil {
		return repo, err
	}
	var targetsPin trust.TargetsPin
	if state, targetsPin, err = state.Snapshot(snapshot, pin, now); err != nil {
		return repo, fmt.Errorf("fleetd's snapshot: %w", err)
	}
	targets, err := required(ctx, api, fmt.Sprintf("%d.targets.json", targetsPin.Version))
	if err != nil {
		return repo, err
	}
	if _, _, err = state.Targets(targets, now); err != nil {
		return repo, fmt.Errorf("fleetd's targets: %w", err)
	}
	repo.targets = targets
	return repo, nil
}

// metadata fetches a file of the image repository; nil when there is none.
func metadata(ctx context.Context, api *client, file string) ([]byte, error) {
	a, err := api.get(ctx, "/v1/repository/image/"+file, nil)
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return a.raw, nil
}

func required(ctx context.Context, api *client, file string) ([]byte, error) {
	raw, err := metadata(ctx, api, file)
	if err == nil && raw == nil {
		err = fmt.Errorf("fleetd has no %s although its timestamp leads to it", file)
	}
	return raw, err
}
