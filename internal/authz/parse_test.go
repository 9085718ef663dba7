package authz

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// written is a policy with every key there is, once, by hand.
const written = `principals:
  - name: tokens
    kind: workload
    identities:
      - spiffe://acme.test/tokens
    roles: [caller]
    key_sets: [visa, interac]
    limits:
      taps_per_second: 2000
      burst: 500
      taps_in_flight: 256
      streams: 4
  - name: alice
    kind: person
    identities: [spiffe://acme.test/alice]
    roles: [operator]
grants:
  - role: caller
    methods: [tapseal.v1.CryptogramService/VerifyCryptogram]
    key_sets: [visa]
  - role: operator
    methods: [tapseal.v1.AdminService/GetStatus]
    key_sets: none
closed:
  - tapseal.v1.CryptogramService/VerifyCryptograms
  - tapseal.v1.CryptogramService/Respond
  - tapseal.v1.AdminService/ListKeys
  - tapseal.v1.AdminService/RecycleWorkers
  - tapseal.v1.AdminService/ReloadPolicy
  - tapseal.v1.AdminService/Show
  - tapseal.v1.AdminService/Suspend
  - tapseal.v1.AdminService/Resume
  - tapseal.v1.AdminService/Delete
  - tapseal.v1.AdminService/Restrict
  - tapseal.v1.AdminService/ResetWindow
  - tapseal.v1.AdminService/ListStops
  - tapseal.v1.AdminService/BackupState
  - tapseal.v1.AdminService/WatchEvents
  - grpc.health.v1.Health/Check
  - grpc.health.v1.Health/List
  - grpc.health.v1.Health/Watch
  - grpc.reflection.v1.ServerReflection/ServerReflectionInfo
  - grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo
  - http/metrics
`

func TestParse(t *testing.T) {
	p := mustParse(t, written)
	who := mustFind(t, p, "spiffe://acme.test/tokens")
	if who.Limits() != (Limits{2000, 500, 256, 4}) || who.Kind() != KindWorkload || who.Roles() != 1<<RoleCaller {
		t.Fatalf("%+v", who)
	}
	if !who.Allows(MethodVerifyCryptogram, "visa") || who.Allows(MethodVerifyCryptogram, "interac") {
		t.Fatal("the grant is not what it says")
	}
	if len(p.Warnings()) != 0 {
		t.Fatal(p.Warnings())
	}
}

// TestTypoInEveryKey changes one letter of each key, on each line that has one.
func TestTypoInEveryKey(t *testing.T) {
	lines := strings.Split(written, "\n")
	key := regexp.MustCompile(`^( *(?:- )?)([a-z_]+):(?: |$)`)
	seen := 0
	for i, line := range lines {
		m := key.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		seen++
		for _, typo := range []string{m[2] + "s", m[2][1:], strings.ToUpper(m[2]), strings.ReplaceAll(m[2], "_", "-") + "-"} {
			changed := append([]string(nil), lines...)
			changed[i] = m[1] + typo + line[len(m[1])+len(m[2]):]
			_, err := Parse([]byte(strings.Join(changed, "\n")))
			want := fmt.Sprintf("line %d: unknown key %q", i+1, typo)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		}
		// The same key twice.
		double := append([]string(nil), lines[:i+1]...)
		double = append(double, strings.Repeat(" ", len(m[1]))+m[2]+": 1")
		if _, err := Parse([]byte(strings.Join(append(double, lines[i+1:]...), "\n"))); err == nil {
			t.Errorf("key %s on line %d is taken twice", m[2], i+1)
		}
	}
	if seen != 23 {
		t.Fatalf("%d keys seen", seen)
	}
}

