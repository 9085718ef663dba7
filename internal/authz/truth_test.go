package authz

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// What follows is a second implementation: slow, by search, from the model and
// from lists written out here.

var testRoles = []string{"caller", "operator", "key-manager", "security-officer", "custodian", "auditor"}

// mayBeGranted says by hand what the table of methods says.
func mayBeGranted(method, role string) bool {
	switch {
	case strings.Contains(method, "CryptogramService"):
		return role == "caller"
	case strings.HasSuffix(method, "/GetStatus"), method == "http/metrics":
		return role == "operator" || role == "auditor"
	case strings.HasSuffix(method, "/ListKeys"):
		return role != "caller" && role != "custodian"
	case strings.HasSuffix(method, "/RecycleWorkers"), strings.HasSuffix(method, "/BackupState"):
		return role == "operator"
	case strings.HasSuffix(method, "/ReloadPolicy"), strings.HasSuffix(method, "/Delete"), strings.HasSuffix(method, "/ResetWindow"):
		return role == "security-officer"
	case strings.HasSuffix(method, "/Suspend"), strings.HasSuffix(method, "/Resume"), strings.HasSuffix(method, "/Restrict"):
		return role == "operator" || role == "security-officer"
	case strings.HasSuffix(method, "/Show"), strings.HasSuffix(method, "/ListStops"):
		return role == "operator" || role == "security-officer" || role == "auditor"
	case strings.HasSuffix(method, "/WatchEvents"):
		return role != "key-manager" && role != "custodian"
	}
	return true
}

func byKeySet(method string) bool { return strings.Contains(method, "CryptogramService") }

// fitsKind says which kinds may use a method.
func fitsKind(method, kind string) bool {
	switch {
	case byKeySet(method):
		return kind == "workload"
	case strings.HasSuffix(method, "/RecycleWorkers"), strings.HasSuffix(method, "/ReloadPolicy"),
		strings.HasSuffix(method, "/Delete"), strings.HasSuffix(method, "/ResetWindow"):
		return kind == "person"
	}
	return true
}

func listed(sets, set string) bool {
	if sets == `"*"` {
		return set != ""
	}
	return set != "" && slices.Contains(strings.Split(strings.Trim(sets, "[]"), ", "), set) && sets != "none"
}

// naive says whether the model lets the principal do it.
func (m *model) naive(p *modelPrincipal, method, set string) bool {
	for _, g := range m.grants {
		if !slices.Contains(p.roles, g.role) || !slices.Contains(g.methods, method) || !fitsKind(method, p.kind) {
			continue
		}
		if byKeySet(method) {
			if listed(g.keySets, set) && listed(p.keySets, set) {
				return true
			}
		} else if set == "" {
			return true
		}
	}
	return false
}

var askedSets = []string{"", "a", "b", "c", "other", "*", "none", "[a]", "a, b"}

// agree compares the implementations on everything that can be asked.
func (m *model) agree(t interface {
	Fatalf(string, ...any)
	Helper()
}, policy *Policy,
) {
	t.Helper()
	for i := range m.principals {
		p := &m.principals[i]
		for _, uri := range p.identities {
			who, ok := policy.Principal(uri)
			if !ok || who.Name() != p.name || who.Kind().String() != p.kind {
				t.Fatalf("%s is %q", uri, who.Name())
			}
			for _, method := range allMethods {
				m.agreeOn(t, who, p, method)
			}
		}
	}
}

func (m *model) agreeOn(t interface {
	Fatalf(string, ...any)
	Helper()
}, who *Principal, p *modelPrincipal, method string,
) {
	t.Helper()
	id, ok := MethodByName("/" + method)
	if !ok {
		t.Fatalf("%s is unknown", method)
	}
	some := false
	for _, set := range askedSets {
		want := m.naive(p, method, set)
		some = some || want
		if got := who.Allows(id, set); got != want {
			t.Fatalf("%s %s %q: %v, want %v\n%s", p.name, method, set, got, want, m.yaml())
		}
	}
	if got := who.MayCall(id); got != some {
		t.Fatalf("%s may call %s: %v, want %v\n%s", p.name, method, got, some, m.yaml())
	}
}

