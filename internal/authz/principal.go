package authz

import (
	"fmt"
	"maps"
)

// principal compiles one principal.
func (c *compiler) principal(key string, f *principalFile) {
	p := &Principal{name: f.Name.value, account: newAccount(c.start)}
	c.name(key+".name", f.Name)
	c.kind(key+".kind", f, p)
	c.roles(key+".roles", f, p)
	c.combination(key+".roles", f, p)
	c.identities(key+".identities", f, p)
	p.keySets = c.reach(key+".key_sets", &f.KeySets)
	c.limits(key+".limits", f, p)
	c.open(p)
	c.policy.principals = append(c.policy.principals, p)
	c.warn(key, f, p)
}

func (c *compiler) name(key string, f text) {
	first, twice := c.names[f.value]
	switch {
	case f.value == "":
		c.faults.add(f.line, key, "is missing")
		return
	case !nameRule.MatchString(f.value):
		c.faults.add(f.line, key, nameRuleText)
	case twice:
		c.faults.add(f.line, key, "%s is the name on line %d already", f.value, first)
	}
	c.names[f.value] = f.line
}

func (c *compiler) kind(key string, f *principalFile, p *Principal) {
	var ok bool
	if p.kind, ok = parseKind(f.Kind.value); ok {
		return
	}
	if f.Kind.value == "" {
		c.faults.add(f.Name.line, key, "is missing: person or workload")
		return
	}
	c.faults.add(f.Kind.line, key, "must be person or workload, not %s", shown(f.Kind.value))
}

func (c *compiler) roles(key string, f *principalFile, p *Principal) {
	if len(f.Roles) == 0 {
		c.faults.add(f.Name.line, key, "at least one is needed")
	}
	for i, t := range f.Roles {
		at := fmt.Sprintf("%s[%d]", key, i)
		role, ok := ParseRole(t.value)
		switch {
		case !ok:
			c.faults.add(t.line, at, "unknown role %s", shown(t.value))
			continue
		case p.roles.Has(role):
			c.faults.add(t.line, at, "%s is listed twice", role)
		}
		p.roles |= roleSet(role)
	}
}

// combination holds the principal against the table of what is forbidden.
func (c *compiler) combination(key string, f *principalFile, p *Principal) {
	for i := range combinations {
		row := &combinations[i]
		if !row.matches(p.kind, p.roles) {
			continue
		}
		who := "one principal"
		if row.Kind != KindNone {
			who = "a " + row.Kind.String()
		}
		c.faults.add(f.Roles[0].line, key, "%s must not be %s: %s", who, joined(row.Roles), row.Reason)
	}
}

func joined(s RoleSet) string {
	list := s.List()
	if len(list) == 2 {
		return list[0].String() + " and " + list[1].String()
	}
	return s.String()
}

func (c *compiler) identities(key string, f *principalFile, p *Principal) {
	if len(f.Identities) == 0 {
		c.faults.add(f.Name.line, key, "at least one is needed")
	}
	for i, t := range f.Identities {
		at := fmt.Sprintf("%s[%d]", key, i)
		if err := CheckIdentity(t.value); err != nil {
			c.faults.add(t.line, at, "%s %s", shown(t.value), err.Error())
			continue
		}
		if other, taken := c.policy.byURI[t.value]; taken {
			c.faults.add(t.line, at, "%s belongs to %s already", t.value, other.name)
			continue
		}
		c.policy.byURI[t.value] = p
		p.identities = append(p.identities, t.value)
	}
}

// limits are required of a caller, each one: there is no default that fits.
func (c *compiler) limits(key string, f *principalFile, p *Principal) {
	l := &f.Limits
	for _, v := range []struct {
		name string
		from number
		to   *uint32
		most int64
	}{
		{"taps_per_second", l.TapsPerSecond, &p.limits.TapsPerSecond, maxRate},
		{"burst", l.Burst, &p.limits.Burst, maxCount},
		{"taps_in_flight", l.TapsInFlight, &p.limits.TapsInFlight, maxCount},
		{"streams", l.Streams, &p.limits.Streams, maxCount},
	} {
		at := key + "." + v.name
		switch caller := p.roles.Has(RoleCaller); {
		case !caller && v.from.line != 0:
			c.faults.add(v.from.line, at, "only a caller has limits")
		case !caller:
		case v.from.line == 0:
			c.faults.add(f.Name.line, at, "is missing")
		case v.from.value < 1 || v.from.value > v.most:
			c.faults.add(v.from.line, at, "must be 1 to %d", v.most)
		default:
			*v.to = uint32(v.from.value)
		}
	}
}

// open gives the principal what the grants of its roles say, for its kind and
// its key sets.
func (c *compiler) open(p *Principal) {
	for _, g := range c.policy.grants {
		if !p.roles.Has(g.role) || !methodTable[g.method].fits(p.kind) {
			continue
		}
		a := &p.access[g.method]
		a.granted = true
		if methodTable[g.method].ByKeySet {
			a.sets = union(a.sets, common(g.sets, p.keySets))
		}
	}
}

// common is what both hold.
func common(a, b reach) reach {
	switch {
	case a.all:
		return b
	case b.all:
		return a
	}
	both := make(map[string]struct{})
	for name := range a.names {
		if b.has(name) {
			both[name] = struct{}{}
		}
	}
	return reach{names: both}
}

// union is what either holds.
func union(a, b reach) reach {
	switch {
	case a.empty():
		return b
	case b.empty():
		return a
	case a.all || b.all:
		return reach{all: true}
	}
	either := maps.Clone(a.names)
	maps.Copy(either, b.names)
	return reach{names: either}
}

// warn looks for what is written and gives nothing.
func (c *compiler) warn(key string, f *principalFile, p *Principal) {
	if !sound(p.kind, p.roles) {
		return
	}
	w := (*faults)(&c.policy.warnings)
	usable, byKeySet, reaches := false, false, false
	for id := MethodNone + 1; id < methodCount; id++ {
		usable = usable || p.MayCall(id)
		if methodTable[id].ByKeySet && p.access[id].granted {
			byKeySet = true
			reaches = reaches || !p.access[id].sets.empty()
		}
	}
	switch {
	case !usable:
		w.add(f.Name.line, key, "%s may do nothing: no grant fits its roles, kind and key sets", p.name)
	case byKeySet && !reaches:
		w.add(f.Name.line, key+".key_sets", "%s may use no key set: it and the grants of its roles have none in common", p.name)
	}
}
