package rauc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// keyPair is whoever signs bundles: files.
type keyPair struct{ cert, key string }

// shared is a directory that lives as long as the tests.
var shared string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "rauc")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		shared = dir
		return m.Run()
	}())
}

var owner = sync.OnceValues(func() (keyPair, error) { return newKeyPair("owner") })

func keys(t *testing.T) keyPair {
	t.Helper()
	k, err := owner()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newKeyPair(name string) (keyPair, error) {
	k := keyPair{cert: filepath.Join(shared, name+"-cert.pem"), key: filepath.Join(shared, name+"-key.pem")}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return k, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return k, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return k, err
	}
	for path, block := range map[string]*pem.Block{k.cert: {Type: "CERTIFICATE", Bytes: cert}, k.key: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			return k, err
		}
	}
	return k, nil
}

// Plain bundles need nothing of the kernel but loop devices and squashfs.
const manifest = `[update]
compatible=%s
version=%s

[bundle]
format=plain

[image.rootfs]
filename=rootfs.img
`

var bundles sync.Map // of functions that return a bundle, by version

// bundle is the bundle of a version, the same bytes each time.
func bundle(t *testing.T, version string) []byte {
	t.Helper()
	k := keys(t)
	f, _ := bundles.LoadOrStore(version, sync.OnceValues(func() ([]byte, error) { return build("camera", version, k) }))
	data, err := f.(func() ([]byte, error))()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// build has RAUC's own tool make a bundle.
func build(compatible, version string, k keyPair) ([]byte, error) {
	dir, err := os.MkdirTemp(shared, "bundle")
	if err != nil {
		return nil, err
	}
	for name, data := range map[string][]byte{"manifest.raucm": fmt.Appendf(nil, manifest, compatible, version), "rootfs.img": firmware(version)} {
		if err := os.MkdirAll(filepath.Join(dir, "content"), 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, "content", name), data, 0o600); err != nil {
			return nil, err
		}
	}
	out := filepath.Join(dir, "bundle")
	cmd := exec.Command("rauc", "--cert="+k.cert, "--key="+k.key, "bundle", filepath.Join(dir, "content"), out)
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("rauc bundle: %w: %s; %s", err, said, needs)
	}
	return os.ReadFile(out)
}