// TestTruthTable goes through every role, kind, method, grant and key sets, one
// principal at a time: what may stand in a file means what the second
// implementation says, and the rest is refused.
func TestTruthTable(t *testing.T) {
	accepted, refused := 0, 0
	for _, kind := range []string{"person", "workload"} {
		for _, role := range testRoles {
			for _, granted := range testRoles {
				for _, method := range allMethods {
					for _, grantSets := range []string{"none", `"*"`, "[a]", "[a, b]", "[]"} {
						for _, ownSets := range []string{"none", `"*"`, "[a]", "[b, c]", "[]"} {
							m := &model{
								principals: []modelPrincipal{{name: "p", kind: kind, identities: []string{"x:p"}, roles: []string{role}, keySets: ownSets}},
								grants:     []modelGrant{{role: granted, methods: []string{method}, keySets: grantSets}},
							}
							policy, err := Parse([]byte(m.yaml()))
							if want := m.acceptable(); (err == nil) != want {
								t.Fatalf("%v, want accepted %v\n%s", err, want, m.yaml())
							}
							if err != nil {
								refused++
								continue
							}
							accepted++
							m.agree(t, policy)
						}
					}
				}
			}
		}
	}
	if accepted < 1000 || refused < 1000 {
		t.Fatalf("%d accepted, %d refused: the table is not what it was", accepted, refused)
	}
}

// acceptable says whether a model with one principal and one grant may be
// loaded.
func (m *model) acceptable() bool {
	p, g := &m.principals[0], &m.grants[0]
	role, method := p.roles[0], g.methods[0]
	if p.kind == "person" && role == "caller" || p.kind == "workload" && role != "caller" && role != "operator" {
		return false
	}
	if !mayBeGranted(method, g.role) {
		return false
	}
	if byKeySet(method) {
		return g.keySets != "none" && g.keySets != "[]"
	}
	return g.keySets == "none"
}

// TestTruthTableRandom compares whole policies.
func TestTruthTableRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawModel(t)
		policy, err := Parse([]byte(m.yaml()))
		if err != nil {
			t.Fatalf("%v\n%s", err, m.yaml())
		}
		m.agree(t, policy)
		if _, ok := policy.Principal("x:stranger"); ok {
			t.Fatalf("a stranger is somebody")
		}
	})
}

// roleSets are those that may be together, by hand.
var roleSets = map[string][][]string{
	"workload": {{"caller"}, {"operator"}},
	"person": {
		{"operator"},
		{"key-manager"},
		{"security-officer"},
		{"custodian"},
		{"auditor"},
		{"operator", "key-manager"},
		{"operator", "security-officer"},
		{"operator", "custodian"},
	},
}

func drawModel(t *rapid.T) *model {
	m := &model{}
	for i := range rapid.IntRange(1, 6).Draw(t, "principals") {
		kind := rapid.SampledFrom([]string{"person", "workload"}).Draw(t, "kind")
		p := modelPrincipal{name: fmt.Sprintf("p%d", i), kind: kind}
		p.roles = rapid.SampledFrom(roleSets[kind]).Draw(t, "roles")
		p.keySets = rapid.SampledFrom([]string{"none", `"*"`, "[a]", "[a, b]", "[b, c]", "[]"}).Draw(t, "own sets")
		for j := range rapid.IntRange(1, 3).Draw(t, "identities") {
			p.identities = append(p.identities, fmt.Sprintf("spiffe://x.test/%d/%d", i, j))
		}
		m.principals = append(m.principals, p)
	}
	for _, role := range testRoles {
		for _, method := range allMethods {
			if !mayBeGranted(method, role) || !rapid.Bool().Draw(t, "grant") {
				continue
			}
			sets := "none"
			if byKeySet(method) {
				sets = rapid.SampledFrom([]string{`"*"`, "[a]", "[b]", "[a, c]"}).Draw(t, "sets")
			}
			m.grants = append(m.grants, modelGrant{role: role, methods: []string{method}, keySets: sets})
		}
	}
	if len(m.grants) == 0 {
		m.grants = []modelGrant{{role: "auditor", methods: []string{"http/metrics"}, keySets: "none"}}
	}
	return m
}

