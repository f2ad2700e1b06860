package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"groundswell/certs/trust"
	"groundswell/internal/cli"
	"groundswell/topics"
)

type releaseCmd struct {
	Create  releaseCreate  `cmd:"" help:"Sign an artifact as a release and publish it: for whoever holds enough keys."`
	Pack    releasePack    `cmd:"" help:"Put the artifacts of a group's members into one, which is released as the group's."`
	Prepare releasePrepare `cmd:"" help:"Lay out the next list of releases in a bundle, for others to sign."`
	Sign    releaseSign    `cmd:"" help:"Add signatures to a bundle (offline, no server, no token needed)."`
	Publish releasePublish `cmd:"" help:"Publish a bundle that enough holders have signed."`
	Refresh releaseRefresh `cmd:"" help:"Sign the list of releases again with a new expiry."`
	List    releaseList    `cmd:"" help:"List releases."`
	Show    releaseShow    `cmd:"" help:"Show one release."`
}

var releaseTable = table[release]{
	{"RELEASE", func(r release) string { return r.Name }},
	{"VERSION", func(r release) string { return r.Version }},
	{"COMPONENT", func(r release) string { return r.Component }},
	{"SIZE", func(r release) string { return size(r.Length) }},
	{"SHA256", func(r release) string { return r.SHA256[:min(12, len(r.SHA256))] }},
	{"MODELS", func(r release) string { return strings.Join(r.Models, ",") }},
	{"HARDWARE", func(r release) string { return strings.Join(r.Hardware, ",") }},
	{"BLOCKS", func(r release) string {
		if r.Index == nil {
			return "no"
		}
		return "yes"
	}},
	{"FLOOR", func(r release) string { return r.SecurityFloor }},
	{"REQUIRES", func(r release) string {
		var all []string
		for _, q := range r.Requires {
			all = append(all, q.Component+" "+q.Versions)
		}
		return strings.Join(all, ", ")
	}},
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

// Artifact is what a release is made of.
type Artifact struct {
	Name          string   `required:"" help:"The release's name."`
	Version       string   `required:"" help:"Semantic version."`
	Component     string   `help:"What it replaces on a device." default:"system"`
	File          string   `name:"artifact" required:"" help:"The file that devices install." type:"existingfile" placeholder:"FILE"`
	Models        []string `name:"model" required:"" help:"Device model it is made for; may be repeated." placeholder:"MODEL"`
	Hardware      []string `help:"Hardware revision it is made for; may be repeated. None: any." placeholder:"REVISION"`
	SecurityFloor string   `help:"Lowest version of the component that may still be installed from now on." placeholder:"VERSION"`
	Requires      []string `help:"COMPONENT CONSTRAINT, for instance 'modem >=2.1'; may be repeated." placeholder:"CONDITION" sep:"none"`
	Notes         string   `help:"What is new."`
	NoIndex       bool     `help:"Sign no block index: devices fetch the artifact as it is and check it as a whole, and there are no deltas of it."`
}

// Signers are the release keys at hand.
type Signers struct {
	Keys           []string `name:"key" required:"" help:"Release key; may be repeated." type:"existingfile" placeholder:"FILE"`
	PassphraseFile string   `help:"Passphrase of encrypted keys." placeholder:"FILE"`
}

func (s *Signers) load() ([]*trust.Key, error) { return loadKeys(s.Keys, s.PassphraseFile) }

func loadKeys(files []string, passphraseFile string) ([]*trust.Key, error) {
	var keys []*trust.Key
	for _, file := range files {
		key, err := trust.LoadKey(file, passphraseSource(passphraseFile))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Validity is how long a list of releases is valid.
type Validity struct {
	Lifetime time.Duration `help:"How long the signed list of releases is valid." default:"8760h"`
}

type releaseCreate struct {
	Artifact
	Signers
	Validity
}

// Run signs here, with keys that never leave this machine. It first fetches the
// list of releases as it stands and verifies it like a device would, because
// the new list holds the old one and the signature vouches for all of it.
func (c *releaseCreate) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	keys, err := c.load()
	if err != nil {
		return err
	}
	image, index, err := c.image(ctx)
	if err != nil {
		return err
	}
	api, err := g.client()
	if err != nil {
		return err
	}
	signed, err := signNext(ctx, api, g, c.Lifetime, []trust.ReleaseImage{image}, keys)
	if err != nil {
		return err
	}
	if err := uploadRelease(ctx, api, c.File, image, index); err != nil {
		return err
	}
	return publish(ctx, api, g, streams, signed)
}

type releaseRefresh struct {
	Validity
	Keys           []string `name:"key" help:"Release key; as many as the threshold asks for." type:"existingfile" placeholder:"FILE" xor:"how" required:""`
	Bundle         string   `help:"Instead of signing: the file to write for the signers, as release prepare does." placeholder:"FILE" xor:"how" required:""`
	PassphraseFile string   `help:"Passphrase of encrypted keys." placeholder:"FILE"`
}

// Run signs the same releases again, before their list expires or after.
func (c *releaseRefresh) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	if c.Bundle != "" {
		b, err := newBundle(ctx, g, c.Lifetime)
		if err != nil {
			return err
		}
		return b.write(c.Bundle)
	}
	keys, err := loadKeys(c.Keys, c.PassphraseFile)
	if err != nil {
		return err
	}
	api, err := g.client()
	if err != nil {
		return err
	}
	signed, err := signNext(ctx, api, g, c.Lifetime, nil, keys)
	if err != nil {
		return err
	}
	return publish(ctx, api, g, streams, signed)
}

// signNext signs the list of releases that follows the one in force, with all
// the signatures that it needs.
func signNext(ctx context.Context, api *client, g *Global, lifetime time.Duration, add []trust.ReleaseImage, keys []*trust.Key) ([]byte, error) {
	now := time.Now()
	current, err := fetchRepository(ctx, api, g, now)
	if err != nil {
		return nil, err
	}
	if len(add) == 0 && current.targets == nil {
		return nil, errors.New("there is no list of releases yet")
	}
	expires, err := lifetimeEnd(now, lifetime)
	if err != nil {
		return nil, err
	}
	signed, err := trust.SignTargets(trust.TargetsSpec{
		Root: current.root, Previous: current.targets, PreviousRoot: current.targetsRoot, Add: add, Expires: expires, Now: now,
	}, keys...)
	if err != nil {
		return nil, err
	}
	// What fleetd and every device will check is checked here first.
	if _, err := trust.CheckTargets(g.TrustDomain, current.root, current.targets, signed, now); err != nil {
		return nil, fmt.Errorf("nobody would accept this list of releases: %w", err)
	}
	return signed, nil
}

// publish brings a signed list of releases to fleetd.
func publish(ctx context.Context, api *client, g *Global, streams cli.Streams, signed []byte) error {
	a, err := api.do(ctx, request{method: http.MethodPost, path: "/v1/releases", repeat: true,
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

// image describes the artifact. index is its block index; nil: it has none.
func (c *Artifact) image(ctx context.Context) (image trust.ReleaseImage, index []byte, err error) {
	r := trust.Release{
		Schema: trust.ReleaseSchema, Component: c.Component, Name: c.Name, Version: c.Version, Models: c.Models,
		Hardware: c.Hardware, SecurityFloor: c.SecurityFloor, Notes: c.Notes,
	}
	for _, condition := range c.Requires {
		component, constraint, ok := strings.Cut(strings.TrimSpace(condition), " ")
		if !ok {
			return image, nil, cli.UsageError("--requires %q is not of the form 'COMPONENT CONSTRAINT'", condition)
		}
		r.Requires = append(r.Requires, trust.Requirement{Component: component, Versions: strings.TrimSpace(constraint)})
	}
	if err := r.Validate(); err != nil {
		return image, nil, err
	}
	n, digest, err := digestOf(c.File)
	if err != nil {
		return image, nil, err
	}
	if !c.NoIndex {
		if index, r.Index, err = blockIndex(ctx, c.File, n); err != nil {
			return image, nil, err
		}
	}
	return trust.ReleaseImage{Path: trust.ReleasePath(r), Length: n, SHA256: digest, Release: r}, index, nil
}

// repository is the image repository as fleetd serves it, verified.
type repository struct {
	root    []byte   // the newest
	roots   [][]byte // as far back as fleetd has them, oldest first; the last is root
	targets []byte   // nil before the first release
	// targetsRoot is an older root by whose keys targets is signed; nil: by
	// those of root. The release keys were changed and nothing was signed since.
	targetsRoot []byte
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
	for version := int64(1); version < state.RootVersion(trust.Image); version++ {
		// For holders whose root is older than ours; they verify the chain.
		raw, err := metadata(ctx, api, fmt.Sprintf("%d.root.json", version))
		if err != nil {
			return repo, err
		}
		if raw != nil {
			repo.roots = append(repo.roots, raw)
		}
	}
	repo.roots = append(repo.roots, imageRoot)
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
		repo.root, repo.roots = raw, append(repo.roots, raw)
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
	repo.targets = targets
	if _, _, err = state.Targets(targets, now); err == nil {
		return repo, nil
	}
	if repo.targetsRoot = signedBy(g.TrustDomain, repo, now); repo.targetsRoot != nil {
		return repo, nil
	}
	// An expired list is what a refresh is for; nothing else is excused.
	if errors.Is(err, trust.ErrExpired) {
		return repo, nil
	}
	return repo, fmt.Errorf("fleetd's targets: %w", err)
}

// signedBy is the newest of the older roots by which the targets are signed,
// nil when there is none. The snapshot that names them is of the keys in force.
func signedBy(trustDomain string, repo repository, now time.Time) []byte {
	for _, root := range slices.Backward(repo.roots[:len(repo.roots)-1]) {
		if _, err := trust.CheckTargets(trustDomain, root, nil, repo.targets, now); err == nil {
			return root
		}
	}
	return nil
}

// metadata fetches a file of the image repository; nil when there is none.
func metadata(ctx context.Context, api *client, file string) ([]byte, error) {
	return repositoryFile(ctx, api, trust.Image, file)
}

// repositoryFile fetches a file of either repository; nil when there is none.
func repositoryFile(ctx context.Context, api *client, repo trust.Repository, file string) ([]byte, error) {
	a, err := api.get(ctx, "/v1/repository/"+string(repo)+"/"+file, nil)
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
