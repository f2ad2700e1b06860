package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"groundswell/certs"
	"groundswell/certs/trust"
	"groundswell/internal/cli"
)

// RepositoryArg says which root a command is about.
type RepositoryArg struct {
	Repository string `arg:"" enum:"image,director" help:"image (who signs releases) or director (who says what is to run when)."`
}

func (r RepositoryArg) repo() trust.Repository { return trust.Repository(r.Repository) }

// file is the root that the caller trusts.
func (r RepositoryArg) file(g *Global) (string, error) {
	file, flag := g.ImageRoot, "image-root"
	if r.repo() == trust.Director {
		file, flag = g.DirectorRoot, "director-root"
	}
	return file, errors.Join(need("trust-domain", g.TrustDomain), need(flag, file))
}

// own reads and checks the root that the caller trusts.
func (r RepositoryArg) own(g *Global) ([]byte, trust.RootInfo, error) {
	file, err := r.file(g)
	if err != nil {
		return nil, trust.RootInfo{}, err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, trust.RootInfo{}, err
	}
	info, err := trust.CheckRoot(g.TrustDomain, r.repo(), raw)
	if err != nil {
		return nil, info, fmt.Errorf("%s: %w", file, err)
	}
	return raw, info, nil
}

// roleName is what a role of a repository is called on the command line.
func roleName(repo trust.Repository, role string) string {
	switch {
	case role != trust.RoleTargets:
		return role
	case repo == trust.Image:
		return "release"
	}
	return "director"
}

// rolesOf are the roles of a repository that somebody uses.
func rolesOf(repo trust.Repository) []string {
	if repo == trust.Director {
		return []string{trust.RoleRoot, trust.RoleTargets}
	}
	return []string{trust.RoleRoot, trust.RoleTargets, trust.RoleSnapshot, trust.RoleTimestamp}
}

// splitRole reads ROLE=VALUE.
func splitRole(repo trust.Repository, flag, text string) (role, value string, err error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok || value == "" {
		return "", "", cli.UsageError("--%s %q is not of the form ROLE=VALUE", flag, text)
	}
	var names []string
	for _, role := range rolesOf(repo) {
		if name == roleName(repo, role) {
			return role, value, nil
		}
		names = append(names, roleName(repo, role))
	}
	return "", "", cli.UsageError("--%s %q: the %s repository has the roles %s", flag, text, repo, strings.Join(names, ", "))
}

type keysNew struct {
	Name           string `arg:"" help:"File to make, without its ending: NAME.key and NAME.pub."`
	PassphraseFile string `help:"Encrypt the private key with the passphrase in this file." placeholder:"FILE"`
}

func (k *keysNew) Run(streams cli.Streams) error {
	private, public := k.Name+".key", k.Name+".pub"
	for _, file := range []string{private, public} {
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is there already; keys are never overwritten", file)
		}
	}
	var passphrase []byte
	if k.PassphraseFile != "" {
		text, err := passphraseSource(k.PassphraseFile)()
		if err != nil {
			return fmt.Errorf("passphrase: %w", err)
		}
		passphrase = text
	}
	key, err := trust.GenerateKey()
	if err != nil {
		return err
	}
	if err := errors.Join(key.Save(private, passphrase), key.Public().Save(public)); err != nil {
		return err
	}
	_, err = fmt.Fprintf(streams.Out, "%s: keep it off every server\n%s: key id %s, for keys rotate-root --add\n", private, public, key.ID())
	return err
}

type keysRotateRoot struct {
	RepositoryArg
	Out            string        `required:"" help:"File for the new root." placeholder:"FILE"`
	Add            []string      `help:"Give a role a key: its public file; may be repeated." placeholder:"ROLE=FILE" sep:"none"`
	Remove         []string      `help:"Take a key from a role: its public file, or its id as show-root prints it; may be repeated." placeholder:"ROLE=KEY" sep:"none"`
	Threshold      []string      `help:"How many of a role's keys must sign; may be repeated." placeholder:"ROLE=N" sep:"none"`
	Lifetime       time.Duration `help:"How long the new root is valid." default:"87600h"`
	Keys           []string      `name:"key" help:"Root key, of the old root or of the new; may be repeated. None: others sign later." type:"existingfile" placeholder:"FILE"`
	PassphraseFile string        `help:"Passphrase of encrypted keys." placeholder:"FILE"`
}

