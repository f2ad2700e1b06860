package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"groundswell/certs"
	"groundswell/certs/trust"
	"groundswell/internal/cli"
)

const bundleSchema = 1

// bundle carries the next list of releases from who prepares it to those who
// sign it, each on a machine without a network, and on to who publishes it. It
// holds no secret, and nothing in it is believed: a signer builds the list
// again from the parts and compares.
type bundle struct {
	Schema int `json:"schema"`
	// Roots lead from a root that the signer holds to the one in force, oldest
	// first.
	Roots [][]byte `json:"roots_b64"`
	// Previous is the list in force; absent before the first release.
	Previous []byte `json:"previous_b64,omitempty"`
	// PreviousRoot is the one by which Previous is signed; absent: the root in
	// force.
	PreviousRoot []byte      `json:"previous_root_b64,omitempty"`
	Add          []bundleAdd `json:"add,omitempty"` // absent: only a new expiry
	Expires      time.Time   `json:"expires"`
	// Targets is the list with the signatures that it has so far.
	Targets []byte `json:"targets_b64"`
}

type bundleAdd struct {
	Release trust.Release `json:"release"`
	Length  int64         `json:"length"` // bytes
	SHA256  string        `json:"sha256"`
	File    string        `json:"file"` // where it lay when the bundle was prepared
}

func (a bundleAdd) image() trust.ReleaseImage {
	return trust.ReleaseImage{Path: trust.ReleasePath(a.Release), Length: a.Length, SHA256: a.SHA256, Release: a.Release}
}

func readBundle(file string) (*bundle, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	b := &bundle{}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields() // what a signer does not know it cannot show
	if err := dec.Decode(b); err != nil {
		return nil, fmt.Errorf("%s is no bundle: %w", file, err)
	}
	if b.Schema != bundleSchema || len(b.Roots) == 0 {
		return nil, fmt.Errorf("%s is no bundle of schema %d with a root", file, bundleSchema)
	}
	return b, nil
}

func (b *bundle) write(file string) error {
	data, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	return certs.WritePublicFile(file, append(data, '\n'))
}

// list builds the unsigned list from the parts, under the given root.
func (b *bundle) list(root []byte, now time.Time) ([]byte, error) {
	spec := trust.TargetsSpec{Root: root, Previous: b.Previous, PreviousRoot: b.PreviousRoot, Expires: b.Expires, Now: now}
	for _, a := range b.Add {
		spec.Add = append(spec.Add, a.image())
	}
	return trust.SignTargets(spec)
}

// root follows the bundle's roots from the signer's own to the one in force.
func (b *bundle) root(trustDomain string, own []byte) ([]byte, trust.RootInfo, error) {
	info, err := trust.CheckRoot(trustDomain, trust.Image, own)
	if err != nil {
		return nil, info, fmt.Errorf("your image root: %w", err)
	}
	force, followed := own, b.PreviousRoot == nil || bytes.Equal(b.PreviousRoot, own)
	for _, raw := range b.Roots {
		next, err := trust.CheckRoot(trustDomain, trust.Image, raw)
		if err != nil {
			return nil, info, fmt.Errorf("the bundle's roots: %w", err)
		}
		if next.Version <= info.Version {
			continue // older than what is trusted
		}
		if info, err = trust.CheckRotation(trustDomain, trust.Image, force, raw); err != nil {
			return nil, info, fmt.Errorf("the bundle's roots: %w", err)
		}
		force, followed = raw, followed || bytes.Equal(b.PreviousRoot, raw)
	}
	switch {
	case !bytes.Equal(force, b.Roots[len(b.Roots)-1]):
		return nil, info, fmt.Errorf("the bundle was made for an older or another image root than yours, which has version %d", info.Version)
	case !followed:
		return nil, info, errors.New("the list in force is signed under a root older than yours: give that one as --image-root")
	}
	return force, info, nil
}

// envelope is what is looked at of signed metadata to compare and to count.
// Verifying is certs/trust's.
type envelope struct {
	Signed     json.RawMessage `json:"signed"`
	Signatures []struct {
		KeyID string `json:"keyid"`
	} `json:"signatures"`
}

// same reports whether two lists differ in nothing but signatures.
func same(a, b []byte) (signatures int, err error) {
	var left, right envelope
	if err := errors.Join(json.Unmarshal(a, &left), json.Unmarshal(b, &right)); err != nil {
		return 0, err
	}
	if !bytes.Equal(left.Signed, right.Signed) {
		return 0, errors.New("the bundle's list is not what its parts say: do not sign it")
	}
	return len(right.Signatures), nil
}

// newBundle lays out what is to follow the list in force.
func newBundle(ctx context.Context, g *Global, lifetime time.Duration, add ...bundleAdd) (*bundle, error) {
	api, err := g.client()
	if err != nil {
		return nil, err
	}
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
	b := &bundle{Schema: bundleSchema, Roots: current.roots, Previous: current.targets, PreviousRoot: current.targetsRoot, Add: add, Expires: expires}
	b.Targets, err = b.list(current.root, now)
	return b, err
}

type releasePrepare struct {
	Artifact
	Validity
	Bundle string `required:"" help:"File to write for the signers." placeholder:"FILE"`
}

func (c *releasePrepare) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	image, _, err := c.image(ctx)
	if err != nil {
		return err
	}
	file, err := filepath.Abs(c.File)
	if err != nil {
		return err
	}
	b, err := newBundle(ctx, g, c.Lifetime, bundleAdd{Release: image.Release, Length: image.Length, SHA256: image.SHA256, File: file})
	if err != nil {
		return err
	}
	if err := b.write(c.Bundle); err != nil {
		return err
	}
	_, err = fmt.Fprintf(streams.Out, "%s: to be signed by release sign\n", c.Bundle)
	return err
}