// TestTypoInEveryWord changes each value: every one is either refused or, for
// names that are free, changes only who is meant.
func TestTypoInEveryWord(t *testing.T) {
	for _, word := range []string{"workload", "caller", "person", "operator", "VerifyCryptogram]", "GetStatus", "Respond", "Check", "none", "http/metrics"} {
		at := strings.Index(written, word)
		text := written[:at] + "x" + written[at:]
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("x%s is taken", word)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tc := range []struct{ name, old, fresh, want string }{
		{"unknown role of a principal", "roles: [operator]", "roles: [operators]", `line 16: principals[1].roles[0]: unknown role "operators"`},
		{"role none", "roles: [operator]", "roles: [none]", `principals[1].roles[0]: unknown role "none"`},
		{"no role", "roles: [operator]", "roles: []", "line 13: principals[1].roles: at least one is needed"},
		{"role twice", "roles: [operator]", "roles: [operator, operator]", "line 16: principals[1].roles[1]: operator is listed twice"},
		{"unknown kind", "kind: person", "kind: human", `line 14: principals[1].kind: must be person or workload, not "human"`},
		{"kind none", "kind: person", "kind: none", "must be person or workload"},
		{"no kind", "    kind: person\n", "", "line 13: principals[1].kind: is missing"},
		{"no name", "  - name: alice\n    kind", "  - kind", "principals[1].name: is missing"},
		{"name of another", "name: alice", "name: tokens", "line 13: principals[1].name: tokens is the name on line 2 already"},
		{"name in capitals", "name: alice", "name: Alice", "line 13: principals[1].name: must be 1 to 63"},
		{"name is a number", "name: alice", "name: 12", "line 13: text is needed here"},
		{"name is true", "name: alice", "name: true", "line 13: text is needed here"},
		{"name is empty", "name: alice", "name:", "principals[1].name: is missing"},
		{"identity of another", "spiffe://acme.test/alice", "spiffe://acme.test/tokens", "line 15: principals[1].identities[0]: spiffe://acme.test/tokens belongs to tokens already"},
		{"identity twice", "[spiffe://acme.test/alice]", "[spiffe://acme.test/alice, spiffe://acme.test/alice]", "line 15: principals[1].identities[1]: spiffe://acme.test/alice belongs to alice already"},
		{"no identity", "[spiffe://acme.test/alice]", "[]", "line 13: principals[1].identities: at least one is needed"},
		{"pattern", "spiffe://acme.test/alice", "spiffe://acme.test/*", "line 15: principals[1].identities[0]"},
		{"common name", "spiffe://acme.test/alice", "alice", "must be a full URI"},
		{"key set pattern", "[visa, interac]", "[visa, inter*]", "line 7: principals[0].key_sets[1]: must be 1 to 63"},
		{"star in list", "[visa, interac]", `[visa, "*"]`, `line 7: principals[0].key_sets[1]: "*" stands alone`},
		{"none in list", "[visa, interac]", `[visa, none]`, `line 7: principals[0].key_sets[1]: none stands alone`},
		{"key set twice", "[visa, interac]", "[visa, visa]", "line 7: principals[0].key_sets[1]: visa is listed twice"},
		{"key sets as text", "[visa, interac]", "visa", `line 7: "*", none or a list of key sets is needed here`},
		{"key sets as map", "[visa, interac]", "{visa: 1}", `line 7: "*", none or a list`},
		{"key sets as number", "[visa, interac]", "1", `line 7: "*", none or a list`},
		{"key set number in list", "[visa, interac]", "[visa, 1]", "line 7: text is needed here"},
		{"rate zero", "taps_per_second: 2000", "taps_per_second: 0", "line 9: principals[0].limits.taps_per_second: must be 1 to 10000000"},
		{"rate negative", "taps_per_second: 2000", "taps_per_second: -1", "must be 1 to"},
		{"rate huge", "taps_per_second: 2000", "taps_per_second: 10000001", "must be 1 to"},
		{"rate beyond 64 bits", "taps_per_second: 2000", "taps_per_second: 99999999999999999999", "line 9: a whole number is needed here"},
		{"rate fraction", "taps_per_second: 2000", "taps_per_second: 0.5", "line 9: a whole number is needed here"},
		{"rate text", "taps_per_second: 2000", `taps_per_second: "2000"`, "line 9: a whole number is needed here"},
		{"rate unlimited", "taps_per_second: 2000", "taps_per_second: .inf", "line 9: a whole number is needed here"},
		{"no rate", "      taps_per_second: 2000\n", "", "line 2: principals[0].limits.taps_per_second: is missing"},
		{"no burst", "      burst: 500\n", "", "principals[0].limits.burst: is missing"},
		{"no concurrency", "      taps_in_flight: 256\n", "", "principals[0].limits.taps_in_flight: is missing"},
		{"no streams", "      streams: 4\n", "", "principals[0].limits.streams: is missing"},
		{"burst zero", "burst: 500", "burst: 0", "line 10: principals[0].limits.burst: must be"},
		{"concurrency zero", "taps_in_flight: 256", "taps_in_flight: 0", "line 11: principals[0].limits.taps_in_flight: must be"},
		{"streams zero", "streams: 4", "streams: 0", "line 12: principals[0].limits.streams: must be"},
		{"limits of a person", "roles: [operator]", "roles: [operator]\n    limits: {streams: 1}", "line 17: principals[1].limits.streams: only a caller has limits"},
		{"grant to nobody", "role: operator\n", "role: \n", "grants[1].role: is missing"},
		{"grant to an unknown role", "role: operator\n", "role: root\n", `line 21: grants[1].role: unknown role "root"`},
		{"grant of nothing", "methods: [tapseal.v1.AdminService/GetStatus]", "methods: []", "line 21: grants[1].methods: at least one is needed"},
		{"grant of a pattern", "tapseal.v1.AdminService/GetStatus", "tapseal.v1.AdminService/*", "line 22"},
		{"grant of an unknown method", "AdminService/GetStatus", "AdminService/GetStatuses", `line 22: grants[1].methods[0]: unknown method "tapseal.v1.AdminService/GetStatuses"`},
		{"no row for a method", "  - tapseal.v1.AdminService/RecycleWorkers\n", "", "grants: no row for tapseal.v1.AdminService/RecycleWorkers"},
		{"grant above the ceiling", "AdminService/GetStatus]", "AdminService/GetStatus, grpc.health.v1.Health/Check, tapseal.v1.AdminService/ReloadPolicy]", "line 22: grants[1].methods[2]: tapseal.v1.AdminService/ReloadPolicy cannot be granted to operator, only to: security-officer"},
		{"cell twice", "AdminService/GetStatus]", "AdminService/GetStatus, tapseal.v1.AdminService/GetStatus]", "line 22: grants[1].methods[1]: tapseal.v1.AdminService/GetStatus is granted to operator on line 22 already"},
		{"grant without key sets", "    key_sets: [visa]\n", "", "line 18: grants[0].key_sets: is missing"},
		{"grant with empty key sets", "key_sets: [visa]\n", "key_sets:\n", "line 18: grants[0].key_sets: is missing"},
		{"taps without key sets", "key_sets: [visa]\n", "key_sets: none\n", "line 20: grants[0].methods[0]: tapseal.v1.CryptogramService/VerifyCryptogram goes by key set"},
		{"taps with an empty list", "key_sets: [visa]\n", "key_sets: []\n", "line 20: grants[0].methods[0]: tapseal.v1.CryptogramService/VerifyCryptogram goes by key set"},
		{"status by key set", "key_sets: none", `key_sets: "*"`, "line 23: grants[1].methods[0]: tapseal.v1.AdminService/GetStatus does not go by key set"},
		{"closed and granted", "  - http/metrics\n", "  - http/metrics\n  - tapseal.v1.AdminService/GetStatus\n", "line 45: closed[20]: tapseal.v1.AdminService/GetStatus is granted to operator"},
		{"closed twice", "  - http/metrics\n", "  - http/metrics\n  - http/metrics\n", "line 45: closed[20]: http/metrics is listed twice"},
		{"closed and unknown", "  - http/metrics\n", "  - http/metrics\n  - http/pprof\n", `line 45: closed[20]: unknown method "http/pprof"`},
		{"anchor", "roles: [operator]", "roles: &r [operator]", "line 16: anchors and aliases are not for a policy"},
		{"alias", "roles: [operator]", "roles: &r [operator]\n  - {name: bob, kind: person, identities: [x:b], roles: *r}", "anchors and aliases"},
		{"merge", "roles: [operator]", "roles: [operator]\n  - {<<: {kind: person}, name: bob, identities: [x:b], roles: [auditor]}", "line 17: merge keys are not for a policy"},
		{"second document", "closed:", "---\nclosed:", "more than one YAML document"},
		{"not YAML", "closed:", "\tclosed:", "line"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(written, tc.old, tc.fresh, 1)
			if text == written {
				t.Fatal("nothing was changed")
			}
			p, err := Parse([]byte(text))
			if err == nil || p != nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
			var list *Error
			if !errors.As(err, &list) || len(list.Faults) == 0 {
				t.Fatalf("%T", err)
			}
		})
	}
	for _, text := range []string{"", "{}", "[]", "principals: []", "x", "null", strings.Repeat("#", MaxPolicyBytes+1)} {
		if p, err := Parse([]byte(text)); err == nil || p != nil {
			t.Errorf("%.20q is a policy", text)
		}
	}
}

