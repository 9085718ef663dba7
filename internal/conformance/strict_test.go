package conformance

import (
	"strings"
	"testing"
)

const (
	testIMK  = "0123456789ABCDEFFEDCBA9876543210"
	testARQC = "7A788EA6B8A3E733"
)

// goodAC is the published vector ac-pyemv-visa_cvn18.
func goodAC() map[string]any {
	return map[string]any{
		"id": "t", "op": "ac", "skd": "csk", "atc": "001C", "padding": "iso9797_m2",
		"arqc_data": "0000000040000000000000000124800004800001241911050152BF45851800001C06011203A0B800",
		"imk":       testIMK, "pan": "1234567890123456", "psn": "00", "mkd": "A",
		"expected": map[string]any{"ac": testARQC},
	}
}

func goodVerify() map[string]any {
	v := goodAC()
	v["op"], v["arqc"], v["expected"] = "ac_verify", testARQC, map[string]any{"valid": true}
	return v
}

func goodARPC2() map[string]any {
	return map[string]any{
		"id": "t", "op": "arpc2", "arqc": testARQC, "csu": "00000000", "skd": "csk", "atc": "001C",
		"imk": testIMK, "pan": "1234567890123456", "psn": "00", "mkd": "A",
		"expected": map[string]any{"arpc": "9AF514C1"},
	}
}

func goodSession() map[string]any {
	return map[string]any{
		"id": "t", "op": "session_key", "skd": "csk", "atc": "001C",
		"imk": testIMK, "pan": "1234567890123456", "psn": "00", "mkd": "A",
		"expected": map[string]any{"kcv": "22C8"},
	}
}

func goodPad() map[string]any {
	return map[string]any{
		"id": "t", "op": "pad", "data": "1234", "padding": "iso9797_m1", "block_len": 8,
		"expected": map[string]any{"padded": "1234000000000000"},
	}
}

func goodY() map[string]any {
	return map[string]any{
		"id": "t", "op": "icc_mk_y", "pan": "9876543210123456789", "psn": "01", "mkd": "B",
		"expected": map[string]any{
			"y": "4020708018002609", "sha1_input": "0987654321012345678901",
			"sha1": "FBC4FDF02B0EF7F0801D8C0D02DD609D8BEAD233",
		},
	}
}

type change = map[string]any

// with sets fields; nil removes one.
func with(v, set change) change {
	for name, value := range set {
		if value == nil {
			delete(v, name)
		} else {
			v[name] = value
		}
	}
	return v
}

