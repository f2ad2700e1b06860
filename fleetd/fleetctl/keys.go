package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"groundswell/certs"
	"groundswell/certs/trust"
	"groundswell/internal/cli"
	"groundswell/internal/config"
)

type keysCmd struct {
	Init     keysInit     `cmd:"" help:"Make every key of a new fleet: CA, image and director roots, release keys, fleetd's keys, token key (offline)."`
	Device   keysDevice   `cmd:"" help:"Issue a device's certificate."`
	Service  keysService  `cmd:"" help:"Issue the certificate of a broker or fleetd."`
	Operator keysOperator `cmd:"" help:"Issue an operator's certificate."`
	Token    keysToken    `cmd:"" help:"Issue a bearer token for the REST interface."`
	Revoke   keysRevoke   `cmd:"" help:"Put a certificate on the revocation list."`

	New         keysNew         `cmd:"" help:"Make one more root, release, director, snapshot or timestamp key (offline)."`
	ShowRoot    keysShowRoot    `cmd:"" help:"Show which keys a root names and how many must sign (offline)."`
	RotateRoot  keysRotateRoot  `cmd:"" help:"Make the root that follows yours: other keys, thresholds, expiry (offline)."`
	SignRoot    keysSignRoot    `cmd:"" help:"Show what a new root changes and add signatures to it (offline)."`
	PublishRoot keysPublishRoot `cmd:"" help:"Bring a new root that enough holders have signed to fleetd, and so to every device."`
	FetchRoot   keysFetchRoot   `cmd:"" help:"Bring your own root up to date with fleetd's, verified step by step."`
}

// The layout of a key directory. What lies in offline belongs into a safe,
// online goes to fleetd's machine, public to everybody.
const (
	offlineDir = "offline"
	onlineDir  = "online"
	publicDir  = "public"
)

type keysInit struct {
	Dir              string        `required:"" help:"Directory to make; it must not hold keys yet." placeholder:"DIR"`
	ReleaseKeys      int           `help:"How many release keys to make." default:"2"`
	ReleaseThreshold int           `help:"How many of them must sign a release." default:"2"`
	RootKeys         int           `help:"How many root keys to make, for each repository." default:"1"`
	RootThreshold    int           `help:"How many of them must sign a root." default:"1"`
	DirectorKeys     int           `help:"How many director keys to make: one for each fleetd." default:"1"`
	Lifetime         time.Duration `help:"How long CA and roots are valid." default:"87600h"`
	PassphraseFile   string        `help:"Encrypt the offline keys with the passphrase in this file." placeholder:"FILE"`
}

func (k *keysInit) Run(_ context.Context, io cli.Streams, g *Global) error {
	if err := need("trust-domain", g.TrustDomain); err != nil {
		return err
	}
	var passphrase []byte
	if k.PassphraseFile != "" {
		text, err := config.SecretFile(k.PassphraseFile).Read()
		if err != nil {
			return fmt.Errorf("passphrase: %w", err)
		}
		passphrase = []byte(text)
	}
	if _, err := os.Stat(filepath.Join(k.Dir, offlineDir)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s holds keys already; they are never overwritten", k.Dir)
	}
	for dir, mode := range map[string]fs.FileMode{offlineDir: 0o700, onlineDir: 0o700, publicDir: 0o755} {
		if err := os.MkdirAll(filepath.Join(k.Dir, dir), mode); err != nil {
			return err
		}
	}
	now := time.Now()
	expires, err := lifetimeEnd(now, k.Lifetime)
	if err != nil {
		return err
	}
	if err := k.authority(g.TrustDomain, now); err != nil {
		return err
	}
	if err := k.roots(g.TrustDomain, expires, passphrase); err != nil {
		return err
	}
	if err := makeTokenKey(k.path(offlineDir, "token.key"), k.path(publicDir, "token.pub")); err != nil {
		return err
	}
	text := fmt.Sprintf("# For fleetctl: --config, or FLEETCTL_CONFIG. Add server and token_file.\ntrust_domain: %s\nca: %s\nimage_root: %s\ndirector_root: %s\n",
		g.TrustDomain, filepath.Join(publicDir, "ca.crt"), filepath.Join(publicDir, "image-root.json"), filepath.Join(publicDir, "director-root.json"))
	if err := certs.WritePublicFile(filepath.Join(k.Dir, "fleetctl.yaml"), []byte(text)); err != nil {
		return err
	}
	fmt.Fprintf(io.Out, `Made the keys of %s in %s:
  %s   CA, root, release and token keys: keep them off every server
  %s    director, snapshot and timestamp key: for fleetd's machine
  %s    what everybody may know: CA, roots, revocation list, public keys
  %s  settings for fleetctl
`, g.TrustDomain, k.Dir, offlineDir, onlineDir, publicDir, "fleetctl.yaml")
	return nil
}

