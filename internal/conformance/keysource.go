package conformance

import (
	"encoding/binary"
	"slices"

	"github.com/tapseal/tapseal/cryptogram"
)

// keyNames are the fields that hold a key. Each may carry the suffix of a key
// family.
func keyNames() []string { return []string{"imk", "icc_mk", "session_key"} }

// keySourceFields are the inputs of a key source and of every session key
// derivation in the schema, whether or not it is implemented here.
func keySourceFields() []string {
	return append(keyNames(), "pan", "psn", "mkd", "y", "option_b_any_length", "parity", "sk_parity",
		"skd", "atc", "un", "r", "ac", "script_index", "height", "branch", "iv")
}

// A keyChain is the way from the key that is imported to the key that
// computes: at most a card key and a session key derivation. Inputs are public
// data; only root is a key.
type keyChain struct {
	root       [16]byte
	rootIsCard bool // root is a card key, not an issuer or session key
	// steps are the derivation inputs, in order, and what each makes.
	steps []keyStep
}

// keyStep is one derivation and the name of the step that proves it.
type keyStep struct {
	name  string
	input [16]byte
}

// Names of steps, in the order in which a fault is looked for.
const (
	stepFields   = "fields"
	stepToken    = "token"
	stepImport   = "imported key check value"
	stepCardKey  = "card key check value"
	stepSession  = "session key check value"
	stepMACInput = "padded MAC input"
	stepCrypto   = "cryptogram"
	stepResponse = "response cryptogram"
	stepValue    = "value"
)

// skipped is the error of a vector that needs something not implemented.
type skipped struct{ name string }

func (s *skipped) Error() string { return "not implemented: " + s.name }

// isSupportedSKD lists the session key derivations implemented here.
func isSupportedSKD(skd string) bool {
	return slices.Contains([]string{"none", "csk", "csk_r", "csk_ac", "mc_skd", "pboc"}, skd)
}

// family finds the suffix under which a vector gives its key. With more than
// one family the application cryptogram's is meant, and only where the
// operation is about application cryptograms.
func (v *vector) family(prefer string) (string, error) {
	var found []string
	for _, suffix := range append([]string{""}, families()...) {
		for _, key := range keyNames() {
			if v.in.has(key + suffix) {
				found = append(found, suffix)
				break
			}
		}
	}
	switch {
	case len(found) == 0:
		return "", badField("imk", "no key: want session_key, icc_mk or imk")
	case len(found) == 1, found[0] == "":
		return found[0], nil
	case slices.Contains(found, prefer) && prefer != "":
		return prefer, nil
	}
	return "", badField("imk", "keys of several families: it is not clear which one is meant")
}

// readChain reads the key source and the session key derivation.
func (v *vector) readChain(withSession bool, prefer string) (*keyChain, error) {
	if err := v.checkParity(); err != nil {
		return nil, err
	}
	family, err := v.family(prefer)
	if err != nil {
		return nil, err
	}
	chain := &keyChain{}
	source, err := v.keyName(family)
	if err != nil {
		return nil, err
	}
	if err := v.in.fixed(source+family, chain.root[:]); err != nil {
		return nil, err
	}
	chain.rootIsCard = source == "icc_mk"
	if source == "imk" {
		y, err := v.diversification()
		if err != nil {
			return nil, err
		}
		chain.steps = append(chain.steps, keyStep{stepCardKey, cryptogram.WithInverse(y)})
	}
	if !withSession {
		return chain, nil
	}
	return chain, v.addSession(chain, source)
}

// keyName says which of the three keys is given. Two would be two answers.
func (v *vector) keyName(family string) (string, error) {
	name := ""
	for _, key := range keyNames() {
		if !v.in.has(key + family) {
			continue
		}
		if name != "" {
			return "", badField(key+family, "given beside %s: it is not clear which one is meant", name+family)
		}
		name = key
	}
	return name, nil
}

func (v *vector) checkParity() error {
	for _, name := range []string{"parity", "sk_parity"} {
		if v.in.has(name) {
			if _, err := v.in.oneOf(name, "odd", "none"); err != nil {
				return err
			}
		}
	}
	return nil
}

// addSession appends the session key derivation that skd names.
func (v *vector) addSession(chain *keyChain, source string) error {
	skd := ""
	if v.in.has("skd") {
		var err error
		if skd, err = v.in.text("skd"); err != nil {
			return err
		}
	}
	if source == "session_key" {
		if skd != "" && skd != "none" {
			return badField("skd", "a session key is used as it is")
		}
		return nil
	}
	var input [16]byte
	switch skd {
	case "":
		return badField("skd", "missing")
	case "none":
		return nil
	case "pboc", "mc_skd", "csk":
		in, err := v.counterInput(skd)
		if err != nil {
			return err
		}
		input = in
	case "csk_r", "csk_ac":
		r, err := v.diversifier(skd)
		if err != nil {
			return err
		}
		input = cryptogram.CommonSessionKeyInput(r)
	default:
		return &skipped{"skd " + quoteName(skd)}
	}
	chain.steps = append(chain.steps, keyStep{stepSession, input})
	return nil
}

// counterInput is the derivation input of the methods that start from the
// transaction counter.
func (v *vector) counterInput(skd string) ([16]byte, error) {
	var atc [2]byte
	var un [4]byte
	if err := v.in.fixed("atc", atc[:]); err != nil {
		return [16]byte{}, err
	}
	method := cryptogram.SessionKeyEMVCommon
	switch skd {
	case "mc_skd":
		method = cryptogram.SessionKeyMastercard
		if err := v.in.fixed("un", un[:]); err != nil {
			return [16]byte{}, err
		}
	case "pboc":
		method = cryptogram.SessionKeyPBOC
	}
	in, derived := cryptogram.SessionKeyInput(method, atc, un)
	if !derived {
		return in, badField("skd", "no derivation for this method")
	}
	return in, nil
}

// diversifier is R of the common session key: as given, or the application
// cryptogram plus the number of the script command (64-bit addition).
func (v *vector) diversifier(skd string) ([8]byte, error) {
	var r [8]byte
	if skd == "csk_r" {
		return r, v.in.fixed("r", r[:])
	}
	if err := v.in.fixed("ac", r[:]); err != nil {
		return r, err
	}
	if !v.in.has("script_index") {
		return r, nil
	}
	n, err := v.in.number("script_index")
	if err != nil {
		return r, err
	}
	binary.BigEndian.PutUint64(r[:], binary.BigEndian.Uint64(r[:])+n)
	return r, nil
}
