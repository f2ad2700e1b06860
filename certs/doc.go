// Package certs is the X.509 identity of every party: who may talk, and as
// whom.
//
// The parties. One certificate authority per trust domain (CA) issues leaf
// certificates to devices, services (broker, fleetd) and operators. Who a
// certificate speaks for is its one URI SAN, a SPIFFE id:
//
//	spiffe://<trust domain>/device/<id>
//	spiffe://<trust domain>/service/<name>
//	spiffe://<trust domain>/operator/<name>
//
// A device's certificate also says what the device is: its model (subject
// organizational unit) and its hardware revision (subject serial number). The
// registry, selectors and compatibility checks believe these, never what a
// device says about itself.
//
// The guarantees. ParseIdentity refuses everything that the CA would not have
// written. Of a certificate request only the key is taken, so a device cannot
// ask to be another. Connections are TLS 1.3 with both sides authenticated;
// a client accepts a server for its SPIFFE id and its chain, not for its host
// name, because brokers come and go behind names and addresses that nobody
// controls. Every check also runs on resumed sessions. Revocation is a CRL
// that is reloaded while running (CRLFile).
//
// On failure everything is refused, with a sentinel that says why. One thing
// fails open on purpose: a CRL past its next update is still enforced but does
// not lock the fleet out (CRL.Stale reports it).
//
// Private keys are files of mode 0600; a key that group or world can read is
// refused (ErrPermissions), and no type here prints one.
package certs
