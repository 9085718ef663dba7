package hsm

import (
	"cmp"
	"slices"
)

// A NamedKey is one version of a key set with its name.
type NamedKey struct {
	Set     string
	Version uint32
	KeyInfo
}

// Keys lists the keys in the tables of the connected workers, or in the last
// known ones when none is connected, by set and version.
func (p *Pool) Keys() []NamedKey {
	m := p.tables.merged.Load()
	if m == nil {
		return nil
	}
	all := make([]NamedKey, 0, len(*m))
	for name, info := range *m {
		all = append(all, NamedKey{Set: name.set, Version: name.version, KeyInfo: info})
	}
	slices.SortFunc(all, func(a, b NamedKey) int {
		return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Version, b.Version))
	})
	return all
}
