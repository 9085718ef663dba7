// Package keys is what the deployment owns and in which state: key sets and
// their versions (the manifest, read by tapseal-hsm) and the assignment of
// issuers and BIN ranges to schemes, profiles and keys (read by tapseald).
//
// No key material passes through this package. A key is an id, a life-cycle
// state, and the values that prove a token holds the right one.
package keys