type releaseSign struct {
	Bundle         string   `required:"" help:"The bundle; it is replaced by one with your signatures." type:"existingfile" placeholder:"FILE"`
	Keys           []string `name:"key" help:"Release key; may be repeated. None: only show what would be signed." type:"existingfile" placeholder:"FILE"`
	PassphraseFile string   `help:"Passphrase of encrypted keys." placeholder:"FILE"`
	Artifacts      []string `name:"artifact" help:"A file that must be among what is added; may be repeated." type:"existingfile" placeholder:"FILE"`
}

// Run asks no server. What it trusts is the signer's own image root.
func (c *releaseSign) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	if err := errors.Join(need("trust-domain", g.TrustDomain), need("image-root", g.ImageRoot)); err != nil {
		return err
	}
	own, err := os.ReadFile(g.ImageRoot)
	if err != nil {
		return err
	}
	b, err := readBundle(c.Bundle)
	if err != nil {
		return err
	}
	root, info, err := b.root(g.TrustDomain, own)
	if err != nil {
		return err
	}
	list, err := b.list(root, time.Now())
	if err != nil {
		return err
	}
	signatures, err := same(list, b.Targets)
	if err != nil {
		return err
	}
	if err := b.holds(ctx, c.Artifacts); err != nil {
		return err
	}
	if err := b.print(streams.Out, g.TrustDomain, info.Version, list); err != nil {
		return err
	}
	keys, err := loadKeys(c.Keys, c.PassphraseFile)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if b.Targets, err = trust.AddSignature(root, b.Targets, key); err != nil {
			return err
		}
		signatures++
	}
	if len(keys) > 0 {
		if err := b.write(c.Bundle); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(streams.Out, "%d signatures, %d needed\n", signatures, info.Roles[trust.RoleTargets].Threshold)
	return err
}

// holds checks that files are among what the bundle adds, and that what it adds as their
// block indexes is theirs.
func (b *bundle) holds(ctx context.Context, files []string) error {
	added := map[string]bundleAdd{}
	for _, a := range b.Add {
		added[a.SHA256] = a
	}
	for _, file := range files {
		_, digest, err := digestOf(file)
		if err != nil {
			return err
		}
		a, is := added[digest]
		if !is {
			return fmt.Errorf("%s (sha256 %s) is not what the bundle releases", file, digest)
		}
		if a.Release.Index == nil {
			continue
		}
		_, made, err := blockIndex(ctx, file, a.Length)
		if err != nil {
			return err
		}
		if *made != *a.Release.Index {
			return fmt.Errorf("%s: the bundle's block index is not that of the file: do not sign it", file)
		}
	}
	return nil
}

// print shows what a signature says yes to.
func (b *bundle) print(out io.Writer, trustDomain string, root int64, list []byte) error {
	var signed struct {
		Signed struct {
			Version int64                      `json:"version"`
			Expires time.Time                  `json:"expires"`
			Targets map[string]json.RawMessage `json:"targets"`
		} `json:"signed"`
	}
	if err := json.Unmarshal(list, &signed); err != nil {
		return err
	}
	s := signed.Signed
	fmt.Fprintf(out, "List of releases %d of %s, under root %d, valid until %s\n", s.Version, trustDomain, root, s.Expires.Format(time.RFC3339))
	fmt.Fprintf(out, "  keeps %d releases as they are\n", len(s.Targets)-len(b.Add))
	for _, a := range b.Add {
		r := a.Release
		fmt.Fprintf(out, "  adds %s %s (component %s)\n    %d bytes, sha256 %s\n    models %s, hardware %s\n", clean(r.Name), r.Version, r.Component,
			a.Length, a.SHA256, strings.Join(r.Models, ","), firstOf(strings.Join(r.Hardware, ","), "any"))
		if r.Index != nil {
			fmt.Fprintf(out, "    block index of %d bytes, sha256 %s\n", r.Index.Length, r.Index.SHA256)
		}
		if r.SecurityFloor != "" {
			fmt.Fprintf(out, "    from now on nothing below %s may be installed\n", r.SecurityFloor)
		}
		for _, q := range r.Requires {
			fmt.Fprintf(out, "    requires %s %s\n", q.Component, q.Versions)
		}
		if r.Notes != "" {
			fmt.Fprintf(out, "    notes: %s\n", clean(r.Notes))
		}
	}
	return nil
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// digestOf reads a file's length in bytes and its SHA-256 in hex.
func digestOf(file string) (int64, string, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	digest := sha256.New()
	n, err := io.Copy(digest, f)
	return n, hex.EncodeToString(digest.Sum(nil)), err
}

type releasePublish struct {
	Bundle    string   `required:"" help:"The bundle." type:"existingfile" placeholder:"FILE"`
	Artifacts []string `name:"artifact" help:"Where the bytes are, if no longer where the bundle was prepared; may be repeated." type:"existingfile" placeholder:"FILE"`
}

// Run leaves it to fleetd to count the signatures: it does so anyway.
func (c *releasePublish) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	b, err := readBundle(c.Bundle)
	if err != nil {
		return err
	}
	if err := b.holds(ctx, c.Artifacts); err != nil {
		return err
	}
	moved := map[string]string{}
	for _, file := range c.Artifacts {
		_, digest, err := digestOf(file)
		if err != nil {
			return err
		}
		moved[digest] = file
	}
	api, err := g.client()
	if err != nil {
		return err
	}
	for _, a := range b.Add {
		if err := uploadRelease(ctx, api, firstOf(moved[a.SHA256], a.File), a.image(), nil); err != nil {
			return err
		}
	}
	return publish(ctx, api, g, streams, b.Targets)
}
