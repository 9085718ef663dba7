package authz

import (
	"fmt"
	"slices"
	"strings"
)

// A Change says how one policy differs from another. It holds names, roles and
// URI names; there are no secrets in a policy.
type Change struct {
	Before, After Digest   // Before is zero if there was no policy
	Lines         []string // one difference each, in order: grants, then principals
	Warnings      []Fault  // of the policy after
}

// Changed reports whether the files differ at all, also in a comment.
func (c *Change) Changed() bool { return c.Before != c.After }

// String is everything in one line, for a journal.
func (c *Change) String() string {
	if !c.Changed() {
		return fmt.Sprintf("policy %s unchanged", c.After)
	}
	what := strings.Join(c.Lines, "; ")
	if what == "" {
		what = "no right changed"
	}
	if c.Before == (Digest{}) {
		return fmt.Sprintf("policy %s: %s", c.After, what)
	}
	return fmt.Sprintf("policy %s to %s: %s", c.Before, c.After, what)
}

// Summary is String without the lines: digests and counts.
func (c *Change) Summary() string {
	if !c.Changed() {
		return fmt.Sprintf("policy %s unchanged", c.After)
	}
	if c.Before == (Digest{}) {
		return fmt.Sprintf("policy %s: the first", c.After)
	}
	return fmt.Sprintf("policy %s to %s: %d changes", c.Before, c.After, len(c.Lines))
}

// difference compares policies; before may be nil.
func difference(before, after *Policy) Change {
	c := Change{Before: before.Digest(), After: after.digest, Warnings: after.Warnings()}
	c.sets("", before.rows(), after.rows())
	old, fresh := before.byName(), after.byName()
	for _, name := range sortedKeys(old, fresh) {
		was, is := old[name], fresh[name]
		switch {
		case was == nil:
			c.add("principal %s added: %s", name, is.describe())
		case is == nil:
			c.add("principal %s removed: %s", name, was.describe())
		default:
			c.principal(was, is)
		}
	}
	return c
}

func (c *Change) add(format string, args ...any) {
	c.Lines = append(c.Lines, fmt.Sprintf(format, args...))
}

// sets tells what came and what went.
func (c *Change) sets(prefix string, before, after []string) {
	c.missing(before, after, prefix+"%s removed")
	c.missing(after, before, prefix+"%s added")
}

// missing adds a line for each of list that is not in other.
func (c *Change) missing(list, other []string, format string) {
	there := make(map[string]bool, len(other))
	for _, s := range other {
		there[s] = true
	}
	for _, s := range list {
		if !there[s] {
			c.add(format, s)
		}
	}
}

func (c *Change) principal(was, is *Principal) {
	prefix := "principal " + is.name + ": "
	if was.kind != is.kind {
		c.add("%skind %s is now %s", prefix, was.kind, is.kind)
	}
	c.sets(prefix+"role ", roleList(was.roles), roleList(is.roles))
	c.sets(prefix+"identity ", was.identities, is.identities)
	c.sets(prefix+"key set ", was.keySets.list(), is.keySets.list())
	if was.limits != is.limits {
		c.add("%slimits %s are now %s", prefix, was.limits, is.limits)
	}
}

// rows are the grants and closed methods as text.
func (p *Policy) rows() []string {
	if p == nil {
		return nil
	}
	var rows []string
	for _, g := range p.grants {
		row := fmt.Sprintf("grant %s %s", g.role, g.method)
		if !methodTable[g.method].ByKeySet {
			rows = append(rows, row)
			continue
		}
		for _, set := range g.sets.list() {
			rows = append(rows, row+" "+set)
		}
	}
	for _, m := range p.closed {
		rows = append(rows, "closing of "+m.String())
	}
	slices.Sort(rows)
	return rows
}

func (p *Policy) byName() map[string]*Principal {
	m := make(map[string]*Principal)
	for _, who := range p.Principals() {
		m[who.name] = who
	}
	return m
}

func (p *Principal) describe() string {
	s := fmt.Sprintf("%s, roles %s, identities %s, key sets %s", p.kind, p.roles,
		strings.Join(p.identities, " "), strings.Join(p.keySets.list(), " "))
	if p.keySets.empty() {
		s += noKeySet
	}
	if p.limits != (Limits{}) {
		s += ", limits " + p.limits.String()
	}
	return s
}

// String is the limits as the file has them.
func (l Limits) String() string {
	return fmt.Sprintf("{taps_per_second: %d, burst: %d, taps_in_flight: %d, streams: %d}",
		l.TapsPerSecond, l.Burst, l.TapsInFlight, l.Streams)
}

func roleList(s RoleSet) []string {
	var names []string
	for _, r := range s.List() {
		names = append(names, r.String())
	}
	return names
}

func sortedKeys(maps ...map[string]*Principal) []string {
	var keys []string
	for _, m := range maps {
		for k := range m {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
