package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"groundswell/certs"
	"groundswell/certs/token"
	"groundswell/certs/trust"
	"groundswell/fleetd/artifact"
	"groundswell/fleetd/ingest/influx"
)

// secrets is what the configuration names as files: keys, certificates,
// passwords, roots.
type secrets struct {
	databaseURL                            string
	directorKey, snapshotKey, timestampKey *trust.Key
	imageRoot, directorRoot                []byte
	tokens                                 token.Config
	apiTLS, downloadsTLS, brokerTLS        *tls.Config
	crl                                    *certs.CRLFile // nil: nobody can be revoked
	renewalTLS                             *tls.Config    // nil: certificates are not renewed here
	renewalCA                              *certs.CA
	influx                                 influx.Config
	originTLS                              *tls.Config          // nil: there is no such listener
	signatures                             *artifact.Signatures // nil: URLs need none
}

func loadSecrets(cfg Config, log *slog.Logger) (s secrets, err error) {
	if s.databaseURL, err = cfg.Database.url(); err != nil {
		return s, err
	}
	if err := s.loadTrust(cfg.Trust); err != nil {
		return s, err
	}
	if err := s.loadTokens(cfg.API.Tokens, log); err != nil {
		return s, err
	}
	if err := s.loadTLS(cfg, log); err != nil {
		return s, err
	}
	if err := s.loadSignatures(cfg.Downloads.SignedURLs); err != nil {
		return s, fmt.Errorf("downloads.signed_urls.%w", err)
	}
	return s, s.loadInflux(cfg.Influx)
}

func (s *secrets) loadTrust(t Trust) error {
	passphrase := func() ([]byte, error) {
		text, err := t.PassphraseFile.Read()
		return []byte(text), err
	}
	for _, k := range []struct {
		name, file string
		key        **trust.Key
	}{
		{"trust.director_key", t.DirectorKey, &s.directorKey},
		{"trust.snapshot_key", t.SnapshotKey, &s.snapshotKey},
		{"trust.timestamp_key", t.TimestampKey, &s.timestampKey},
	} {
		key, err := trust.LoadKey(k.file, passphrase)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		*k.key = key
	}
	for _, r := range []struct {
		name, file string
		raw        *[]byte
	}{{"trust.image_root", t.ImageRoot, &s.imageRoot}, {"trust.director_root", t.DirectorRoot, &s.directorRoot}} {
		raw, err := os.ReadFile(r.file)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		*r.raw = raw
	}
	return nil
}

func (s *secrets) loadTokens(t Tokens, log *slog.Logger) error {
	s.tokens = token.Config{Issuer: t.Issuer, Audience: t.Audience, Log: log}
	for i, file := range t.Keys {
		key, err := token.LoadPublicKey(file)
		if err != nil {
			return fmt.Errorf("api.tokens.keys[%d]: %w", i, err)
		}
		s.tokens.Keys = append(s.tokens.Keys, key)
	}
	for _, e := range t.External {
		s.tokens.External = append(s.tokens.External, token.External{
			Issuer: e.Issuer, JWKSURL: e.JWKSURL, Audience: e.Audience, RolesClaim: e.RolesClaim, Roles: e.Roles,
		})
	}
	return nil
}

// loadTLS makes the three configurations. Every certificate must be that of
// the service fleetd in the configured trust domain.
func (s *secrets) loadTLS(cfg Config, log *slog.Logger) error {
	if cfg.API.TLS.Cert != "" {
		credential, err := loadCredential(cfg, cfg.API.TLS)
		if err != nil {
			return fmt.Errorf("api.tls: %w", err)
		}
		// The authority is not asked for anything, but must be there.
		authority, err := certs.LoadAuthority(cfg.Broker.TLS.CA)
		if err != nil {
			return fmt.Errorf("broker.tls.ca: %w", err)
		}
		if s.apiTLS, err = certs.PublicServerTLS(certs.TLSOptions{Credential: credential, Authority: authority}); err != nil {
			return fmt.Errorf("api.tls: %w", err)
		}
	}
	if err := s.loadDownloadsTLS(cfg, log); err != nil {
		return fmt.Errorf("downloads.tls: %w", err)
	}
	if err := s.loadRenewal(cfg, log); err != nil {
		return fmt.Errorf("renewal: %w", err)
	}
	credential, err := loadCredential(cfg, cfg.Broker.TLS)
	if err != nil {
		return fmt.Errorf("broker.tls: %w", err)
	}
	authority, err := certs.LoadAuthority(cfg.Broker.TLS.CA)
	if err != nil {
		return fmt.Errorf("broker.tls.ca: %w", err)
	}
	s.brokerTLS, err = certs.ClientTLS(certs.TLSOptions{Credential: credential, Authority: authority}, certs.ServiceBroker)
	if err != nil {
		return fmt.Errorf("broker.tls: %w", err)
	}
	return nil
}

