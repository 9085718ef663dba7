package cryptogram_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vector is a published known answer; fields as in the files. Those that
// these tests do not use are left out.
type vector struct {
	ID         string            `json:"id"`
	Op         string            `json:"op"`
	ARQCData   string            `json:"arqc_data"`
	Padding    string            `json:"padding"`
	IMK        string            `json:"imk"`
	ICCMK      string            `json:"icc_mk"`
	SessionKey string            `json:"session_key"`
	PAN        string            `json:"pan"`
	PSN        string            `json:"psn"`
	MKD        string            `json:"mkd"`
	SKD        string            `json:"skd"`
	ATC        string            `json:"atc"`
	UN         string            `json:"un"`
	R          string            `json:"r"`
	AC         string            `json:"ac"`
	ScriptN    int               `json:"script_index"`
	ARQC       string            `json:"arqc"`
	ARC        string            `json:"arc"`
	CSU        string            `json:"csu"`
	PAD        string            `json:"prop_auth_data"`
	IAD        string            `json:"iad"`
	Key        string            `json:"key"`
	Cipher     string            `json:"cipher"`
	Data       string            `json:"data"`
	BlockLen   int               `json:"block_len"`
	Method     string            `json:"method"`
	SHA1       string            `json:"sha1"`
	Own        map[string]string `json:"own_computed"`
	Provenance string            `json:"provenance"`
	Confirmed  bool              `json:"confirmed"`
	Expected   map[string]any    `json:"expected"`
}

// want is an expected string, empty if the vector does not have it.
func (v *vector) want(name string) string {
	s, _ := v.Expected[name].(string)
	return s
}

func loadVectors(t testing.TB, files ...string) map[string]vector {
	t.Helper()
	all := map[string]vector{}
	for _, name := range files {
		b, err := os.ReadFile(filepath.Join("..", "testdata", "vectors", name))
		if err != nil {
			t.Fatalf("reading vectors: %v", err)
		}
		var file struct {
			Vectors []vector `json:"vectors"`
		}
		if err := json.Unmarshal(b, &file); err != nil {
			t.Fatalf("parsing %s: %v", name, err)
		}
		for _, v := range file.Vectors {
			if _, dup := all[v.ID]; dup {
				t.Fatalf("vector %s: two of that id", v.ID)
			}
			all[v.ID] = v
		}
	}
	return all
}

func mustVector(t testing.TB, all map[string]vector, id string) vector {
	t.Helper()
	v, ok := all[id]
	if !ok {
		t.Fatalf("vector %s: not in testdata/vectors", id)
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatalf("hexadecimal in test data: %v", err)
	}
	return b
}

// sameKey compares keys without their parity bits, which no DES result
// depends on and which sources show before or after adjustment.
func sameKey(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i]|1 != b[i]|1 {
			return false
		}
	}
	return true
}

// hasCheckValue compares a check value with the prefix that a source prints.
func hasCheckValue(key []byte, want string) bool {
	got := strings.ToUpper(hex.EncodeToString(naiveDES3(key, make([]byte, 8))))
	return want != "" && strings.HasPrefix(got, want)
}
