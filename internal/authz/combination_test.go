package authz

import (
	"strings"
	"testing"
)

// forbidden is the rule by hand, for every kind and set of roles.
func forbidden(kind Kind, s RoleSet) bool {
	has := s.Has
	acts := has(RoleKeyManager) || has(RoleSecurityOfficer) || has(RoleCustodian)
	switch {
	case kind == KindPerson && has(RoleCaller), kind == KindWorkload && (acts || has(RoleAuditor)):
		return true
	case (has(RoleCaller) || has(RoleAuditor)) && s.Len() > 1:
		return true
	}
	return roleCount(s, RoleKeyManager, RoleSecurityOfficer, RoleCustodian) > 1
}

func roleCount(s RoleSet, roles ...Role) int {
	n := 0
	for _, r := range roles {
		if s.Has(r) {
			n++
		}
	}
	return n
}

// TestCombinations goes through all 2 × 64 sets of roles: at load and, with a
// principal that no load would have made, at use.
func TestCombinations(t *testing.T) {
	for _, kind := range []Kind{KindPerson, KindWorkload} {
		for s := RoleSet(0); s < 1<<7; s += 2 {
			want := !forbidden(kind, s) && s != 0
			if got := sound(kind, s); got != want {
				t.Errorf("%s %s: sound %v, want %v", kind, s, got, want)
			}
			if s != 0 && combinationAtLoad(t, kind, s) != want {
				t.Errorf("%s %s: loaded %v, want %v", kind, s, !want, want)
			}
			if combinationAtUse(kind, s) != want {
				t.Errorf("%s %s: usable %v, want %v", kind, s, !want, want)
			}
		}
	}
	for _, s := range []RoleSet{0, 1, 1 << 7, 1<<7 | 1<<RoleOperator, 1 | 1<<RoleOperator} {
		if sound(KindPerson, s) {
			t.Errorf("role bits %08b are sound", s)
		}
	}
	if sound(KindNone, 1<<RoleOperator) || sound(3, 1<<RoleOperator) {
		t.Error("a principal of no kind is sound")
	}
}

// combinationAtLoad reports whether Parse takes it, and holds its error to the
// reasons in the table. The roles come under two certificates of one person.
func combinationAtLoad(t *testing.T, kind Kind, s RoleSet) bool {
	t.Helper()
	m := sample()
	m.principals = append(m.principals, modelPrincipal{
		name: "mallory", kind: kind.String(), identities: []string{"x:one", "x:two"}, roles: roleList(s), keySets: "none",
	})
	_, err := Parse([]byte(m.yaml()))
	for _, row := range Combinations() {
		applies := s&row.Roles == row.Roles && (row.Kind == KindNone || row.Kind == kind)
		if applies && (err == nil || !strings.Contains(err.Error(), row.Reason) || !strings.Contains(err.Error(), "principals[5].roles")) {
			t.Errorf("%s %s: %v, want the reason %q", kind, s, err, row.Reason)
		}
	}
	return err == nil
}

// combinationAtUse reports whether a principal with every right compiled in can
// use any.
func combinationAtUse(kind Kind, s RoleSet) bool {
	p := &Principal{name: "mallory", kind: kind, roles: s, account: newAccount(time0)}
	for id := range p.access {
		p.access[id] = access{granted: true, sets: reach{all: true}}
	}
	policy := &Policy{byURI: map[string]*Principal{"x:one": p}}
	_, found := policy.Principal("x:one")
	for id := MethodNone + 1; id < methodCount; id++ {
		if p.MayCall(id) || p.Allows(id, "") || p.Allows(id, "a") {
			return true
		}
	}
	// Roles without any method of their own are found, and may nothing.
	return found
}

// TestCombinationTable: each row has its reason, and none repeats another.
func TestCombinationTable(t *testing.T) {
	rows := Combinations()
	for i, a := range rows {
		if a.Reason == "" || a.Roles == 0 || a.Roles&^anyRole != 0 {
			t.Errorf("row %d: %+v", i, a)
		}
		for j, b := range rows {
			if i != j && a.Roles&b.Roles == a.Roles && (a.Kind == KindNone || a.Kind == b.Kind) {
				t.Errorf("row %d makes row %d needless", i, j)
			}
		}
	}
}

// TestCeilingAtUse: a right that was compiled in for the wrong role or kind is
// not usable.
func TestCeilingAtUse(t *testing.T) {
	for _, tc := range []struct {
		kind   Kind
		roles  RoleSet
		method MethodID
		set    string
	}{
		{KindPerson, 1 << RoleAuditor, MethodVerifyCryptogram, "a"},
		{KindPerson, 1 << RoleOperator, MethodReloadPolicy, ""},
		{KindWorkload, 1 << RoleOperator, MethodRecycleWorkers, ""},
		{KindWorkload, 1 << RoleCaller, MethodGetStatus, ""},
		{KindWorkload, 1 << RoleCaller, MethodSuspend, ""},
		{KindWorkload, 1 << RoleOperator, MethodDelete, ""},
		{KindPerson, 1 << RoleOperator, MethodResetWindow, ""},
		{KindPerson, 1 << RoleAuditor, MethodSuspend, ""},
		{KindPerson, 1 << RoleKeyManager, MethodWatchEvents, ""},
	} {
		p := &Principal{kind: tc.kind, roles: tc.roles}
		p.access[tc.method] = access{granted: true, sets: reach{all: true}}
		if p.Allows(tc.method, tc.set) || p.MayCall(tc.method) {
			t.Errorf("%s %s may %s", tc.kind, tc.roles, tc.method)
		}
	}
}
