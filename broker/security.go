package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"groundswell/broker/cluster"
	"groundswell/certs"
	"groundswell/topics"
)

// security is who the broker is and whom it believes.
type security struct {
	tls     *tls.Config
	peers   *tls.Config
	crl     *certs.CRLFile // nil: no revocation list
	changed func()         // set before run
	telling chan struct{}  // holds a token when the list is to be shared
	log     *slog.Logger
}

func loadSecurity(cfg Config, log *slog.Logger) (*security, error) {
	credential, err := certs.LoadCredential(cfg.TLS.Cert, cfg.TLS.Key)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	id, err := credential.Identity()
	if err != nil {
		return nil, fmt.Errorf("tls.cert: %w", err)
	}
	if id.TrustDomain != cfg.TrustDomain {
		return nil, fmt.Errorf("tls.cert: it speaks for %q, the configuration for %q", id.TrustDomain, cfg.TrustDomain)
	}
	if id.Kind != topics.PrincipalService || id.Name != certs.ServiceBroker {
		return nil, fmt.Errorf("tls.cert: it is of %s, not of service %q: no client would believe it", id, certs.ServiceBroker)
	}
	authority, err := certs.LoadAuthority(cfg.TLS.CA)
	if err != nil {
		return nil, fmt.Errorf("tls.ca: %w", err)
	}
	s := &security{changed: func() {}, telling: make(chan struct{}, 1), log: log}
	options := certs.TLSOptions{Credential: credential, Authority: authority}
	if cfg.TLS.CRL != "" {
		s.crl, err = certs.OpenCRLFile(cfg.TLS.CRL, authority, log, func() { s.changed(); s.tell() })
		if err != nil {
			return nil, fmt.Errorf("tls.crl: %w", err)
		}
		options.Revocations = s.crl
	} else {
		log.Warn("no revocation list is configured: nobody can be revoked")
	}
	if s.tls, err = certs.ServerTLS(options); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	if s.peers, err = certs.PeerTLS(options, certs.ServiceBroker); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	return s, nil
}

// revocations is nil, not a nil *CRLFile, without a list.
func (s *security) revocations() certs.Revocations {
	if s.crl == nil {
		return nil
	}
	return s.crl
}

func (s *security) run(ctx context.Context) error {
	if s.crl == nil {
		<-ctx.Done()
		return nil
	}
	return s.crl.Run(ctx)
}

// share gives the list to the other nodes whenever it is newer than theirs, and
// takes over one of theirs that is newer, until ctx ends.
func (s *security) share(ctx context.Context, store *cluster.Cluster) {
	if s.crl == nil || !store.Clustered() {
		return
	}
	var told sync.WaitGroup
	defer told.Wait()
	told.Go(func() {
		store.WatchShared(ctx, "crl", func(list []byte) {
			older, err := s.crl.Offer(list)
			if err != nil {
				s.log.Error("the revocation list of another node is refused", "err", err)
			}
			if older {
				s.tell()
			}
		})
	})
	for {
		err := store.Share(ctx, "crl", s.crl.Bytes())
		retry := time.Duration(1<<63 - 1)
		if err != nil && ctx.Err() == nil {
			s.log.Error("the other nodes do not have this node's revocation list yet, trying again", "err", err)
			retry = time.Second
		}
		select {
		case <-ctx.Done():
			return
		case <-s.telling:
		case <-time.After(retry):
		}
	}
}

// tell has the list shared again.
func (s *security) tell() {
	select {
	case s.telling <- struct{}{}:
	default:
	}
}

// ready says when a new list was refused: it may name somebody who is still
// let in.
func (s *security) ready(context.Context) error {
	if s.crl == nil {
		return nil
	}
	return s.crl.Err()
}
