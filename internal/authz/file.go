package authz

import (
	"fmt"
	"regexp"

	"go.yaml.in/yaml/v3"
)

// MaxPolicyBytes bounds a policy file.
const MaxPolicyBytes = 4 << 20

// nameRule is that of key sets and assignments, too.
var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

const nameRuleText = "must be 1 to 63 lower-case letters, digits and hyphens"

// policyFile is the YAML form of a policy. Its leaves remember their lines.
type policyFile struct {
	Principals []principalFile `yaml:"principals"`
	Grants     []grantFile     `yaml:"grants"`
	Closed     []text          `yaml:"closed"` // methods that nobody may call
}

type principalFile struct {
	Name       text      `yaml:"name"`
	Kind       text      `yaml:"kind"`       // person, workload
	Identities []text    `yaml:"identities"` // URI names of certificates
	Roles      []text    `yaml:"roles"`
	KeySets    keySets   `yaml:"key_sets"` // "*", a list, or none
	Limits     limitFile `yaml:"limits"`   // callers only
}

type limitFile struct {
	TapsPerSecond number `yaml:"taps_per_second"`
	Burst         number `yaml:"burst"` // taps
	TapsInFlight  number `yaml:"taps_in_flight"`
	Streams       number `yaml:"streams"` // at one time
}

type grantFile struct {
	Role    text    `yaml:"role"`
	Methods []text  `yaml:"methods"`
	KeySets keySets `yaml:"key_sets"` // "*", a list, or none
}

// Values of key_sets besides a list.
const (
	everyKeySet = "*"
	noKeySet    = "none"
)

// text is a string and its line.
type text struct {
	value string
	line  int
}

// UnmarshalYAML implements yaml.Unmarshaler. A number or a truth value is not
// taken for text: a name that YAML reads as something else is a mistake.
func (t *text) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		return typeError(n, "text")
	}
	t.value, t.line = n.Value, n.Line
	return nil
}

// number is a whole number and its line.
type number struct {
	value int64
	line  int
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (v *number) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || n.Decode(&v.value) != nil {
		return typeError(n, "a whole number")
	}
	v.line = n.Line
	return nil
}

// keySets is "*", none, or a list of names. The zero value is not stated, and
// holds nothing.
type keySets struct {
	line   int // 0: not stated
	all    bool
	listed bool
	names  []text
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (k *keySets) UnmarshalYAML(n *yaml.Node) error {
	const want = `"*", none or a list of key sets`
	k.line = n.Line
	switch {
	case n.Kind == yaml.SequenceNode:
		k.listed = true
		for _, e := range n.Content {
			var t text
			if err := t.UnmarshalYAML(e); err != nil {
				return err
			}
			k.names = append(k.names, t)
		}
	case n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str":
		return typeError(n, want)
	case n.Value == everyKeySet:
		k.all = true
	case n.Value != noKeySet:
		return typeError(n, want)
	}
	return nil
}

// addReferences adds every anchor, alias and merge key: what a row grants must stand in
// the row, where the reviewer looks.
func (f *faults) addReferences(data []byte) {
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		f.add(0, "", "is not YAML")
		return
	}
	var walk func(*yaml.Node)
	walk = func(n *yaml.Node) {
		if n.Kind == yaml.AliasNode || n.Anchor != "" {
			f.add(n.Line, "", "anchors and aliases are not for a policy: say it in full")
			return
		}
		if n.ShortTag() == "!!merge" {
			f.add(n.Line, "", "merge keys are not for a policy: say it in full")
		}
		for _, c := range n.Content {
			walk(c)
		}
	}
	walk(&root)
}

// typeError leaves the value out, like the YAML reader.
func typeError(n *yaml.Node, want string) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %s is needed here", n.Line, want)}}
}
