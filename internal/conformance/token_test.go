package conformance

import (
	"encoding/hex"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// counts of one operation.
type counts struct{ InToken, Software, Skipped int }

// TestPublishedVectors: every published vector of an operation that we have
// passes on every token, and how many of each there are does not shrink.
func TestPublishedVectors(t *testing.T) {
	want := map[string]counts{
		"icc_mk": {InToken: 19}, "session_key": {InToken: 18, Skipped: 13}, "ac": {InToken: 22},
		"arpc1": {InToken: 14}, "arpc2": {InToken: 10},
		"icc_mk_y": {Software: 3}, "iad_parse": {Software: 5}, "pad": {Software: 5},
	}
	const others = 261 // vectors of operations that are skipped whole
	for _, token := range tokenCases() {
		t.Run(token.name, func(t *testing.T) {
			exec := startToken(t, token)
			got, skipped := map[string]counts{}, 0
			for _, path := range vectorFiles(t) {
				f, err := ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				for _, res := range runFile(t, exec, f) {
					if res.Skip == res.Op {
						skipped++
						continue
					}
					got[res.Op] = count(t, got[res.Op], res)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			if skipped != others {
				t.Errorf("%d vectors of other operations skipped, want %d", skipped, others)
			}
		})
	}
}

func count(t *testing.T, c counts, res Result) counts {
	t.Helper()
	switch {
	case res.Status == Skipped:
		c.Skipped++
	case res.Status != Passed:
		t.Error(res.Line())
	case res.InToken:
		c.InToken++
	default:
		c.Software++
	}
	return c
}

// runnable are the published vectors that are not skipped.
func runnable(t *testing.T) []map[string]any {
	t.Helper()
	var all []map[string]any
	table := operations()
	for _, path := range vectorFiles(t) {
		for _, v := range vectorObjects(t, path) {
			skd, derived := v["skd"].(string)
			if lookupOperation(table, v["op"].(string)) != nil && (!derived || isSupportedSKD(skd)) {
				all = append(all, v)
			}
		}
	}
	return all
}

// TestMutatedExpectationFails: one bit of any expected value changed, and the
// token says no and names the right step.
func TestMutatedExpectationFails(t *testing.T) {
	exec := startToken(t, tokenCases()[0])
	mutated := 0
	for _, v := range runnable(t) {
		for _, set := range []string{"expected", "own_computed"} {
			values, _ := v[set].(map[string]any)
			for name, value := range values {
				values[name] = mutate(t, name, value)
				res := runOne(t, exec, v)
				values[name] = value
				mutated++
				if want := stepOf(v["op"].(string), name); res.Status != Failed || res.Step != want {
					t.Errorf("%s with another %s.%s: %s at %q (%s), want failed at %q",
						v["id"], set, name, res.Status, res.Step, res.Problem, want)
				}
			}
		}
	}
	if mutated < len(runnable(t)) {
		t.Errorf("only %d values mutated", mutated)
	}
}

// mutate changes one bit, not a parity bit, or takes another choice.
func mutate(t *testing.T, name string, value any) any {
	t.Helper()
	switch value := value.(type) {
	case bool:
		return !value
	case float64:
		return value + 1
	case string:
		for _, choices := range [][]string{{"vsdc", "mchip4", "mchip_advance", "ccd"}, {"mastercard_skd", "emv_csk"}, {"TDES", "AES"}} {
			if i := slices.Index(choices, value); i >= 0 {
				return choices[(i+1)%len(choices)]
			}
		}
		if name == "sha1_input" {
			return value[:len(value)-1] + string('0'+(value[len(value)-1]-'0'+1)%10)
		}
		return flip(t, value, 8*(len(value)/2)-2)
	}
	t.Fatalf("value of %s has an unexpected type", name)
	return nil
}

// flip inverts one bit of a hexadecimal value, counted from the left.
func flip(t testing.TB, s string, bit int) string {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal("value is not hexadecimal")
	}
	b[bit/8] ^= 0x80 >> (bit % 8)
	return upperHex(b)
}

func stepOf(op, name string) string {
	switch {
	case op == "icc_mk":
		return stepCardKey
	case op == "session_key":
		return stepSession
	case name == "ac":
		return stepCrypto
	case name == "arpc":
		return stepResponse
	}
	return stepValue
}

// TestEveryBitOfEveryCryptogram: a published cryptogram verifies, and not with
// any one bit flipped, cut short, or made longer.
func TestEveryBitOfEveryCryptogram(t *testing.T) {
	exec := startToken(t, tokenCases()[0])
	verified := 0
	for _, v := range runnable(t) {
		if v["op"] != "ac" {
			continue
		}
		verified++
		ac := v["expected"].(map[string]any)["ac"].(string)
		v["op"] = "ac_verify"
		try := func(arqc string, valid bool) {
			v["arqc"], v["expected"] = arqc, map[string]any{"valid": valid}
			if res := runOne(t, exec, v); res.Status != Passed {
				t.Errorf("%s: %s at %q: %s", v["id"], res.Status, res.Step, res.Problem)
			}
		}
		try(ac, true)
		for bit := range 64 {
			try(flip(t, ac, bit), false)
		}
		for n := range 8 {
			try(ac[:2*n], false)
		}
		try(ac+"00", false)
	}
	if verified != 22 {
		t.Errorf("%d cryptograms verified, want 22", verified)
	}
}

// TestWrongInputsFail: what an attacker or a mistake could change around a
// cryptogram changes the answer.
func TestWrongInputsFail(t *testing.T) {
	exec := startToken(t, tokenCases()[0])
	padding := map[string]string{"iso9797_m1": "iso9797_m2", "iso9797_m2": "iso9797_m1"}
	for _, v := range runnable(t) {
		if v["op"] != "ac" {
			continue
		}
		for field, set := range map[string]change{
			"padding":   {"padding": padding[v["padding"].(string)]},
			"arqc_data": {"arqc_data": flip(t, v["arqc_data"].(string), 5)},
			"atc":       neighbour(v, "atc"),
			"r":         neighbour(v, "r"),
			"un":        neighbour(v, "un"),
			"psn":       otherPSN(v),
		} {
			if len(set) == 0 {
				continue
			}
			changed := map[string]any{}
			for name, value := range v {
				changed[name] = value
			}
			res := runOne(t, exec, with(changed, set))
			if res.Status != Failed || res.Step != stepCrypto {
				t.Errorf("%s with another %s: %s at %q", v["id"], field, res.Status, res.Step)
			}
		}
	}
}

// neighbour flips the lowest bit of an input, if the derivation uses it.
func neighbour(v map[string]any, name string) change {
	s, ok := v[name].(string)
	if !ok {
		return nil
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil
	}
	b[len(b)-1] ^= 1
	return change{name: upperHex(b)}
}

// otherPSN omits a sequence number that is not 00, or gives 01 for 00.
func otherPSN(v map[string]any) change {
	switch v["psn"] {
	case nil:
		return nil
	case "00":
		return change{"psn": "01"}
	}
	return change{"psn": nil}
}
