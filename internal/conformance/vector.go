package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A vector is one known answer: the identity and the fields of its object.
type vector struct {
	id        string // as in the file, or "#n" (counted from 1) where it has none
	op        string
	uncertain bool
	in        fields
	expected  fields
	own       fields // own_computed: asserted like expected
}

// metaFields are for people, or are read for every operation alike.
func metaFields() []string {
	return []string{
		"id", "scheme", "op", "expected", "provenance", "confirmed", "own_computed", "note",
		"uncertain", "reason", "negative_origin", "reconstructed", "nonstandard_input",
		"partly_own_computation", "own_computation", "compare", "source",
	}
}

// families are the suffixes that name a key family: application cryptogram,
// secure messaging for integrity and for confidentiality.
func families() []string { return []string{"_ac", "_smi", "_smc"} }

// identify reads what is needed to name a vector and to choose its operation.
// The vector is usable for reporting even when the error is not nil.
func identify(index int, raw json.RawMessage) (vector, error) {
	v := vector{id: fmt.Sprintf("#%d", index+1), op: "-"}
	o, err := parseObject(raw)
	if err != nil {
		return v, badField("vector", "%v", err)
	}
	v.in = fields{object: o}
	id, err := v.in.text("id")
	if err != nil {
		return v, err
	}
	if id == "" {
		return v, badField("id", "empty")
	}
	v.id = quoteName(id)
	op, err := v.in.text("op")
	if err != nil {
		return v, err
	}
	v.op = quoteName(op)
	v.uncertain = marked(o["uncertain"])
	return v, nil
}

// marked reports whether an optional remark is there and does not say no.
func marked(raw json.RawMessage) bool {
	switch string(raw) {
	case "", "false", "null", `""`:
		return false
	}
	return true
}

// readExpected reads expected and own_computed. A boolean own_computed is a
// remark; it carries no value that could be asserted.
func (v *vector) readExpected() error {
	raw, ok := v.in.object["expected"]
	if !ok {
		return badField("expected", "missing")
	}
	o, err := parseObject(raw)
	if err != nil {
		return badField("expected", "%v", err)
	}
	v.expected = fields{o, "expected."}
	v.own = fields{object{}, "own_computed."}
	own, ok := v.in.object["own_computed"]
	if !ok || string(own) == "true" || string(own) == "false" {
		return nil
	}
	if o, err = parseObject(own); err != nil {
		return badField("own_computed", "%v", err)
	}
	v.own.object = o
	return nil
}

// checkFields refuses every field that the operation does not have.
func (v *vector) checkFields(op *operation) error {
	known := slices.Concat(metaFields(), op.inputs)
	for _, name := range v.in.names() {
		if !slices.Contains(known, name) && !(op.keyed && slices.Contains(keySourceFields(), baseName(name))) {
			return badField(quoteName(name), "unknown field: it could change the meaning")
		}
	}
	if marked(v.in.object["compare"]) {
		if _, err := v.in.oneOf("compare", "ignore_parity"); err != nil {
			return err
		}
	}
	asserted := 0
	for _, set := range []fields{v.expected, v.own} {
		for _, name := range set.names() {
			if !slices.Contains(op.expected, name) {
				return badField(set.prefix+quoteName(name), "unknown field: it could change the meaning")
			}
			asserted++
		}
	}
	if asserted == 0 {
		return badField("expected", "nothing to assert")
	}
	return nil
}

// baseName takes the key family off the names of keys.
func baseName(name string) string {
	for _, family := range families() {
		if base, ok := strings.CutSuffix(name, family); ok && slices.Contains(keyNames(), base) {
			return base
		}
	}
	return name
}

// sets are the objects whose values are asserted.
func (v *vector) sets() []fields { return []fields{v.expected, v.own} }
