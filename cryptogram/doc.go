// Package cryptogram is the domain: what a payment cryptogram is made of and
// what has to be computed to verify one. It is pure: it imports only the
// standard library, holds no key and reaches no device.
//
// Everything goes one way:
//
//	profile → request → plan → outcome
//
// A [Profile] is a row of a compiled table: which algorithms, over which data
// in which order, under which derived key. [SelectProfile] finds it from the
// issuer application data, or the caller names it.
//
// A [Request] is one verification as typed fields. [NewRequest] makes it from
// [CardData], which comes out of [ParseField55] or of separate values. Callers
// never concatenate, pad or derive anything.
//
// A [Plan] is what a token must do for that request: derivations and steps, as
// plain data without pointers. [BuildPlan] makes it, in the process that holds
// the keys, from the same table. Its first step compares the cryptogram; an
// ARPC step runs only if that comparison matched.
//
// An [Outcome] says for each step whether it ran, matched or produced bytes.
// Executors are hsm/pkcs11 for real and cryptogram/software for tests; both
// call [Validate] first.
//
// The scheme specifications are not public. Each row of the table says by
// which public source its facts are reported, and what no public source
// reports is in [Unsupported] instead of the table.
package cryptogram