// TestEveryFaultAtOnce: one look finds all, in the order of the file.
func TestEveryFaultAtOnce(t *testing.T) {
	text := strings.NewReplacer(
		"kind: workload", "kynd: workload", "roles: [caller]", "roles: [caller, cat]",
		"streams: 4", "streams: x", "[spiffe://acme.test/alice]", "[Alice]",
		"AdminService/GetStatus", "AdminService/Status", "closed:", "shut: 1\nclosed:",
	).Replace(written)
	_, err := Parse([]byte(text))
	var list *Error
	if !errors.As(err, &list) {
		t.Fatal(err)
	}
	last := 0
	for i, want := range []string{
		"no row for tapseal.v1.AdminService/GetStatus", "principals[0].kind: is missing", "principals[0].limits.streams: is missing",
		`line 3: unknown key "kynd"`, `line 6: principals[0].roles[1]: unknown role "cat"`, "line 12: a whole number is needed here",
		`line 15: principals[1].identities[0]: "Alice"`, "line 22: grants[1].methods[0]: unknown method", `line 24: unknown key "shut"`,
	} {
		at := strings.Index(err.Error(), want)
		if at < last {
			t.Errorf("fault %d, %q, at %d in %v", i, want, at, err)
		}
		last = max(last, at)
	}
	if len(list.Faults) != 9 {
		t.Errorf("%d faults in %v", len(list.Faults), err)
	}
}

