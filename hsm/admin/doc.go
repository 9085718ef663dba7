// Package admin asks the admin role of tapseal-hsm for an act on keys or
// tokens. It holds the message types and the client that starts the process;
// the acts themselves are in hsm/pkcs11. A data worker knows none of them: an
// admin process is started for one act, answers, and ends.
//
// Only acts on development tokens exist so far: a token label must start with
// LabelPrefix, whatever module is named.
package admin
