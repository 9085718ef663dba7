package conformance

import (
	"bytes"
	"strings"

	"github.com/tapseal/tapseal/cryptogram"
)

// prepareCardKey: the card key by its check value, in the token.
func prepareCardKey(v *vector) (*work, error) {
	chain, err := v.readChain(false, "")
	if err != nil {
		return nil, err
	}
	if len(chain.steps) != 1 {
		return nil, badField("imk", "missing")
	}
	return keyWork(v, chain, "icc_mk", stepCardKey)
}

// prepareSessionKey: the session key by its check value, in the token.
func prepareSessionKey(v *vector) (*work, error) {
	chain, err := v.readChain(true, "")
	if err != nil {
		return nil, err
	}
	return keyWork(v, chain, "session_key", stepSession)
}

func keyWork(v *vector, chain *keyChain, name, step string) (*work, error) {
	w := &work{chain: chain}
	family, err := v.family("")
	if err != nil {
		return nil, err
	}
	for _, f := range v.sets() {
		for _, field := range f.names() {
			if field != name && field != "kcv" && field != name+family && field != "kcv"+family {
				return nil, badField(f.prefix+field, "of another key family than the key")
			}
			read := w.compareKey
			if strings.HasPrefix(field, "kcv") {
				read = w.compareCheckValue
			}
			if err := read(f, field, step, len(chain.steps)); err != nil {
				return nil, err
			}
		}
	}
	return w, nil
}

// cardKeyAt is the number of derivations after which the chain is at the card
// key, if it passes one.
func (c *keyChain) cardKeyAt() (int, bool) {
	switch {
	case len(c.steps) > 0 && c.steps[0].name == stepCardKey:
		return 1, true
	case c.rootIsCard:
		return 0, true
	}
	return 0, false
}

// prepareDiversification: the derivation input, no key, in software.
func prepareDiversification(v *vector) (*work, error) {
	mkd, err := v.in.oneOf("mkd", "A", "B")
	if err != nil {
		return nil, err
	}
	var d division
	if v.in.has("pan") {
		if d, err = v.readDigits(); err != nil {
			return nil, err
		}
	} else if v.in.has("psn") {
		return nil, badField("pan", "missing")
	}
	if v.in.has("sha1") {
		if d, err = v.fromHash(d, mkd); err != nil {
			return nil, err
		}
	} else if !v.in.has("pan") {
		return nil, badField("pan", "missing, and no sha1 in its place")
	}
	return diversificationWork(v, d)
}

// fromHash starts from a given hash. Beside a PAN it must be the PAN's.
func (v *vector) fromHash(d division, mkd string) (division, error) {
	var hash [20]byte
	if err := v.in.fixed("sha1", hash[:]); err != nil {
		return d, err
	}
	if mkd != "B" {
		return d, badField("sha1", "option A has no hash")
	}
	if v.in.has("pan") {
		if !d.hashed || d.hash != hash {
			return d, badField("sha1", "not the one that pan and psn give")
		}
		return d, nil
	}
	return division{y: cryptogram.DecimaliseHash(hash), hashed: true, hash: hash}, nil
}

func diversificationWork(v *vector, d division) (*work, error) {
	w := &work{}
	for _, f := range v.sets() {
		for _, field := range f.names() {
			if field != "y" && !d.hashed {
				return nil, badField(f.prefix+field, "nothing is hashed for this PAN length and option")
			}
			if field == "sha1_input" {
				if d.digits == "" {
					return nil, badField(f.prefix+field, "only the hash is given")
				}
				digits, err := f.digits(field)
				if err != nil {
					return nil, err
				}
				w.assert(f.prefix+field, digits == d.digits)
				continue
			}
			got := d.y[:]
			if field == "sha1" {
				got = d.hash[:]
			}
			want, err := f.bytes(field)
			if err != nil {
				return nil, err
			}
			w.assert(f.prefix+field, bytes.Equal(want, got))
		}
	}
	return w, nil
}