func TestAcceptedVariations(t *testing.T) {
	tests := map[string]change{
		"as published":        goodAC(),
		"every remark":        with(goodAC(), change{"note": "n", "reason": "r", "negative_origin": "derived", "reconstructed": true, "nonstandard_input": "x", "partly_own_computation": true, "own_computation": "y", "confirmed": true, "provenance": "p", "source": "s", "scheme": "z", "uncertain": "why"}),
		"no sequence number":  with(goodAC(), change{"psn": nil}),
		"agreeing y":          with(goodAC(), change{"y": "3456789012345600"}),
		"only y":              with(goodAC(), change{"y": "3456789012345600", "pan": nil, "psn": nil, "mkd": nil}),
		"key family":          with(goodAC(), change{"imk": nil, "imk_ac": testIMK, "imk_smi": testIMK}),
		"unused input":        with(goodAC(), change{"un": "00000000"}),
		"intermediate keys":   with(goodAC(), change{"own_computed": change{"session_key": "436B942AD637E08564B532B0EC97CB26"}}),
		"boolean remark":      with(goodAC(), change{"own_computed": true}),
		"option B, 16 digits": with(goodAC(), change{"mkd": "B"}),
		"parity":              with(goodAC(), change{"parity": "none", "sk_parity": "none", "compare": "ignore_parity"}),
		"session key":         with(goodAC(), change{"imk": nil, "pan": nil, "psn": nil, "mkd": nil, "skd": nil, "atc": nil, "session_key": "436B942AD637E08564B532B0EC97CB26"}),
		"session key, none":   with(goodAC(), change{"imk": nil, "pan": nil, "psn": nil, "mkd": nil, "skd": "none", "session_key_ac": "436B942AD637E08564B532B0EC97CB26"}),
		"method 3":            with(goodPad(), change{"padding": "iso9797_m3", "expected": change{"padded": "00000000000000101234000000000000"}}),
		"method 3, 16 bytes":  with(goodPad(), change{"padding": "iso9797_m3", "block_len": 16, "expected": change{"padded": "0000000000000000000000000000001012340000000000000000000000000000"}}),
		"method 2, 16 bytes":  with(goodPad(), change{"padding": "iso9797_m2", "block_len": 16, "expected": change{"padded": "12348000000000000000000000000000"}}),
		"method 1, empty":     with(goodPad(), change{"data": "", "expected": change{"padded": "0000000000000000"}}),
		"method 2, empty":     with(goodPad(), change{"data": "", "padding": "iso9797_m2", "expected": change{"padded": "8000000000000000"}}),
		"lower case":          with(goodAC(), change{"imk": strings.ToLower(testIMK)}),
		"no padding":          with(goodPad(), change{"padding": "none", "expected": change{"padded": "1234"}}),
		"whole check value":   with(goodSession(), change{"expected": change{"kcv": "22"}}),
		"valid":               goodVerify(),
		"short, not valid":    with(goodVerify(), change{"arqc": testARQC[:14], "expected": change{"valid": false}}),
		"long, not valid":     with(goodVerify(), change{"arqc": testARQC + "00", "expected": change{"valid": false}}),
		"empty, not valid":    with(goodVerify(), change{"arqc": "", "expected": change{"valid": false}}),
		"next bit, not valid": with(goodVerify(), change{"arqc": "7A788EA6B8A3E732", "expected": change{"valid": false}}),
		"response 2":          goodARPC2(),
		"response 2, no PAD":  with(goodARPC2(), change{"prop_auth_data": ""}),
		"option B hash":       goodY(),
		"PAN of one digit":    {"id": "t", "op": "icc_mk_y", "pan": "7", "psn": "01", "mkd": "A", "expected": change{"y": "0000000000000701"}},
		"PAN of 30 digits":    {"id": "t", "op": "icc_mk_y", "pan": "123456789012345678901234567890", "psn": "01", "mkd": "A", "expected": change{"y": "7890123456789001"}},
	}
	for name, v := range tests {
		t.Run(name, func(t *testing.T) {
			if res := runOne(t, inSoftware{}, v); res.Status != Passed {
				t.Errorf("%s %s: %s", res.Status, res.Step, res.Problem)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	tests := map[string]struct {
		vector        change
		step, problem string // problem: a part of it
	}{
		"unknown field":            {with(goodAC(), change{"iv": "00", "mystery": 1}), stepFields, "mystery: unknown field"},
		"another operation's":      {with(goodAC(), change{"arc": "3030"}), stepFields, "arc: unknown field"},
		"a key it has not":         {with(goodPad(), change{"imk": testIMK}), stepFields, "imk: unknown field"},
		"unknown expected":         {with(goodAC(), change{"expected": change{"ac": testARQC, "kcv": "00"}}), stepFields, "expected.kcv: unknown field"},
		"unknown own_computed":     {with(goodAC(), change{"own_computed": change{"x": "00"}}), stepFields, "own_computed.x: unknown field"},
		"nothing expected":         {with(goodAC(), change{"expected": change{}}), stepFields, "nothing to assert"},
		"no expected":              {with(goodAC(), change{"expected": nil}), stepFields, "expected: missing"},
		"expected is a string":     {with(goodAC(), change{"expected": testARQC}), stepFields, "expected: want a JSON object"},
		"own_computed is a string": {with(goodAC(), change{"own_computed": testARQC}), stepFields, "own_computed: want a JSON object"},
		"unknown compare":          {with(goodAC(), change{"compare": "loosely"}), stepFields, "compare: want one of"},
		"unknown parity":           {with(goodAC(), change{"parity": "even"}), stepFields, "parity: want one of"},
		"unknown mkd":              {with(goodAC(), change{"mkd": "C"}), stepFields, "mkd: want one of"},
		"unknown padding":          {with(goodAC(), change{"padding": "m2"}), stepFields, "padding: want one of"},
		"truncated key":            {with(goodAC(), change{"imk": testIMK[:30]}), stepFields, "imk: want 16 bytes, got 15"},
		"triple-length key":        {with(goodAC(), change{"imk": testIMK + testIMK[:16]}), stepFields, "imk: want 16 bytes, got 24"},
		"empty key":                {with(goodAC(), change{"imk": ""}), stepFields, "imk: want 16 bytes, got 0"},
		"odd key":                  {with(goodAC(), change{"imk": testIMK[:31]}), stepFields, "imk: odd number"},
		"not hexadecimal":          {with(goodAC(), change{"arqc_data": "0G"}), stepFields, "arqc_data: character 2"},
		"key is a number":          {with(goodAC(), change{"imk": 12}), stepFields, "imk: want a string"},
		"PAN with a letter":        {with(goodAC(), change{"pan": "12345678901234X6"}), stepFields, "pan: character 15"},
		"empty PAN":                {with(goodAC(), change{"pan": ""}), stepFields, "pan: empty"},
		"no PAN":                   {with(goodAC(), change{"pan": nil}), stepFields, "pan: missing"},
		"three-digit psn":          {with(goodAC(), change{"psn": "001"}), stepFields, "psn: want 2 digits, got 3"},
		"psn is a number":          {with(goodAC(), change{"psn": 0}), stepFields, "psn: want a string"},
		"no mkd":                   {with(goodAC(), change{"mkd": nil}), stepFields, "mkd: missing"},
		"no key":                   {with(goodAC(), change{"imk": nil}), stepFields, "no key"},
		"two keys":                 {with(goodAC(), change{"icc_mk": testIMK}), stepFields, "icc_mk: given beside imk"},
		"two families":             {with(goodSession(), change{"imk": nil, "imk_smi": testIMK, "imk_smc": testIMK}), stepFields, "several families"},
		"disagreeing y":            {with(goodAC(), change{"y": "3456789012345601"}), stepFields, "y: not the one"},
		"short y":                  {with(goodAC(), change{"y": "34567890123456"}), stepFields, "y: want 8 bytes, got 7"},
		"no skd":                   {with(goodAC(), change{"skd": nil}), stepFields, "skd: missing"},
		"session key derived":      {with(goodAC(), change{"imk": nil, "session_key": testIMK}), stepFields, "used as it is"},
		"short atc":                {with(goodAC(), change{"atc": "1C"}), stepFields, "atc: want 2 bytes, got 1"},
		"no un":                    {with(goodAC(), change{"skd": "mc_skd"}), stepFields, "un: missing"},
		"no r":                     {with(goodAC(), change{"skd": "csk_r"}), stepFields, "r: missing"},
		"no ac":                    {with(goodAC(), change{"skd": "csk_ac"}), stepFields, "ac: missing"},
		"script_index":             {with(goodAC(), change{"skd": "csk_ac", "ac": testARQC, "script_index": -1}), stepFields, "script_index: want a whole number"},
		"empty message":            {with(goodAC(), change{"arqc_data": "", "padding": "none"}), stepFields, "arqc_data: empty"},
		"half a block":             {with(goodAC(), change{"arqc_data": "0011", "padding": "none"}), stepFields, "multiple of 8"},
		"249 bytes":                {with(goodAC(), change{"arqc_data": strings.Repeat("00", 256)}), stepFields, "at most 256 bytes after padding, got 264"},
		"short expected":           {with(goodAC(), change{"expected": change{"ac": testARQC[:8]}}), stepFields, "expected.ac: want 8 bytes, got 4"},
		"short arqc of a response": {with(goodARPC2(), change{"arqc": testARQC[:14]}), stepFields, "arqc: want 8 bytes, got 7"},
		"nine bytes of PAD":        {with(goodARPC2(), change{"prop_auth_data": strings.Repeat("00", 9)}), stepFields, "prop_auth_data: want at most 8 bytes"},
		"long arpc":                {with(goodARPC2(), change{"expected": change{"arpc": testARQC}}), stepFields, "expected.arpc: want 4 bytes, got 8"},
		"empty check value":        {with(goodSession(), change{"expected": change{"kcv": ""}}), stepFields, "expected.kcv: want 1 to 8 bytes"},
		"valid is a string":        {with(goodVerify(), change{"expected": change{"valid": "yes"}}), stepFields, "want true or false"},
		"short arqc is valid":      {with(goodVerify(), change{"arqc": testARQC[:14]}), stepValue, "expected.valid"},
		"valid is not valid":       {with(goodVerify(), change{"expected": change{"valid": false}}), stepCrypto, "found the value right"},
		"block of 12":              {with(goodPad(), change{"block_len": 12}), stepFields, "block_len: want 8 or 16"},
		"no block_len":             {with(goodPad(), change{"block_len": nil}), stepFields, "block_len: missing"},
		"hash under option A":      {with(goodY(), change{"mkd": "A"}), stepFields, "nothing is hashed"},
		"other hash":               {with(goodY(), change{"sha1": strings.Repeat("00", 20)}), stepFields, "sha1: not the one"},
		"unknown IAD":              {change{"id": "t", "op": "iad_parse", "iad": "00", "expected": change{"dki": "00"}}, stepValue, "no known layout"},
		"icc_mk without imk":       {change{"id": "t", "op": "icc_mk", "icc_mk": testIMK, "expected": change{"kcv": "00"}}, stepFields, "imk: missing"},
		"icc_mk with skd":          {change{"id": "t", "op": "icc_mk", "session_key": testIMK, "expected": change{"kcv": "00"}}, stepFields, "imk: missing"},
		"no id":                    {with(goodAC(), change{"id": nil}), stepFields, "id: missing"},
		"no op":                    {with(goodAC(), change{"op": nil}), stepFields, "op: missing"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			res := runOne(t, inSoftware{}, tt.vector)
			if res.Status != Failed || res.Step != tt.step || !strings.Contains(res.Problem, tt.problem) {
				t.Errorf("%s %q %q, want failed %q with %q", res.Status, res.Step, res.Problem, tt.step, tt.problem)
			}
			for _, secret := range []string{testIMK, testARQC, "1234567890123456"} {
				if strings.Contains(res.Line(), secret) {
					t.Error("the report holds a value of the vector")
				}
			}
		})
	}
}

func TestSkippedByName(t *testing.T) {
	tests := map[string]struct {
		vector change
		skip   string
	}{
		"operation":               {change{"id": "t", "op": "cvv", "whatever": 1}, "cvv"},
		"operation nobody knows":  {change{"id": "t", "op": "frobnicate"}, "frobnicate"},
		"derivation":              {with(goodAC(), change{"skd": "visa_sm"}), "skd visa_sm"},
		"tree":                    {with(goodAC(), change{"skd": "emv2000_tree", "height": 8, "branch": 4, "iv": "00"}), "skd emv2000_tree"},
		"derivation nobody knows": {with(goodAC(), change{"skd": "aes_csk", "key_bits": 256}), "skd aes_csk"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			res := runOne(t, inSoftware{}, tt.vector)
			if res.Status != Skipped || res.Skip != tt.skip {
				t.Errorf("%s %q (%s), want skipped %q", res.Status, res.Skip, res.Problem, tt.skip)
			}
		})
	}
	// A derivation that is only not implemented has known fields.
	if res := runOne(t, inSoftware{}, with(goodAC(), change{"skd": "visa_sm", "mystery": 1})); res.Status != Failed {
		t.Errorf("unknown field of a skipped derivation: %s, want failed", res.Status)
	}
}

func TestMalformedFiles(t *testing.T) {
	tests := map[string]struct{ data, problem string }{
		"empty":           {"", "malformed JSON"},
		"not JSON":        {"vectors", "malformed JSON"},
		"a list":          {"[]", "want a JSON object"},
		"cut":             {`{"vectors": [`, "malformed JSON"},
		"cut in a string": {`{"topic": "`, "malformed JSON"},
		"no vectors":      {`{"topic": "t", "source": []}`, "vectors: missing"},
		"vectors null":    {`{"vectors": null}`, "vectors: want a list"},
		"unknown field":   {`{"vectors": [], "version": 2}`, "unknown field version"},
		"twice":           {`{"vectors": [], "vectors": []}`, "field vectors occurs twice"},
		"more after it":   {`{"vectors": []} {}`, "more data"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseFile("x.json", []byte(tt.data)); err == nil || !strings.Contains(err.Error(), tt.problem) {
				t.Errorf("error %v, want %q", err, tt.problem)
			}
		})
	}
}

func TestMalformedVectors(t *testing.T) {
	tests := map[string]struct{ vector, id, problem string }{
		"a number":         {`7`, "#1", "want a JSON object"},
		"null":             {`null`, "#1", "want a JSON object"},
		"id is a number":   {`{"id": 1, "op": "pad"}`, "#1", "id: want a string"},
		"field twice":      {`{"id": "t", "op": "pad", "op": "ac"}`, "#1", "field op occurs twice"},
		"expected twice":   {`{"id": "t", "op": "pad", "data": "", "padding": "none", "block_len": 8, "expected": {"padded": "", "padded": ""}}`, "t", "expected: field padded occurs twice"},
		"terminal control": {`{"id": "\u001b[2J", "op": "pad"}`, `"\x1b[2J"`, "expected: missing"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f, err := ParseFile("x.json", []byte(`{"vectors": [`+tt.vector+`]}`))
			if err != nil {
				t.Fatal(err)
			}
			res := runFile(t, inSoftware{}, f)[0]
			if res.Status != Failed || res.ID != tt.id || !strings.Contains(res.Problem, tt.problem) {
				t.Errorf("%s %s %q, want failed %s with %q", res.Status, res.ID, res.Problem, tt.id, tt.problem)
			}
		})
	}
}

// FuzzParseFile: whatever a file holds, it is read without a panic and every
// vector gets a fate.
func FuzzParseFile(f *testing.F) {
	for _, path := range vectorFiles(f) {
		for _, v := range vectorObjects(f, path)[:1] {
			f.Add(mustJSON(f, map[string]any{"vectors": []any{v}}))
		}
	}
	f.Add(mustJSON(f, map[string]any{"vectors": []any{goodAC(), goodVerify(), goodARPC2(), goodPad(), goodY(), goodSession()}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := ParseFile("fuzz.json", data)
		if err != nil {
			return
		}
		results := runFile(t, inSoftware{}, file)
		if len(results) != file.Len() {
			t.Fatalf("%d results for %d vectors", len(results), file.Len())
		}
		for _, res := range results {
			if res.Status == NotRun {
				t.Errorf("vector %s has no fate", res.ID)
			}
		}
	})
}
