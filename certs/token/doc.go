// Package token is how operators prove who they are to the API: JSON Web
// Tokens, and the only place that knows them.
//
// Two kinds of issuers are believed. The platform's own signs with Ed25519
// keys (Issuer); the Verifier knows the public halves by file, several at a
// time so that a key can be replaced. An external one (single sign-on)
// publishes its keys as a JWKS, which Verifier.Run keeps fresh. The token's
// "iss" decides which issuer's keys may verify it and which algorithms may be
// used: EdDSA for the own, EdDSA, ES256 or RS256 for an external one. Nothing
// that a token says about itself widens that; "none" and the symmetric
// algorithms do not exist here.
//
// Every token must carry key id, issuer, audience, subject and expiry. A
// principal has one role, and a higher role includes the lower ones. Every
// refusal has its sentinel; a caller answers all of them with 401 and logs the
// reason.
//
// When an external issuer cannot be reached, its keys as last fetched stay in
// use, and tokens by keys not seen before are refused. When it has never been
// reached, all its tokens are refused (ErrUnavailable); the own issuer does not
// depend on it.
package token
