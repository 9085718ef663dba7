// Package conformance runs files of known-answer vectors (the schema of
// testdata/vectors/README.md) against a token and says, for each failure, which
// step went wrong first. It is the proof that the derivations, cryptograms and
// response cryptograms of this product are those of the published sources, and
// a probe of a token that was never seen before.
//
// A vector of a known operation is read strictly: a field that is not in the
// operation's schema is a failure, because it could change the meaning. An
// operation or session key derivation that is not implemented is skipped and
// named. Nothing that this package prints holds a key, a PAN or a cryptogram.
package conformance
