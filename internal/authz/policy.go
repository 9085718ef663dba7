package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Policy is a checked and compiled policy file. It does not change. A nil
// Policy knows nobody.
type Policy struct {
	digest     Digest
	byURI      map[string]*Principal
	principals []*Principal // in the order of the file
	grants     []grant      // in the order of the file
	closed     []MethodID
	warnings   []Fault
}

// A grant is a row: one role, one method.
type grant struct {
	role   Role
	method MethodID
	sets   reach
}

// A reach is a set of key sets. The zero value is empty.
type reach struct {
	all   bool
	names map[string]struct{} // shared, read only
}

func (r *reach) has(name string) bool {
	if name == "" {
		return false
	}
	if r.all {
		return true
	}
	_, ok := r.names[name]
	return ok
}

func (r *reach) empty() bool { return !r.all && len(r.names) == 0 }

// list is "*" or the names in order.
func (r *reach) list() []string {
	if r.all {
		return []string{everyKeySet}
	}
	names := make([]string, 0, len(r.names))
	for name := range r.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// A Principal is one person or workload. It does not change, but for what it
// has used of its limits. A nil or zero Principal may nothing.
type Principal struct {
	name       string
	kind       Kind
	roles      RoleSet
	identities []string
	keySets    reach
	limits     Limits
	access     [methodCount]access
	account    *account
}

// An access is what a principal may do with one method.
type access struct {
	granted bool
	sets    reach // for methods that go by key set
}

// Principal finds who a certificate belongs to, by its URI name. A principal
// that the table of combinations forbids is not found.
func (p *Policy) Principal(uri string) (*Principal, bool) {
	if p == nil {
		return nil, false
	}
	who, ok := p.byURI[uri]
	if !ok || !sound(who.kind, who.roles) {
		return nil, false
	}
	return who, true
}

// Digest is the SHA-256 of the file. The zero value is that of no policy.
func (p *Policy) Digest() Digest {
	if p == nil {
		return Digest{}
	}
	return p.digest
}

// Principals lists everybody, in the order of the file.
func (p *Policy) Principals() []*Principal {
	if p == nil {
		return nil
	}
	return slices.Clone(p.principals)
}

// WhoCan lists everybody who may use the method, in the order of the file: with
// the key set, or if that is empty with any.
func (p *Policy) WhoCan(m MethodID, keySet string) []*Principal {
	return slices.DeleteFunc(p.Principals(), func(who *Principal) bool {
		if keySet == "" {
			return !who.MayCall(m)
		}
		return !who.Allows(m, keySet)
	})
}

// Grants is the number of rows, role × method.
func (p *Policy) Grants() int {
	if p == nil {
		return 0
	}
	return len(p.grants)
}

// Warnings are what is suspicious but not wrong, for example a principal that
// may do nothing.
func (p *Policy) Warnings() []Fault {
	if p == nil {
		return nil
	}
	return slices.Clone(p.warnings)
}

// CoversMethods reports the registered methods, by full gRPC name, that no row
// grants or closes. The error names every one of them. Parse has made sure of
// the methods in the table; what is left are methods that the table lacks.
func (p *Policy) CoversMethods(registered []string) error {
	if p == nil {
		return errors.New("there is no policy")
	}
	if missing := p.withoutRow(registered); len(missing) > 0 {
		return fmt.Errorf("grants: no row for %s", strings.Join(missing, ", "))
	}
	return nil
}

// withoutRow lists those of the methods that the policy does not mention.
func (p *Policy) withoutRow(methods []string) []string {
	var rows [methodCount]bool
	for _, g := range p.grants {
		rows[g.method] = true
	}
	for _, m := range p.closed {
		rows[m] = true
	}
	var missing []string
	for _, name := range methods {
		if id, ok := MethodByName(name); !ok || !rows[id] {
			missing = append(missing, strings.TrimPrefix(name, "/"))
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

// Name is the principal's name in the policy: for a person, the person, under
// whichever certificate.
func (p *Principal) Name() string {
	if p == nil {
		return ""
	}
	return p.name
}

// Kind is what the principal is.
func (p *Principal) Kind() Kind {
	if p == nil {
		return KindNone
	}
	return p.kind
}

// Roles are the principal's roles.
func (p *Principal) Roles() RoleSet {
	if p == nil {
		return 0
	}
	return p.roles
}

// Identities are the URI names of the principal's certificates.
func (p *Principal) Identities() []string {
	if p == nil {
		return nil
	}
	return slices.Clone(p.identities)
}

// Limits are the principal's limits.
func (p *Principal) Limits() Limits {
	if p == nil {
		return Limits{}
	}
	return p.limits
}

// MayCall reports whether the principal may call the method at all: for one
// that goes by key set, with some key set.
func (p *Principal) MayCall(m MethodID) bool {
	a := p.may(m)
	return a != nil && (!methodTable[m].ByKeySet || !a.sets.empty())
}

// Allows reports whether the principal may use the method with the key set,
// which is empty exactly for methods that do not go by key set. It does not
// allocate.
func (p *Principal) Allows(m MethodID, keySet string) bool {
	a := p.may(m)
	if a == nil {
		return false
	}
	if !methodTable[m].ByKeySet {
		return keySet == ""
	}
	return a.sets.has(keySet)
}

// may checks everything but the key set, the compiled rows against the tables
// once more: a mistake in compiling, or memory that changed, must not give what
// no policy can.
func (p *Principal) may(m MethodID) *access {
	if p == nil || m == MethodNone || m >= methodCount || !p.access[m].granted {
		return nil
	}
	if row := &methodTable[m]; !row.fits(p.kind) || row.Roles&p.roles == 0 || !sound(p.kind, p.roles) {
		return nil
	}
	return &p.access[m]
}

// KeySets lists the key sets that the principal may use the method with, "*"
// for every one; none for methods that do not go by key set.
func (p *Principal) KeySets(m MethodID) []string {
	a := p.may(m)
	if a == nil || !methodTable[m].ByKeySet {
		return nil
	}
	return a.sets.list()
}