func (s *secrets) loadDownloadsTLS(cfg Config, log *slog.Logger) error {
	d := cfg.Downloads
	credential, err := loadCredential(cfg, d.TLS)
	if err != nil {
		return err
	}
	ca := d.TLS.CA
	if ca == "" {
		ca = cfg.Broker.TLS.CA
	}
	authority, err := certs.LoadAuthority(ca)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	options := certs.TLSOptions{Credential: credential, Authority: authority}
	if d.Origin.Listen != "" {
		if s.originTLS, err = certs.PublicServerTLS(options); err != nil {
			return err
		}
	}
	if !d.RequireDeviceCertificate {
		s.downloadsTLS, err = certs.PublicServerTLS(options)
		return err
	}
	if d.TLS.CRL == "" {
		log.Warn("no revocation list is configured for downloads: nobody can be revoked there")
	} else {
		if s.crl, err = certs.OpenCRLFile(d.TLS.CRL, authority, log, nil); err != nil {
			return fmt.Errorf("crl: %w", err)
		}
		options.Revocations = s.crl
	}
	s.downloadsTLS, err = certs.ServerTLS(options)
	return err
}

// loadSignatures reads the keys of signed URLs, if there are any.
func (s *secrets) loadSignatures(u SignedURLs) (err error) {
	if len(u.KeyFiles) == 0 {
		return nil
	}
	var keys [][]byte
	for i, file := range u.KeyFiles {
		key, err := file.Read()
		if err != nil {
			return fmt.Errorf("key_files[%d]: %w", i, err)
		}
		keys = append(keys, []byte(key))
	}
	if s.signatures, err = artifact.NewSignatures(u.Lifetime, keys...); err != nil {
		return fmt.Errorf("key_files: %w", err)
	}
	return nil
}

// loadRenewal comes after loadDownloadsTLS, whose revocation list it shares.
func (s *secrets) loadRenewal(cfg Config, log *slog.Logger) (err error) {
	if cfg.Renewal.Listen == "" {
		return nil
	}
	credential, err := loadCredential(cfg, cfg.Downloads.TLS)
	if err != nil {
		return err
	}
	authority, err := certs.LoadAuthority(cfg.Downloads.TLS.CA)
	if err != nil {
		return err
	}
	if s.crl == nil {
		if s.crl, err = certs.OpenCRLFile(cfg.Downloads.TLS.CRL, authority, log, nil); err != nil {
			return err
		}
	}
	if s.renewalCA, err = certs.LoadCA(cfg.Renewal.Cert, cfg.Renewal.Key); err != nil {
		return err
	}
	if got := s.renewalCA.TrustDomain(); got != cfg.TrustDomain {
		return fmt.Errorf("the authority is of trust domain %s, trust_domain is %s", got, cfg.TrustDomain)
	}
	if !authority.Includes(s.renewalCA) {
		return errors.New("the authority is not among those in downloads.tls.ca: its certificates would be worth nothing")
	}
	s.renewalTLS, err = certs.RenewalTLS(certs.TLSOptions{Credential: credential, Authority: authority, Revocations: s.crl}, cfg.Renewal.Grace)
	return err
}

func loadCredential(cfg Config, t TLS) (certs.Credential, error) {
	credential, err := certs.LoadCredential(t.Cert, t.Key)
	if err != nil {
		return credential, err
	}
	id, err := credential.Identity()
	if err != nil {
		return credential, err
	}
	if id.TrustDomain != cfg.TrustDomain {
		return credential, fmt.Errorf("the certificate is of trust domain %s, trust_domain is %s", id.TrustDomain, cfg.TrustDomain)
	}
	return credential, nil
}

func (s *secrets) loadInflux(i Influx) error {
	s.influx = influx.Config{URL: i.URL, Org: i.Org, Bucket: i.Bucket}
	var err error
	switch {
	case i.TokenFile != "":
		if s.influx.Token, err = i.TokenFile.Read(); err != nil {
			return fmt.Errorf("influx.token_file: %w", err)
		}
	case i.Username != "":
		password, err := i.PasswordFile.Read()
		if err != nil {
			return fmt.Errorf("influx.password_file: %w", err)
		}
		s.influx.Token = i.Username + ":" + password
	}
	if s.influx.URL != "" && s.influx.Bucket == "" {
		return errors.New("influx.bucket: is not set")
	}
	return nil
}