// Run asks no server. The new root follows the one that the caller trusts.
func (k *keysRotateRoot) Run(streams cli.Streams, g *Global) error {
	old, info, err := k.own(g)
	if err != nil {
		return err
	}
	if _, err := os.Stat(k.Out); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is there already: signatures in it would be lost", k.Out)
	}
	roles, err := k.roles(info)
	if err != nil {
		return err
	}
	expires, err := lifetimeEnd(time.Now(), k.Lifetime)
	if err != nil {
		return err
	}
	spec := trust.RootSpec{TrustDomain: g.TrustDomain, Repository: k.repo(), Expires: expires, Root: roles[trust.RoleRoot], Targets: roles[trust.RoleTargets]}
	if k.repo() == trust.Image {
		spec.Snapshot, spec.Timestamp = roles[trust.RoleSnapshot], roles[trust.RoleTimestamp]
	}
	keys, err := loadKeys(k.Keys, k.PassphraseFile)
	if err != nil {
		return err
	}
	raw, err := trust.RotateRoot(old, spec, keys...)
	if err != nil {
		return err
	}
	return k.writeDraft(streams.Out, g, k.Out, old, raw)
}

// roles are those of the root in force with the changes that the flags name.
func (k *keysRotateRoot) roles(now trust.RootInfo) (map[string]trust.RoleKeys, error) {
	roles := map[string]trust.RoleKeys{}
	for role, keys := range now.Roles {
		roles[role] = trust.RoleKeys{Keys: slices.Clone(keys.Keys), Threshold: keys.Threshold}
	}
	for _, text := range k.Remove {
		role, key, err := splitRole(k.repo(), "remove", text)
		if err != nil {
			return nil, err
		}
		r := roles[role]
		at, err := findKey(r.Keys, key)
		if err != nil {
			return nil, fmt.Errorf("--remove %s: %w", text, err)
		}
		r.Keys = slices.Delete(r.Keys, at, at+1)
		roles[role] = r
	}
	for _, text := range k.Add {
		role, file, err := splitRole(k.repo(), "add", text)
		if err != nil {
			return nil, err
		}
		key, err := trust.LoadPublicKey(file)
		if err != nil {
			return nil, fmt.Errorf("--add %s: %w", text, err)
		}
		r := roles[role]
		if slices.ContainsFunc(r.Keys, func(have trust.PublicKey) bool { return have.ID() == key.ID() }) {
			return nil, fmt.Errorf("--add %s: the role has that key already", text)
		}
		r.Keys = append(r.Keys, key)
		roles[role] = r
	}
	for _, text := range k.Threshold {
		role, number, err := splitRole(k.repo(), "threshold", text)
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 {
			return nil, cli.UsageError("--threshold %q: %q is not a number of keys", text, number)
		}
		r := roles[role]
		r.Threshold = n
		roles[role] = r
	}
	for _, role := range rolesOf(k.repo()) {
		if r := roles[role]; r.Threshold > len(r.Keys) {
			return nil, fmt.Errorf("%s would want %d signatures of %d keys, which nobody can give: add a key, or lower --threshold", roleName(k.repo(), role), r.Threshold, len(r.Keys))
		}
	}
	return roles, nil
}

// minKeyID is how much of a key's id names it: nobody's keys share so much by
// chance.
const minKeyID = 8

