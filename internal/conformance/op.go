package conformance

import "slices"

// An operation is one row of the table: which fields a vector of it has, and
// how it is answered.
type operation struct {
	name     string
	inputs   []string
	keyed    bool // has a key source: keySourceFields apply as well
	expected []string
	prepare  func(v *vector) (*work, error)
}

// operations is the table of what can be run. Everything else is skipped.
func operations() []operation {
	// Intermediate keys beside the answer are asserted first.
	chained := func(answer string) []string { return []string{"icc_mk", "session_key", answer} }
	return []operation{
		{
			name: "icc_mk", keyed: true,
			expected: append(withFamilies("icc_mk"), withFamilies("kcv")...), prepare: prepareCardKey,
		},
		{
			name: "icc_mk_y", inputs: []string{"mkd", "pan", "psn", "sha1", "option_b_any_length"},
			expected: []string{"y", "sha1_input", "sha1"}, prepare: prepareDiversification,
		},
		{
			name: "session_key", keyed: true,
			expected: append(withFamilies("session_key"), withFamilies("kcv")...), prepare: prepareSessionKey,
		},
		{
			name: "ac", keyed: true, inputs: []string{"arqc_data", "padding"},
			expected: chained("ac"), prepare: prepareCryptogram,
		},
		{
			name: "ac_verify", keyed: true, inputs: []string{"arqc_data", "padding", "arqc"},
			expected: chained("valid"), prepare: prepareVerification,
		},
		{
			name: "arpc1", keyed: true, inputs: []string{"arqc", "arc"},
			expected: chained("arpc"), prepare: prepareResponse1,
		},
		{
			name: "arpc2", keyed: true, inputs: []string{"arqc", "csu", "prop_auth_data"},
			expected: chained("arpc"), prepare: prepareResponse2,
		},
		{
			name: "iad_parse", inputs: []string{"iad"}, expected: iadFields(), prepare: prepareIAD,
		},
		{
			name: "pad", inputs: []string{"data", "padding", "block_len"},
			expected: []string{"padded"}, prepare: preparePadding,
		},
	}
}

func lookupOperation(table []operation, name string) *operation {
	if i := slices.IndexFunc(table, func(op operation) bool { return op.name == name }); i >= 0 {
		return &table[i]
	}
	return nil
}

func withFamilies(name string) []string {
	names := []string{name}
	for _, suffix := range families() {
		names = append(names, name+suffix)
	}
	return names
}
