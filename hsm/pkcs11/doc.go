// Package pkcs11 executes plans inside a PKCS#11 token. It is the only package
// with cgo and the only one that imports miekg/pkcs11, which it uses for the
// module, sessions, objects and templates; plan.c does what that cannot
// express: a whole chunk of plans in one crossing into C.
//
// Three roles live here, each in a process of its own: the data worker's Token
// (Open), which makes, imports, wraps and destroys no key; the admin role
// (ServeAdmin), started for one act; and the scratch role (ServeScratch), for
// known-answer vectors.
//
// A Token is one epoch: handles, proofs and the login end with it. When the
// module says that the login or a session is gone, the token is dead and the
// process must be replaced: handles of a module that was initialised again can
// name other keys, with CKR_OK.
package pkcs11
