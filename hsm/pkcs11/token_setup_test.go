package pkcs11

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/admin"
	"github.com/tapseal/tapseal/hsm/scratch"
	"github.com/tapseal/tapseal/keys"
)

// A provider is a real token implementation under test.
type provider struct {
	name string
	nss  bool
}

func providers() []provider { return []provider{{name: "softhsm"}, {name: "nss", nss: true}} }

func forEachProvider(t *testing.T, f func(t *testing.T, p provider)) {
	for _, p := range providers() {
		t.Run(p.name, func(t *testing.T) { f(t, p) })
	}
}

func softokn(tb testing.TB) string {
	tb.Helper()
	for _, p := range []string{
		"/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
		"/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so", "/usr/lib64/libsoftokn3.so", "/usr/lib/libsoftokn3.so",
	} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	tb.Fatal("libsoftokn3.so is not installed (hint: apt install libnss3)")
	return ""
}

// testToken is a development token made through the admin role, with keys in it.
type testToken struct {
	cfg      Config
	pin      string
	pinFile  string
	environ  []string
	manifest *keys.Manifest
	values   map[keys.ID][16]byte
}

const testLabel = admin.LabelPrefix + "-test"

func newTestToken(tb testing.TB, p provider, keyCount int) *testToken {
	tb.Helper()
	dir := tb.TempDir()
	tt := &testToken{
		pin: "4711-0815", pinFile: filepath.Join(dir, "pin"),
		values:   map[keys.ID][16]byte{},
		manifest: &keys.Manifest{Deployment: "test", Sets: []keys.Set{{Name: "test", Use: keys.UseIssuerAC}}},
	}
	must(tb, os.WriteFile(tt.pinFile, []byte(tt.pin+"\n"), 0o600))
	tt.cfg = Config{TokenLabel: testLabel}
	if p.nss {
		tt.cfg.Module = softokn(tb)
		tt.cfg.ModuleArgs = admin.NSSArgs(dir, testLabel)
	} else {
		tt.cfg.Module = must1(scratch.FindSoftHSM())(tb)
		must(tb, os.Mkdir(filepath.Join(dir, "tokens"), 0o700))
		conf := filepath.Join(dir, "softhsm2.conf")
		must(tb, os.WriteFile(conf, []byte("directories.tokendir = "+filepath.Join(dir, "tokens")+
			"\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"), 0o600))
		tb.Setenv("SOFTHSM2_CONF", conf)
		tt.environ = []string{"SOFTHSM2_CONF=" + conf}
	}
	res := tt.act(tb, admin.Act{Operation: admin.InitToken})
	if res.TokenSerial == "" {
		tb.Fatal("no serial number")
	}
	for range keyCount {
		tt.addKey(tb)
	}
	return tt
}

func (tt *testToken) run(act admin.Act) (admin.Result, error) {
	if act.TokenLabel == "" {
		act.TokenLabel = testLabel
	}
	if act.PINFile == "" && act.PIN.IsZero() {
		act.PINFile = tt.pinFile
	}
	return admin.Run(context.Background(), admin.Options{
		Binary: os.Args[0], Module: tt.cfg.Module, ModuleArgs: tt.cfg.ModuleArgs, Environ: tt.environ,
	}, act)
}

func (tt *testToken) act(tb testing.TB, act admin.Act) admin.Result {
	tb.Helper()
	res, err := tt.run(act)
	must(tb, err)
	return res
}

func (tt *testToken) addKey(tb testing.TB) keys.ID {
	tb.Helper()
	var value [16]byte
	_, _ = rand.Read(value[:])
	made := tt.act(tb, admin.Act{Operation: admin.ImportDemoKey, Key: &admin.DemoKey{Label: "test", Value: value}}).Key
	set := &tt.manifest.Sets[0]
	set.Versions = append(set.Versions, keys.Version{
		Number: uint32(len(set.Versions) + 1), ID: made.ID, State: keys.Active, CheckValue: made.CheckValue, Canary: made.Canary,
	})
	tt.values[made.ID] = value
	return made.ID
}

func (tt *testToken) id(i int) keys.ID { return tt.manifest.Sets[0].Versions[i].ID }

func (tt *testToken) open(tb testing.TB) *Token {
	tb.Helper()
	token, err := Open(tt.cfg, []byte(tt.pin), tt.manifest)
	must(tb, err)
	tb.Cleanup(func() { must(tb, token.Close()) })
	return token
}

// intruder opens a read-write session beside the token's own: the login is
// the process's, so it can do what an attacker with the PIN can.
func intruder(tb testing.TB, token *Token) (*p11.Ctx, p11.SessionHandle) {
	tb.Helper()
	s, err := token.module.ctx.OpenSession(token.sessions.slot, readWrite)
	must(tb, err)
	return token.module.ctx, s
}

// sessionObjects counts the secret keys that are not token objects.
func sessionObjects(tb testing.TB, token *Token) int {
	tb.Helper()
	found, err := findObjects(token.module.ctx, token.sessions.holder, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		p11.NewAttribute(p11.CKA_TOKEN, false),
	})
	must(tb, err)
	return len(found)
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func must1[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		must(tb, err)
		return v
	}
}

// canaryPlanFor is the plan that proves a key version.
func canaryPlanFor(v keys.Version) (p cryptogram.Plan) {
	cryptogram.CanaryPlan(v.Canary, &p)
	return p
}
