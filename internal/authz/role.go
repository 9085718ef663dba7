package authz

import (
	"math/bits"
	"slices"
	"strings"
)

// A Kind says what a principal is. The zero value is nothing, and may nothing.
type Kind uint8

// The kinds. Acts that change something need a person; taps need a workload.
const (
	KindNone     Kind = 0
	KindPerson   Kind = 1
	KindWorkload Kind = 2
)

// String is the kind's name in the policy file.
func (k Kind) String() string {
	switch k {
	case KindPerson:
		return "person"
	case KindWorkload:
		return "workload"
	default:
		return "none"
	}
}

func parseKind(name string) (Kind, bool) {
	for _, k := range [...]Kind{KindPerson, KindWorkload} {
		if k.String() == name {
			return k, true
		}
	}
	return KindNone, false
}

// A Role is one of the six that there are. The zero value is no role.
type Role uint8

// The roles.
const (
	RoleNone            Role = 0
	RoleCaller          Role = 1 // asks for verdicts and response cryptograms
	RoleOperator        Role = 2 // keeps the service running
	RoleKeyManager      Role = 3 // proposes acts on keys
	RoleSecurityOfficer Role = 4 // approves acts, puts policies in force
	RoleCustodian       Role = 5 // enters one component of a key
	RoleAuditor         Role = 6 // reads
)

var roleNames = [...]string{
	RoleNone: "none", RoleCaller: "caller", RoleOperator: "operator", RoleKeyManager: "key-manager",
	RoleSecurityOfficer: "security-officer", RoleCustodian: "custodian", RoleAuditor: "auditor",
}

// String is the role's name in the policy file.
func (r Role) String() string {
	if int(r) >= len(roleNames) {
		return roleNames[RoleNone]
	}
	return roleNames[r]
}

// ParseRole finds a role by its name in the policy file.
func ParseRole(name string) (Role, bool) {
	i := slices.Index(roleNames[1:], name)
	return Role(i + 1), i >= 0
}

// Roles lists all roles, in a fixed order.
func Roles() []Role {
	return []Role{RoleCaller, RoleOperator, RoleKeyManager, RoleSecurityOfficer, RoleCustodian, RoleAuditor}
}

// A RoleSet is a set of roles: bit r for Role r. The zero value is empty.
type RoleSet uint8

func roleSet(roles ...Role) RoleSet {
	var s RoleSet
	for _, r := range roles {
		s |= 1 << r
	}
	return s
}

// Has reports whether r is in the set.
func (s RoleSet) Has(r Role) bool { return r != RoleNone && s&(1<<r) != 0 }

// Len is the number of roles in the set.
func (s RoleSet) Len() int { return bits.OnesCount8(uint8(s)) }

// List lists the roles in the set, in the order of Roles.
func (s RoleSet) List() []Role {
	return slices.DeleteFunc(Roles(), func(r Role) bool { return !s.Has(r) })
}

// String lists the names of the roles.
func (s RoleSet) String() string {
	names := make([]string, 0, s.Len())
	for _, r := range s.List() {
		names = append(names, r.String())
	}
	return strings.Join(names, ", ")
}