// findKey finds a key by the file of its public half or by the start of its id.
func findKey(keys []trust.PublicKey, named string) (int, error) {
	id := strings.ToLower(named)
	if key, err := trust.LoadPublicKey(named); err == nil {
		id = key.ID()
	} else if !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if len(id) < minKeyID {
		return 0, fmt.Errorf("is neither a file nor at least %d digits of a key id", minKeyID)
	}
	at := slices.IndexFunc(keys, func(k trust.PublicKey) bool { return strings.HasPrefix(k.ID(), id) })
	if at < 0 {
		return 0, errors.New("the role has no such key")
	}
	return at, nil
}

// writeDraft writes a new root and says what it changes and what it lacks.
func (r RepositoryArg) writeDraft(out io.Writer, g *Global, file string, old, raw []byte) error {
	draft, err := trust.CheckDraft(g.TrustDomain, r.repo(), old, raw)
	if err != nil {
		return err
	}
	if err := certs.WritePublicFile(file, raw); err != nil {
		return err
	}
	if g.Output == "json" {
		return printDraftJSON(out, r.repo(), draft)
	}
	printDraft(out, r.repo(), g.TrustDomain, draft)
	next := fmt.Sprintf("to be signed further: keys sign-root %s --root %s --key FILE", r.repo(), file)
	if draft.Complete() {
		next = fmt.Sprintf("signed by enough: keys publish-root %s --root %s", r.repo(), file)
	}
	_, err = fmt.Fprintf(out, "%s: %s\n", file, next)
	return err
}

// printDraft shows what a signature says yes to.
func printDraft(out io.Writer, repo trust.Repository, trustDomain string, d trust.RotationDraft) {
	fmt.Fprintf(out, "Root %d of the %s repository of %s, after root %d, valid until %s\n", d.New.Version, repo, trustDomain, d.Old.Version, d.New.Expires.Format(time.RFC3339))
	for _, role := range rolesOf(repo) {
		before, after := d.Old.Roles[role], d.New.Roles[role]
		fmt.Fprintf(out, "  %s: %d of %d keys must sign", roleName(repo, role), after.Threshold, len(after.Keys))
		if before.Threshold != after.Threshold || len(before.Keys) != len(after.Keys) {
			fmt.Fprintf(out, " (was: %d of %d)", before.Threshold, len(before.Keys))
		}
		fmt.Fprintln(out)
		for _, key := range missing(before.Keys, after.Keys) {
			fmt.Fprintf(out, "    - %s\n", key.ID())
		}
		for _, key := range missing(after.Keys, before.Keys) {
			fmt.Fprintf(out, "    + %s\n", key.ID())
		}
	}
	fmt.Fprintf(out, "Signatures by the old root's keys: %d, %d needed; by the new root's: %d, %d needed\n",
		len(d.OldSigned), d.Old.Roles[trust.RoleRoot].Threshold, len(d.NewSigned), d.New.Roles[trust.RoleRoot].Threshold)
}

// missing are the keys of a that are not in b.
func missing(a, b []trust.PublicKey) []trust.PublicKey {
	var keys []trust.PublicKey
	for _, key := range a {
		if !slices.ContainsFunc(b, func(k trust.PublicKey) bool { return k.ID() == key.ID() }) {
			keys = append(keys, key)
		}
	}
	return keys
}

// The JSON forms of roots, for -o json.
type (
	rootView struct {
		Repository string              `json:"repository"`
		Version    int64               `json:"version"`
		Expires    time.Time           `json:"expires"`
		Roles      map[string]roleView `json:"roles"`
	}
	roleView struct {
		Threshold int      `json:"threshold"`
		Keys      []string `json:"keys"` // ids
	}
	draftView struct {
		rootView
		OldSigned []string `json:"old_signed"` // ids of the keys that signed
		OldNeeded int      `json:"old_needed"`
		NewSigned []string `json:"new_signed"`
		NewNeeded int      `json:"new_needed"`
		Complete  bool     `json:"complete"`
	}
)

func ids(keys []trust.PublicKey) []string {
	out := make([]string, len(keys))
	for i, key := range keys {
		out[i] = key.ID()
	}
	return out
}