// TestNothingIsNo: whatever was not made by Parse refuses.
func TestNothingIsNo(t *testing.T) {
	var policy *Policy
	var live Live
	var caller Caller
	if _, ok := policy.Principal("x:p"); ok || live.Policy() != nil {
		t.Fatal("nobody is somebody")
	}
	if who, ok := caller.Principal(); ok || who != nil {
		t.Fatal("nobody is somebody")
	}
	fresh := NewLive().Caller("x:p")
	if _, ok := fresh.Principal(); ok {
		t.Fatal("nobody is somebody")
	}
	for _, who := range []*Principal{nil, {}} {
		for id := range MethodID(255) {
			if who.MayCall(id) || who.Allows(id, "") || who.Allows(id, "a") || who.KeySets(id) != nil {
				t.Fatalf("%v may %s", who, id)
			}
		}
		if a := who.Admit(time0, 1); a.Taps != 0 || a.By == LimitNone || a.RetryAfter <= 0 || who.OpenStream() {
			t.Fatalf("%+v is admitted", a)
		}
		who.Release(1)
		who.CloseStream()
	}
	if RoleNone.String() != "none" || RoleSet(0xFF).Has(RoleNone) || KindNone.String() != "none" || Role(200).String() != "none" {
		t.Fatal("zero is something")
	}
}

// TestPrincipalsOutsideTheFile: neither part of a name nor another spelling of
// it is the name.
func TestPrincipalsOutsideTheFile(t *testing.T) {
	p := mustParse(t, sample().yaml())
	for _, uri := range []string{
		"", "spiffe://acme.test/toke", "spiffe://acme.test/tokens/", "spiffe://ACME.test/tokens", "SPIFFE://acme.test/tokens",
		"spiffe://acme.test//tokens", "spiffe://acme.test/tokens\x00", " spiffe://acme.test/tokens", "tokens", "alice", "*",
	} {
		if who, ok := p.Principal(uri); ok {
			t.Errorf("%q is %s", uri, who.Name())
		}
	}
}

func TestWhoCan(t *testing.T) {
	p := mustParse(t, sample().yaml())
	for _, tc := range []struct {
		method, set string
		want        string
	}{
		{"VerifyCryptogram", "", "tokens"},
		{"VerifyCryptogram", "interac", "tokens"},
		{"VerifyCryptogram", "mastercard", ""},
		{"Respond", "visa", "tokens"},
		{"Respond", "interac", ""},
		{"GetStatus", "", "alice eve scraper"},
		{"GetStatus", "visa", ""},
		{"RecycleWorkers", "", "alice"},
		{"http/metrics", "", "alice scraper"},
		{"tapseal.v1.AdminService/ReloadPolicy", "", "bob"},
		{"/grpc.health.v1.Health/Check", "", ""},
	} {
		id, err := FindMethod(tc.method)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, who := range p.WhoCan(id, tc.set) {
			names = append(names, who.Name())
		}
		if got := strings.Join(names, " "); got != tc.want {
			t.Errorf("%s %q: %q, want %q", tc.method, tc.set, got, tc.want)
		}
	}
	tokens := mustFind(t, p, "spiffe://acme.test/tokens")
	if got := tokens.KeySets(MethodVerifyCryptogram); !slices.Equal(got, []string{"interac", "visa"}) {
		t.Errorf("key sets %v", got)
	}
}

func TestFindMethod(t *testing.T) {
	for _, name := range []string{"", "Verify", "verifycryptogram", "ServerReflectionInfo", "Health", "CryptogramService/", "/", "none"} {
		if id, err := FindMethod(name); err == nil {
			t.Errorf("%q is %s", name, id)
		}
	}
}

func TestMethodTable(t *testing.T) {
	table := MethodTable()
	if len(table) != len(allMethods) {
		t.Fatalf("%d methods, want %d: the lists of this test need the new ones", len(table), len(allMethods))
	}
	for i, m := range table {
		id, ok := MethodByName("/" + m.Name)
		if !ok || id != m.ID || id.String() != m.Name || m.Name != allMethods[i] {
			t.Errorf("%s is %s", m.Name, id)
		}
		if m.Roles == 0 || !m.Persons && !m.Workloads || m.ByKeySet != byKeySet(m.Name) || id.ByKeySet() != m.ByKeySet {
			t.Errorf("%s: row %+v", m.Name, m)
		}
	}
	if MethodID(200).String() != "none" || MethodID(200).ByKeySet() {
		t.Error("an unknown method is a method")
	}
}

func TestCoversMethods(t *testing.T) {
	p := mustParse(t, sample().yaml())
	if err := p.CoversMethods(allMethods); err != nil {
		t.Fatal(err)
	}
	err := p.CoversMethods([]string{"/b.S/Two", "/grpc.health.v1.Health/Check", "a.S/One", "b.S/Two"})
	if err == nil || err.Error() != "grants: no row for a.S/One, b.S/Two" {
		t.Fatalf("%v", err)
	}
	if (*Policy)(nil).CoversMethods(nil) == nil {
		t.Fatal("no policy covers")
	}
}
