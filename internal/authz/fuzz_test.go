package authz

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// FuzzParse: no file breaks the parser; a fault is a printable line; and a
// policy that is taken keeps every rule, whatever it says.
func FuzzParse(f *testing.F) {
	f.Add([]byte(written))
	f.Add([]byte(sample().yaml()))
	for _, text := range []string{"", "{}", "principals: [{name: &a x}]", "grants: *a", "<<: {}", "closed: [\"\\u0000\"]", "principals:\n - name: \"\\n\"\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			var list *Error
			if p != nil || !errors.As(err, &list) || len(list.Faults) == 0 {
				t.Fatalf("%v %T", p, err)
			}
			return
		}
		for _, who := range p.Principals() {
			keepsRules(t, p, who)
		}
		if err := p.CoversMethods(allMethods); err != nil {
			t.Fatal(err)
		}
		c := difference(nil, p)
		if strings.ContainsFunc(c.String(), unicode.IsControl) {
			t.Fatalf("%q", c.String())
		}
		if again := difference(p, mustParse(t, string(data))); again.Changed() || len(again.Lines) != 0 {
			t.Fatal(again)
		}
	})
}

func keepsRules(t *testing.T, p *Policy, who *Principal) {
	if forbidden(who.Kind(), who.Roles()) || who.Roles().Len() == 0 || len(who.Identities()) == 0 {
		t.Fatalf("%s is %s with roles %s", who.Name(), who.Kind(), who.Roles())
	}
	for _, uri := range who.Identities() {
		if CheckIdentity(uri) != nil || mustFind(t, p, uri) != who {
			t.Fatalf("%q is not %s", uri, who.Name())
		}
	}
	for _, method := range allMethods {
		id, _ := MethodByName(method)
		if !who.MayCall(id) {
			continue
		}
		fits := false
		for _, r := range who.Roles().List() {
			fits = fits || mayBeGranted(method, r.String())
		}
		if !fits || !fitsKind(method, who.Kind().String()) || who.Allows(id, "") == byKeySet(method) {
			t.Fatalf("%s %s may %s", who.Kind(), who.Roles(), method)
		}
	}
	if l := who.Limits(); who.Roles().Has(RoleCaller) != (l.TapsPerSecond > 0 && l.Burst > 0 && l.TapsInFlight > 0 && l.Streams > 0) {
		t.Fatalf("%s has limits %s", who.Name(), l)
	}
}

// FuzzCheckIdentity: what is taken has one spelling.
func FuzzCheckIdentity(f *testing.F) {
	for _, s := range []string{"spiffe://acme.test/tokens", "urn:uuid:x", "https://a:1/b", "x:y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if CheckIdentity(s) != nil {
			return
		}
		if strings.ContainsAny(s, " \"'*%#?\\\n") || len(s) > MaxIdentityBytes || !strings.Contains(s, ":") {
			t.Fatalf("%q is an identity", s)
		}
		scheme, rest, _ := strings.Cut(s, ":")
		if scheme != strings.ToLower(scheme) || rest == "" {
			t.Fatalf("%q is an identity", s)
		}
	})
}

// TestDocumentedPolicy keeps the page's example true: it passes, without a
// warning.
func TestDocumentedPolicy(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "authorisation.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```yaml\n")
	text, _, _ := strings.Cut(rest, "```")
	if w := mustParse(t, text).Warnings(); len(w) != 0 {
		t.Fatal(w)
	}
	for _, c := range Combinations() {
		if !strings.Contains(string(page), c.Reason) {
			t.Errorf("the page does not say: %s", c.Reason)
		}
	}
	for _, m := range MethodTable() {
		if !strings.Contains(string(page), "`"+m.Name+"`") {
			t.Errorf("the page does not name %s", m.Name)
		}
	}
}