func viewRoot(repo trust.Repository, info trust.RootInfo) rootView {
	v := rootView{Repository: string(repo), Version: info.Version, Expires: info.Expires, Roles: map[string]roleView{}}
	for _, role := range rolesOf(repo) {
		v.Roles[roleName(repo, role)] = roleView{info.Roles[role].Threshold, ids(info.Roles[role].Keys)}
	}
	return v
}

func printDraftJSON(out io.Writer, repo trust.Repository, d trust.RotationDraft) error {
	raw, err := json.Marshal(draftView{
		rootView: viewRoot(repo, d.New), Complete: d.Complete(),
		OldSigned: ids(d.OldSigned), OldNeeded: d.Old.Roles[trust.RoleRoot].Threshold,
		NewSigned: ids(d.NewSigned), NewNeeded: d.New.Roles[trust.RoleRoot].Threshold,
	})
	if err != nil {
		return err
	}
	return printJSON(out, raw)
}

type keysSignRoot struct {
	RepositoryArg
	Root           string   `required:"" help:"The new root; it is replaced by one with your signatures." type:"existingfile" placeholder:"FILE"`
	Keys           []string `name:"key" help:"Root key, of the old root or of the new; may be repeated. None: only show what would be signed." type:"existingfile" placeholder:"FILE"`
	PassphraseFile string   `help:"Passphrase of encrypted keys." placeholder:"FILE"`
}

// Run asks no server. What it trusts is the signer's own root.
func (k *keysSignRoot) Run(streams cli.Streams, g *Global) error {
	old, _, err := k.own(g)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(k.Root)
	if err != nil {
		return err
	}
	if _, err := trust.CheckDraft(g.TrustDomain, k.repo(), old, raw); err != nil {
		return fmt.Errorf("%s does not follow your root: %w", k.Root, behind(err))
	}
	keys, err := loadKeys(k.Keys, k.PassphraseFile)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if raw, err = trust.AddSignature(old, raw, key); err != nil {
			return err
		}
	}
	return k.writeDraft(streams.Out, g, k.Root, old, raw)
}

// behind adds what to do about a root that is older than it should be.
func behind(err error) error {
	if errors.Is(err, trust.ErrVersionGap) {
		return fmt.Errorf("%w (yours is behind: keys fetch-root brings it up to date)", err)
	}
	return err
}

type keysPublishRoot struct {
	RepositoryArg
	Root string `required:"" help:"The new root, signed by enough." type:"existingfile" placeholder:"FILE"`
}

// Run lets fleetd check: what it takes it hands to every device. Then the new
// root takes the place of the caller's own.
func (k *keysPublishRoot) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	file, err := k.file(g)
	if err != nil {
		return err
	}
	old, before, err := k.own(g)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(k.Root)
	if err != nil {
		return err
	}
	after, err := trust.CheckRotation(g.TrustDomain, k.repo(), old, raw)
	if bytes.Equal(old, raw) { // again, after a lost answer
		after, err = before, nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", k.Root, behind(err))
	}
	api, err := g.client()
	if err != nil {
		return err
	}
	a, err := api.do(ctx, request{method: http.MethodPut, path: "/v1/repository/" + k.Repository + "/root", repeat: true,
		body: map[string]string{"root_b64": base64.StdEncoding.EncodeToString(raw)}})
	if err != nil {
		return err
	}
	if err := replaceRoot(file, before.Version, old, raw); err != nil {
		return fmt.Errorf("fleetd took root %d, but your own could not be replaced (keys fetch-root does it): %w", after.Version, err)
	}
	if g.Output == "json" {
		return printJSON(streams.Out, a.raw)
	}
	fmt.Fprintf(streams.Out, "fleetd gives out %s root %d from now on; %s is that root\n", k.Repository, after.Version, file)
	if before.Dropped(after, trust.RoleTargets) {
		if k.repo() == trust.Image {
			fmt.Fprintln(streams.Out, "A release key is gone: have the list of releases signed again by those in force, with release refresh.")
		} else {
			fmt.Fprintln(streams.Out, "A director key is gone: a fleetd that used it needs another (trust.director_key), then a restart; /readyz says so.")
		}
	}
	for _, role := range []string{trust.RoleSnapshot, trust.RoleTimestamp} {
		if k.repo() == trust.Image && before.Dropped(after, role) {
			fmt.Fprintf(streams.Out, "A %s key is gone: a fleetd that used it needs another (trust.%s_key), then a restart; /readyz says so.\n", role, role)
		}
	}
	return nil
}