func TestWarnings(t *testing.T) {
	for _, tc := range []struct{ name, old, fresh, want string }{
		{"role without a grant", "roles: [operator]", "roles: [custodian]", "line 13: principals[1]: alice may do nothing: no grant fits its roles, kind and key sets"},
		{"no key set in common", "[visa, interac]", "[mastercard]", "line 2: principals[0]: tokens may do nothing: no grant fits its roles, kind and key sets"},
		{"no key sets", "    key_sets: [visa, interac]\n", "", "line 2: principals[0]: tokens may do nothing: no grant fits its roles, kind and key sets"},
		{
			"no key set but health", "    key_sets: [visa, interac]\n    limits:", "    limits:",
			"line 2: principals[0].key_sets: tokens may use no key set: it and the grants of its roles have none in common",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text := strings.Replace(written, tc.old, tc.fresh, 1)
			if strings.Contains(tc.name, "health") {
				text = strings.Replace(text, "  - grpc.health.v1.Health/Check\n", "", 1)
				text = strings.Replace(text, "closed:", "  - {role: caller, methods: [grpc.health.v1.Health/Check], key_sets: none}\nclosed:", 1)
			}
			w := difference(nil, mustParse(t, text)).Warnings
			if len(w) != 1 || w[0].String() != tc.want {
				t.Fatalf("%v, want %s", w, tc.want)
			}
		})
	}
	if (*Policy)(nil).Warnings() != nil {
		t.Fatal("no policy has warnings")
	}
}

