package authz

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/tapseal/tapseal/internal/strictyaml"
)

// A Digest is the SHA-256 of a policy file.
type Digest [sha256.Size]byte

// String is the digest in hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Parse checks and compiles a policy. The error is an *Error with every fault.
func Parse(data []byte) (*Policy, error) {
	var found faults
	if len(data) > MaxPolicyBytes {
		found.add(0, "", "file is larger than %d bytes", MaxPolicyBytes)
		return nil, found.err()
	}
	var f policyFile
	if err := strictyaml.Unmarshal(data, &f); err != nil {
		found.addParsing(err)
	} else {
		found.addReferences(data)
	}
	c := compiler{
		faults: found,
		policy: &Policy{digest: sha256.Sum256(data), byURI: make(map[string]*Principal)},
		names:  make(map[string]int),
		cells:  make(map[cell]int),
		start:  time.Now(),
	}
	c.compile(&f)
	if err := c.faults.err(); err != nil {
		return nil, err
	}
	return c.policy, nil
}

// A compiler turns a file into a policy and collects what is wrong with it.
type compiler struct {
	faults faults
	policy *Policy
	names  map[string]int // principal → line
	cells  map[cell]int   // role × method → line
	start  time.Time
}

type cell struct {
	role   Role
	method MethodID
}

func (c *compiler) compile(f *policyFile) {
	if len(f.Principals) == 0 {
		c.faults.add(0, "principals", "at least one is needed")
	}
	if len(f.Grants) == 0 {
		c.faults.add(0, "grants", "at least one is needed")
	}
	for i := range f.Grants {
		c.grant(fmt.Sprintf("grants[%d]", i), &f.Grants[i])
	}
	c.close(f.Closed)
	c.total()
	for i := range f.Principals {
		c.principal(fmt.Sprintf("principals[%d]", i), &f.Principals[i])
	}
}

// grant compiles a row of the file into one for each of its methods.
func (c *compiler) grant(key string, f *grantFile) {
	role, ok := ParseRole(f.Role.value)
	switch {
	case f.Role.value == "":
		c.faults.add(f.Role.line, key+".role", "is missing")
	case !ok:
		c.faults.add(f.Role.line, key+".role", "unknown role %s", shown(f.Role.value))
	}
	if len(f.Methods) == 0 {
		c.faults.add(f.Role.line, key+".methods", "at least one is needed")
	}
	if f.KeySets.line == 0 {
		c.faults.add(f.Role.line, key+".key_sets", `is missing: "*", a list, or none for methods that do not go by key set`)
	}
	sets := c.reach(key+".key_sets", &f.KeySets)
	for i, m := range f.Methods {
		c.row(fmt.Sprintf("%s.methods[%d]", key, i), m, role, &f.KeySets, sets)
	}
}

// row compiles one cell of the table.
func (c *compiler) row(key string, m text, role Role, stated *keySets, sets reach) {
	id, ok := MethodByName(m.value)
	if !ok {
		c.faults.add(m.line, key, "unknown method %s", shown(m.value))
		return
	}
	if role == RoleNone {
		return
	}
	row := &methodTable[id]
	if !row.Roles.Has(role) {
		c.faults.add(m.line, key, "%s cannot be granted to %s, only to: %s", id, role, row.Roles)
	}
	if first, twice := c.cells[cell{role, id}]; twice {
		c.faults.add(m.line, key, "%s is granted to %s on line %d already: one row must say it all", id, role, first)
		return
	}
	c.cells[cell{role, id}] = m.line
	switch {
	case stated.line == 0:
	case row.ByKeySet && sets.empty():
		c.faults.add(stated.line, key, `%s goes by key set: name some, or "*"`, id)
	case !row.ByKeySet && (stated.all || stated.listed):
		c.faults.add(stated.line, key, "%s does not go by key set: its row must say key_sets: none", id)
	}
	c.policy.grants = append(c.policy.grants, grant{role: role, method: id, sets: sets})
}

// close takes the methods that nobody may call.
func (c *compiler) close(methods []text) {
	seen := make(map[MethodID]bool)
	for i, m := range methods {
		key := fmt.Sprintf("closed[%d]", i)
		id, ok := MethodByName(m.value)
		switch {
		case !ok:
			c.faults.add(m.line, key, "unknown method %s", shown(m.value))
			continue
		case seen[id]:
			c.faults.add(m.line, key, "%s is listed twice", id)
		}
		for _, g := range c.policy.grants {
			if g.method == id {
				c.faults.add(m.line, key, "%s is granted to %s", id, g.role)
			}
		}
		seen[id] = true
		c.policy.closed = append(c.policy.closed, id)
	}
}

// total makes sure that every method there is has a row: a reviewer sees what is
// open and what is closed, and nothing is so by oversight. It also means that a
// file which passes the check on a desk passes it in the service.
func (c *compiler) total() {
	var names []string
	for id := MethodNone + 1; id < methodCount; id++ {
		names = append(names, id.String())
	}
	if missing := c.policy.withoutRow(names); len(missing) > 0 {
		c.faults.add(0, "grants", "no row for %s: grant the method to a role, or list it under closed", strings.Join(missing, ", "))
	}
}

// reach compiles key sets.
func (c *compiler) reach(key string, f *keySets) reach {
	r := reach{all: f.all}
	for i, n := range f.names {
		at := fmt.Sprintf("%s[%d]", key, i)
		switch _, twice := r.names[n.value]; {
		case n.value == everyKeySet:
			c.faults.add(n.line, at, `"*" stands alone, not in a list`)
		case !nameRule.MatchString(n.value):
			c.faults.add(n.line, at, nameRuleText)
		case n.value == noKeySet:
			c.faults.add(n.line, at, "none stands alone, not in a list")
		case twice:
			c.faults.add(n.line, at, "%s is listed twice", n.value)
		}
		if r.names == nil {
			r.names = make(map[string]struct{}, len(f.names))
		}
		r.names[n.value] = struct{}{}
	}
	return r
}