// replaceRoot puts a root in the place of an older one, which stays beside it
// as NAME.VERSION.json: release sign may still need it.
func replaceRoot(file string, version int64, old, raw []byte) error {
	if bytes.Equal(old, raw) {
		return nil
	}
	ending := filepath.Ext(file)
	kept := fmt.Sprintf("%s.%d%s", strings.TrimSuffix(file, ending), version, ending)
	if err := certs.WritePublicFile(kept, old); err != nil {
		return err
	}
	return certs.WritePublicFile(file, raw)
}

type keysFetchRoot struct{ RepositoryArg }

// Run follows fleetd's roots from the caller's own one on, as a device does.
func (k *keysFetchRoot) Run(ctx context.Context, streams cli.Streams, g *Global) error {
	file, err := k.file(g)
	if err != nil {
		return err
	}
	old, before, err := k.own(g)
	if err != nil {
		return err
	}
	api, err := g.client()
	if err != nil {
		return err
	}
	raw, info := old, before
	for {
		next, err := repositoryFile(ctx, api, k.repo(), fmt.Sprintf("%d.root.json", info.Version+1))
		if err != nil {
			return err
		}
		if next == nil {
			break
		}
		if info, err = trust.CheckRotation(g.TrustDomain, k.repo(), raw, next); err != nil {
			return fmt.Errorf("fleetd's %s root is not to be trusted: %w", k.repo(), err)
		}
		raw = next
	}
	if err := replaceRoot(file, before.Version, old, raw); err != nil {
		return err
	}
	return printRoot(streams.Out, g, k.repo(), info)
}

type keysShowRoot struct {
	RepositoryArg
	Root string `help:"Another root than your own." type:"existingfile" placeholder:"FILE"`
}

func (k *keysShowRoot) Run(streams cli.Streams, g *Global) error {
	if k.Root != "" {
		if err := need("trust-domain", g.TrustDomain); err != nil {
			return err
		}
		raw, err := os.ReadFile(k.Root)
		if err != nil {
			return err
		}
		info, err := trust.CheckRoot(g.TrustDomain, k.repo(), raw)
		if err != nil {
			return err
		}
		return printRoot(streams.Out, g, k.repo(), info)
	}
	_, info, err := k.own(g)
	if err != nil {
		return err
	}
	return printRoot(streams.Out, g, k.repo(), info)
}

type rootKey struct {
	role, key, threshold string
}

func printRoot(out io.Writer, g *Global, repo trust.Repository, info trust.RootInfo) error {
	if g.Output == "json" {
		raw, err := json.Marshal(viewRoot(repo, info))
		if err != nil {
			return err
		}
		return printJSON(out, raw)
	}
	fmt.Fprintf(out, "%s root %d, valid until %s\n", repo, info.Version, info.Expires.Format(time.RFC3339))
	var rows []rootKey
	for _, role := range rolesOf(repo) {
		for _, key := range info.Roles[role].Keys {
			rows = append(rows, rootKey{roleName(repo, role), key.ID(), fmt.Sprintf("%d of %d", info.Roles[role].Threshold, len(info.Roles[role].Keys))})
		}
	}
	return table[rootKey]{
		{"ROLE", func(r rootKey) string { return r.role }},
		{"MUST SIGN", func(r rootKey) string { return r.threshold }},
		{"KEY", func(r rootKey) string { return r.key }},
	}.print(out, rows)
}
