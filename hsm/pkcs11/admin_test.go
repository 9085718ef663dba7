package pkcs11

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tapseal/tapseal/hsm/admin"
	"github.com/tapseal/tapseal/internal/secret"
)

func TestInventory(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 3)
		objects := tt.act(t, admin.Act{Operation: admin.Inventory}).Objects
		if len(objects) != 3 {
			t.Fatalf("%d objects", len(objects))
		}
		for _, o := range objects {
			if len(o.ID) != 16 || o.Label != "test" || len(o.Faults) != 0 || (len(o.CheckValue) == 3) == p.nss {
				t.Errorf("%+v", o)
			}
		}
	})
}

// Processes that start together disturb each other in SoftHSM: finding the
// token is tried again, the login is not: SoftHSM rewrites the token's file in
// each C_Login, and one that meets another's answers CKR_GENERAL_ERROR. The
// supervisor therefore lets its workers log in one after the other.
func TestManyProcessesStartTogether(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 2)
		const together, rounds = 8, 4
		var collisions atomic.Int32
		failures := make(chan error, together*rounds)
		for range rounds {
			var all sync.WaitGroup
			for range together {
				all.Go(func() {
					res, err := tt.run(admin.Act{Operation: admin.Inventory})
					if err == nil && len(res.Objects) != 2 {
						err = fmt.Errorf("%d objects", len(res.Objects))
					}
					if !p.nss && err != nil && strings.Contains(err.Error(), "C_Login: pkcs11: 0x5:") {
						err = nil // see above
						collisions.Add(1)
					}
					failures <- err
				})
			}
			all.Wait()
		}
		for range together * rounds {
			if err := <-failures; err != nil {
				t.Error(err)
			}
		}
		if n := collisions.Load(); n > together*rounds/2 {
			t.Errorf("%d logins collided", n)
		}
	})
}

func TestInitTokenNeverTouchesOneThatExists(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 1)
		var failure *admin.ActError
		if _, err := tt.run(admin.Act{Operation: admin.InitToken}); !errors.As(err, &failure) {
			t.Errorf("got %v", err)
		}
		must(t, tt.open(t).Prove(tt.id(0)))
	})
}

// A PIN that is in no file comes with the act.
func TestPINOfTheAct(t *testing.T) {
	tt := newTestToken(t, provider{}, 1)
	if objects := tt.act(t, admin.Act{Operation: admin.Inventory, PIN: secret.New([]byte(tt.pin))}).Objects; len(objects) != 1 {
		t.Errorf("%d objects", len(objects))
	}
	if _, err := tt.run(admin.Act{Operation: admin.Inventory, PIN: secret.New([]byte("99999999"))}); err == nil {
		t.Error("a wrong PIN is taken")
	}
}

func TestActsThatAreRefused(t *testing.T) {
	tt := newTestToken(t, provider{}, 0)
	wrongPIN := filepath.Join(t.TempDir(), "pin")
	must(t, os.WriteFile(wrongPIN, []byte("99999999"), 0o600))
	same := admin.DemoKey{Label: "test"} // K1 = K2
	key := admin.DemoKey{Label: "test", Value: [16]byte{1}}
	for name, act := range map[string]admin.Act{
		"no operation":     {},
		"unknown":          {Operation: "destroy"},
		"label":            {Operation: admin.InitToken, TokenLabel: "production"},
		"long label":       {Operation: admin.InitToken, TokenLabel: admin.LabelPrefix + strings.Repeat("x", 32)},
		"no key":           {Operation: admin.ImportDemoKey},
		"key in inventory": {Operation: admin.Inventory, Key: &key},
		"equal halves":     {Operation: admin.ImportDemoKey, Key: &same},
		"wrong PIN":        {Operation: admin.ImportDemoKey, Key: &key, PINFile: wrongPIN},
		"no pin file":      {Operation: admin.ImportDemoKey, Key: &key, PINFile: wrongPIN + ".none"},
		"other token":      {Operation: admin.Inventory, TokenLabel: admin.LabelPrefix + "-none"},
	} {
		if _, err := tt.run(act); err == nil {
			t.Errorf("%s: done", name)
		}
	}
	if objects := tt.act(t, admin.Act{Operation: admin.Inventory}).Objects; len(objects) != 0 {
		t.Errorf("%d objects were made", len(objects))
	}
}

// What the client refuses, the process refuses too: it reads orders itself.
func TestAdminProcessChecksTheOrder(t *testing.T) {
	tt := newTestToken(t, provider{}, 0)
	for _, order := range []string{
		``, `{`, `{}`, `{"module":"m"}`, `[]`,
		`{"module":"` + tt.cfg.Module + `","operation":"init-token","token_label":"production","pin_file":"` + tt.pinFile + `"}`,
		`{"module":"` + tt.cfg.Module + `","operation":"inventory","token_label":"` + testLabel + `","pin_file":"` + tt.pinFile + `","extra":1}`,
		`{"module":"` + tt.cfg.Module + `","operation":"import-demo-key","token_label":"` + testLabel + `","pin_file":"` + tt.pinFile +
			`","key":{"label":"x","value":"00112233"}}`,
	} {
		var out bytes.Buffer
		if err := ServeAdmin(strings.NewReader(order), &out); err == nil {
			t.Errorf("done: %.40s", order)
		}
		if strings.Contains(out.String(), "00112233") {
			t.Error("the reply shows a key value")
		}
		var failure *admin.ActError
		if _, err := admin.ReadReply(&out); !errors.As(err, &failure) {
			t.Errorf("reply: %v", err)
		}
	}
}
