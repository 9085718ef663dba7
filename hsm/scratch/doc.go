// Package scratch runs plans under keys that are imported for one request, in
// a token process of its own: for known-answer vectors and for tests, never
// for serving. It holds the message types and the client that starts the
// process; the PKCS#11 side is in hsm/pkcs11.
//
// Without a module the client makes a token of its own in a temporary
// directory and removes it with Close. A module that was given is never
// initialised: it needs a slot and a pin file, and only session objects are
// made in it, sensitive and not extractable, destroyed after each request.
//
// Imported test keys may have wrong parity or equal halves: the policies for
// keys in service are skipped here, and this path does not exist in a worker.
package scratch