func (k *keysInit) path(elem ...string) string {
	return filepath.Join(append([]string{k.Dir}, elem...)...)
}

// authority makes the CA and an empty revocation list.
func (k *keysInit) authority(trustDomain string, now time.Time) error {
	ca, err := certs.NewCA(trustDomain, now, k.Lifetime)
	if err != nil {
		return err
	}
	if err := ca.Save(k.path(publicDir, "ca.crt"), k.path(offlineDir, "ca.key")); err != nil {
		return err
	}
	crl, err := ca.SignCRL(1, nil, now, now.Add(k.Lifetime))
	if err != nil {
		return err
	}
	return certs.WritePublicFile(k.path(publicDir, "crl.pem"), crl)
}

// roots makes the two repositories' roots and every key that they name.
func (k *keysInit) roots(trustDomain string, expires time.Time, passphrase []byte) error {
	make := func(dir, name string, n, threshold int, passphrase []byte) (trust.RoleKeys, []*trust.Key, error) {
		role := trust.RoleKeys{Threshold: threshold}
		var private []*trust.Key
		for i := range n {
			file := name
			if n > 1 {
				file = fmt.Sprintf("%s-%d", name, i+1)
			}
			key, err := trust.GenerateKey()
			if err != nil {
				return role, nil, err
			}
			if err := key.Save(k.path(dir, file+".key"), passphrase); err != nil {
				return role, nil, err
			}
			if err := key.Public().Save(k.path(publicDir, file+".pub")); err != nil {
				return role, nil, err
			}
			role.Keys, private = append(role.Keys, key.Public()), append(private, key)
		}
		return role, private, nil
	}
	imageRoot, imageRootKeys, err1 := make(offlineDir, "image-root", k.RootKeys, k.RootThreshold, passphrase)
	directorRoot, directorRootKeys, err2 := make(offlineDir, "director-root", k.RootKeys, k.RootThreshold, passphrase)
	release, _, err3 := make(offlineDir, "release", k.ReleaseKeys, k.ReleaseThreshold, passphrase)
	director, _, err4 := make(onlineDir, "director", k.DirectorKeys, 1, nil)
	snapshot, _, err5 := make(onlineDir, "snapshot", 1, 1, nil)
	timestamp, _, err6 := make(onlineDir, "timestamp", 1, 1, nil)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return err
	}
	image, err := trust.InitRoot(trust.RootSpec{
		TrustDomain: trustDomain, Repository: trust.Image, Expires: expires,
		Root: imageRoot, Targets: release, Snapshot: snapshot, Timestamp: timestamp,
	}, imageRootKeys...)
	if err != nil {
		return err
	}
	if err := certs.WritePublicFile(k.path(publicDir, "image-root.json"), image); err != nil {
		return err
	}
	dir, err := trust.InitRoot(trust.RootSpec{
		TrustDomain: trustDomain, Repository: trust.Director, Expires: expires,
		Root: directorRoot, Targets: director,
	}, directorRootKeys...)
	if err != nil {
		return err
	}
	return certs.WritePublicFile(k.path(publicDir, "director-root.json"), dir)
}

// Issuer is where certificates come from.
type Issuer struct {
	Dir      string        `required:"" help:"Key directory made by keys init." placeholder:"DIR"`
	Out      string        `required:"" help:"Directory for the certificate and its key." placeholder:"DIR"`
	Lifetime time.Duration `help:"How long the certificate is valid." default:"8760h"`
}

