package authz

import (
	"fmt"
	"strings"
	"testing"
)

// A model is a policy as a test writes it: the YAML comes from here, and so
// does the second implementation of what it means.
type model struct {
	principals []modelPrincipal
	grants     []modelGrant
}

type modelPrincipal struct {
	name, kind string
	identities []string
	roles      []string
	keySets    string // as in the file
	limits     string // as in the file; callers get one anyway
}

type modelGrant struct {
	role    string
	methods []string
	keySets string
}

// allMethods is written out: the table under test must not be its own witness.
var allMethods = []string{
	"tapseal.v1.CryptogramService/VerifyCryptogram",
	"tapseal.v1.CryptogramService/VerifyCryptograms",
	"tapseal.v1.CryptogramService/Respond",
	"tapseal.v1.AdminService/GetStatus",
	"tapseal.v1.AdminService/ListKeys",
	"tapseal.v1.AdminService/RecycleWorkers",
	"tapseal.v1.AdminService/ReloadPolicy",
	"tapseal.v1.AdminService/Show",
	"tapseal.v1.AdminService/Suspend",
	"tapseal.v1.AdminService/Resume",
	"tapseal.v1.AdminService/Delete",
	"tapseal.v1.AdminService/Restrict",
	"tapseal.v1.AdminService/ResetWindow",
	"tapseal.v1.AdminService/ListStops",
	"tapseal.v1.AdminService/BackupState",
	"tapseal.v1.AdminService/WatchEvents",
	"grpc.health.v1.Health/Check",
	"grpc.health.v1.Health/List",
	"grpc.health.v1.Health/Watch",
	"grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
	"grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
	"http/metrics",
}

const testLimits = "{taps_per_second: 100, burst: 10, taps_in_flight: 5, streams: 2}"

// yaml renders the model; methods without a grant are closed.
func (m *model) yaml() string {
	var b strings.Builder
	b.WriteString("principals:\n")
	for _, p := range m.principals {
		fmt.Fprintf(&b, "  - name: %s\n    kind: %s\n    identities: [%s]\n    roles: [%s]\n    key_sets: %s\n",
			p.name, p.kind, quoted(p.identities), strings.Join(p.roles, ", "), p.keySets)
		switch {
		case p.limits != "":
			fmt.Fprintf(&b, "    limits: %s\n", p.limits)
		case strings.Contains(strings.Join(p.roles, " "), "caller"):
			fmt.Fprintf(&b, "    limits: %s\n", testLimits)
		}
	}
	b.WriteString("grants:\n")
	open := map[string]bool{}
	for _, g := range m.grants {
		fmt.Fprintf(&b, "  - role: %s\n    methods: [%s]\n    key_sets: %s\n", g.role, strings.Join(g.methods, ", "), g.keySets)
		for _, method := range g.methods {
			open[method] = true
		}
	}
	var closed []string
	for _, method := range allMethods {
		if !open[method] {
			closed = append(closed, method)
		}
	}
	fmt.Fprintf(&b, "closed: [%s]\n", strings.Join(closed, ", "))
	return b.String()
}

func quoted(list []string) string {
	q := make([]string, len(list))
	for i, s := range list {
		q[i] = `"` + s + `"`
	}
	return strings.Join(q, ", ")
}

func mustParse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return p
}

func mustFind(t testing.TB, p *Policy, uri string) *Principal {
	t.Helper()
	who, ok := p.Principal(uri)
	if !ok {
		t.Fatalf("%s is not found", uri)
	}
	return who
}

// sample is one caller and one of each other role.
func sample() *model {
	return &model{
		principals: []modelPrincipal{
			{name: "tokens", kind: "workload", identities: []string{"spiffe://acme.test/tokens"}, roles: []string{"caller"}, keySets: "[visa, interac]"},
			{name: "alice", kind: "person", identities: []string{"spiffe://acme.test/alice", "urn:uuid:6f0e4d5a-0000-4000-8000-000000000001"}, roles: []string{"operator"}, keySets: "none"},
			{name: "bob", kind: "person", identities: []string{"spiffe://acme.test/bob"}, roles: []string{"security-officer"}, keySets: "none"},
			{name: "eve", kind: "person", identities: []string{"spiffe://acme.test/eve"}, roles: []string{"auditor"}, keySets: "none"},
			{name: "scraper", kind: "workload", identities: []string{"spiffe://acme.test/scraper"}, roles: []string{"operator"}, keySets: "none"},
		},
		grants: []modelGrant{
			{role: "caller", methods: []string{"tapseal.v1.CryptogramService/VerifyCryptogram", "tapseal.v1.CryptogramService/VerifyCryptograms"}, keySets: `"*"`},
			{role: "caller", methods: []string{"tapseal.v1.CryptogramService/Respond"}, keySets: "[visa]"},
			{role: "operator", methods: []string{"tapseal.v1.AdminService/GetStatus", "tapseal.v1.AdminService/RecycleWorkers", "http/metrics"}, keySets: "none"},
			{role: "security-officer", methods: []string{"tapseal.v1.AdminService/ReloadPolicy"}, keySets: "none"},
			{role: "auditor", methods: []string{"tapseal.v1.AdminService/GetStatus"}, keySets: "none"},
		},
	}
}
