package worker

import (
	"errors"
	"strings"
	"testing"

	"github.com/tapseal/tapseal/keys"
)

// proofs is a token that holds the keys it does not name.
type proofs map[keys.ID]error

func (p proofs) Prove(id keys.ID) error { return p[id] }

// A worker starts with one good issuer key, and only with all subject keys that
// are in force.
func TestWhatIsProvedAtTheStart(t *testing.T) {
	version := func(id byte, number uint32, s keys.State) keys.Version {
		return keys.Version{Number: number, ID: keys.ID{id}, State: s}
	}
	m := &keys.Manifest{Sets: []keys.Set{
		{Use: keys.UseIssuerAC, Versions: []keys.Version{version(1, 1, keys.Active), version(2, 2, keys.Active)}},
		{Use: keys.UseSubjectHash, Versions: []keys.Version{
			version(3, 1, keys.Active), version(4, 2, keys.Active), version(5, 3, keys.PreActive),
		}},
	}}
	for _, tc := range []struct {
		name string
		bad  []byte
		want string // in the error; empty: it starts
	}{
		{"all good", nil, ""},
		{"one issuer key", []byte{1}, ""},
		{"no issuer key", []byte{1, 2}, "proving the active keys"},
		{"the previous subject key", []byte{3}, "proving the subject keys"},
		{"the current subject key", []byte{4}, "proving the subject keys"},
		{"one that is not in force", []byte{5}, ""},
	} {
		token := proofs{}
		for _, id := range tc.bad {
			token[keys.ID{id}] = ErrKeyUnproven
		}
		ready, err := proveOne(token, m)
		if tc.want == "" {
			if err != nil || ready.Proved[:1] != "0" {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		var failure *Failure
		if !errors.As(err, &failure) || failure.Kind != FailureKeys || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	m.Sets = m.Sets[1:]
	if _, err := proveOne(proofs{}, m); err == nil {
		t.Error("a subject key alone serves nobody")
	}
}