func (i *Issuer) ca() (*certs.CA, error) {
	return certs.LoadCA(filepath.Join(i.Dir, publicDir, "ca.crt"), filepath.Join(i.Dir, offlineDir, "ca.key"))
}

// save writes NAME.crt and NAME.key.
func (i *Issuer) save(io cli.Streams, name string, c certs.Credential, err error) error {
	if err != nil {
		return err
	}
	if err := os.MkdirAll(i.Out, 0o755); err != nil {
		return err
	}
	cert, key := filepath.Join(i.Out, name+".crt"), filepath.Join(i.Out, name+".key")
	if err := c.Save(cert, key); err != nil {
		return err
	}
	id, err := c.Identity()
	if err != nil {
		return err
	}
	fmt.Fprintf(io.Out, "%s: %s, %s (until %s)\n", id, cert, key, c.Certificate.NotAfter.UTC().Format(time.RFC3339))
	return nil
}

type keysDevice struct {
	Issuer
	ID       string `arg:"" help:"Device id."`
	Model    string `required:"" help:"Device model."`
	Hardware string `required:"" help:"Hardware revision."`
}

func (k *keysDevice) Run(io cli.Streams) error {
	ca, err := k.ca()
	if err != nil {
		return err
	}
	c, err := ca.IssueDevice(k.ID, k.Model, k.Hardware, k.Lifetime)
	return k.save(io, k.ID, c, err)
}

type keysService struct {
	Issuer
	Name  string   `arg:"" help:"broker or fleetd."`
	Hosts []string `name:"host" help:"DNS name or IP address by which it is reached; may be repeated." placeholder:"HOST"`
}

func (k *keysService) Run(io cli.Streams) error {
	ca, err := k.ca()
	if err != nil {
		return err
	}
	c, err := ca.IssueService(k.Name, k.Hosts, k.Lifetime)
	return k.save(io, k.Name, c, err)
}

type keysOperator struct {
	Issuer
	Name string `arg:"" help:"The operator's name."`
}

func (k *keysOperator) Run(io cli.Streams) error {
	ca, err := k.ca()
	if err != nil {
		return err
	}
	c, err := ca.IssueOperator(k.Name, k.Lifetime)
	return k.save(io, k.Name, c, err)
}

type keysRevoke struct {
	Dir  string   `required:"" help:"Key directory made by keys init." placeholder:"DIR"`
	Cert []string `arg:"" optional:"" help:"Certificate files."`
	// Serial is for certificates that fleetd has renewed: nobody else has their files.
	Serial []string      `help:"Serial number of a certificate in hex, as the audit trail names it; may be repeated." placeholder:"HEX"`
	Next   time.Duration `help:"When the following list is due." default:"8760h"`
}

func (k *keysRevoke) Run(io cli.Streams) error {
	issuer := Issuer{Dir: k.Dir}
	ca, err := issuer.ca()
	if err != nil {
		return err
	}
	path := filepath.Join(k.Dir, publicDir, "crl.pem")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	old, err := certs.ParseCRL(data, ca.Authority())
	if err != nil {
		return err
	}
	now := time.Now()
	entries := old.Entries()
	if len(k.Cert)+len(k.Serial) == 0 {
		return errors.New("neither a certificate file nor --serial is given")
	}
	revoke := func(serial *big.Int) {
		for _, e := range entries {
			if e.Serial.Cmp(serial) == 0 {
				return
			}
		}
		entries = append(entries, certs.Revocation{Serial: serial, At: now})
	}
	for _, file := range k.Cert {
		cert, err := readCertificate(file)
		if err != nil {
			return err
		}
		revoke(cert.SerialNumber)
	}
	for i, text := range k.Serial {
		serial, ok := new(big.Int).SetString(text, 16)
		if !ok || serial.Sign() <= 0 {
			return fmt.Errorf("--serial %q: number %d is not a serial number in hex", text, i+1)
		}
		revoke(serial)
	}
	raw, err := ca.SignCRL(old.Number().Int64()+1, entries, now, now.Add(k.Next))
	if err != nil {
		return err
	}
	if err := certs.WritePublicFile(path, raw); err != nil {
		return err
	}
	fmt.Fprintf(io.Out, "%s names %d certificates; hand it to every broker and fleetd\n", path, len(entries))
	return nil
}
