// Package renewal gives devices a new certificate for the one that they have, so
// that a fleet's certificates can be short-lived, and a device that was off for
// longer than its certificate comes back without anybody's hands.
//
// A device connects with the certificate that is to be renewed. TLS has it prove
// that it holds the key, and certs.RenewalTLS lets it in if the certificate is the
// fleet's, not revoked, and expired no longer than the configured grace ago. Then
// the registry must know the device, and must not have it as decommissioned: an
// operator's label of that name, with whatever value. The new certificate is for
// the same id, model, hardware revision and key. It is in the audit trail before it
// leaves. Whatever is not certain is refused: a database that does not answer, a
// list of revocations that cannot be read.
//
//	POST /renew    200: the certificate (PEM)
//	               403: the device is unknown or decommissioned
//	               409: half of the certificate's life is not over yet
package renewal

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"groundswell/certs"
	"groundswell/fleetd/fleet"
)

// Registry decides about devices.
type Registry interface {
	// RenewDevice records that a device gets a certificate. It is fleet.ErrNotFound
	// for a device that is not known, fleet.ErrDecommissioned for one that has ended.
	RenewDevice(ctx context.Context, by fleet.Actor, id string, detail map[string]any) error
}

// Issuer makes certificates. certs.CA is one.
type Issuer interface {
	Renew(old *x509.Certificate, now time.Time, lifetime time.Duration) (*x509.Certificate, error)
}

var byItself = fleet.Actor{Name: "renewal"}

// Handler serves POST /renew behind certs.RenewalTLS. New certificates are valid
// for lifetime.
func Handler(registry Registry, issuer Issuer, lifetime time.Duration, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /renew", func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, "a certificate is required", http.StatusForbidden)
			return
		}
		old := r.TLS.PeerCertificates[0]
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		raw, err := renew(ctx, registry, issuer, old, time.Now(), lifetime)
		status := http.StatusOK
		switch {
		case err == nil:
			w.Header().Set("Content-Type", "application/x-pem-file")
			w.Header().Set("Cache-Control", "no-store")
			_, _ = w.Write(raw) // it asks again if it did not get it
			return
		case errors.Is(err, errNotDue):
			status = http.StatusConflict
		case errors.Is(err, fleet.ErrNotFound), errors.Is(err, fleet.ErrDecommissioned):
			status = http.StatusForbidden
		default:
			status = http.StatusServiceUnavailable
			log.Error("certificate not renewed", "device", old.Subject.CommonName, "err", err)
			http.Error(w, "not available", status)
			return
		}
		log.Warn("certificate not renewed", "device", old.Subject.CommonName, "err", err)
		http.Error(w, err.Error(), status)
	})
	return mux
}

var errNotDue = errors.New("half of the certificate's life is not over yet")

func renew(ctx context.Context, registry Registry, issuer Issuer, old *x509.Certificate, now time.Time, lifetime time.Duration) ([]byte, error) {
	id, err := certs.ParseIdentity(old)
	if err != nil {
		return nil, err
	}
	if !certs.Due(old, now) {
		return nil, fmt.Errorf("%w: it is valid until %s", errNotDue, old.NotAfter.UTC().Format(time.RFC3339))
	}
	next, err := issuer.Renew(old, now, lifetime)
	if err != nil {
		return nil, err
	}
	if err := registry.RenewDevice(ctx, byItself, id.Name, map[string]any{
		"serial": fmt.Sprintf("%x", next.SerialNumber), "until": next.NotAfter.UTC().Format(time.RFC3339),
		"before": fmt.Sprintf("%x", old.SerialNumber), "expired": now.After(old.NotAfter),
	}); err != nil {
		return nil, err
	}
	return certs.EncodeCertificate(next), nil
}