func TestCheckIdentity(t *testing.T) {
	for _, good := range []string{
		"spiffe://acme.test/tokens", "spiffe://acme.test/ns/prod/sa/Tokens_1.2-3", "urn:uuid:6f0e4d5a-0000-4000-8000-000000000001",
		"https://acme.test:8443/people/alice", "spiffe://a/" + strings.Repeat("x", MaxIdentityBytes-11),
	} {
		if err := CheckIdentity(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "tokens", "acme.test/tokens", "/tokens", "//acme.test/tokens", "spiffe:///tokens", "spiffe://acme.test", "spiffe://acme.test/",
		"spiffe://ACME.test/tokens", "SPIFFE://acme.test/tokens", "spiffe://acme.test/tokens/", "spiffe://acme.test//tokens",
		"spiffe://acme.test/./tokens", "spiffe://acme.test/a/../tokens", "spiffe://acme.test/tokens?x", "spiffe://acme.test/tokens?",
		"spiffe://acme.test/tokens#x", "spiffe://acme.test/tokens#", "spiffe://user@acme.test/tokens", "spiffe://acme.test:1/tokens",
		"spiffe://acme.test/to%6Bens", "spiffe://acme.test/*", "spiffe://acme.test/to kens", "spiffe://acme.test/tokens\n",
		"spiffe://acme.test/tökens", "spiffe://acme.test/~tokens", "spiffe://ac~me/tokens", "https://acme.test", "https://[::1",
		"spiffe://a/" + strings.Repeat("x", MaxIdentityBytes-10), ":", "a:", "spiffe:tokens", "\x00", `a:"00`, `a:b\c`, "a:b'c", "a:{b}", "https://[::1]/x",
	} {
		if CheckIdentity(bad) == nil {
			t.Errorf("%q is an identity", bad)
		}
	}
}

func TestDevelopmentPolicy(t *testing.T) {
	all := Development{
		Caller: "spiffe://dev.test/c", Operator: "spiffe://dev.test/o", SecurityOfficer: "spiffe://dev.test/s",
		KeyManager: "spiffe://dev.test/k", Auditor: "spiffe://dev.test/a", Monitor: "spiffe://dev.test/m",
	}
	data, err := DevelopmentPolicy(all)
	if err != nil {
		t.Fatal(err)
	}
	p := mustParse(t, string(data))
	if len(p.Principals()) != 6 || len(p.Warnings()) != 0 {
		t.Fatalf("%d principals, warnings %v", len(p.Principals()), p.Warnings())
	}
	for uri, method := range map[string]MethodID{
		all.Operator: MethodRecycleWorkers, all.SecurityOfficer: MethodReloadPolicy, all.KeyManager: MethodListKeys,
		all.Auditor: MethodGetStatus, all.Monitor: MethodMetrics,
	} {
		if who := mustFind(t, p, uri); !who.Allows(method, "") {
			t.Errorf("%s may not %s", who.Name(), method)
		}
	}
	if !mustFind(t, p, all.Caller).Allows(MethodRespond, "visa-demo") || mustFind(t, p, all.Monitor).Allows(MethodRecycleWorkers, "") {
		t.Error("caller or monitor are not what they should be")
	}
	if data, err = DevelopmentPolicy(Development{Caller: all.Caller}); err != nil || len(mustParse(t, string(data)).Principals()) != 1 {
		t.Error(err)
	}
	for _, bad := range []Development{
		{},
		{Caller: "no"},
		{Caller: `x:"]` + "\n"},
		{Caller: all.Caller, Operator: all.Caller},
		{Caller: `x:y", "x:z`},
		{Caller: `x:{{.}}"`},
	} {
		if _, err := DevelopmentPolicy(bad); err == nil {
			t.Errorf("%+v makes a policy", bad)
		}
	}
}
