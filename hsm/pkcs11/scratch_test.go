package pkcs11

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
	"github.com/tapseal/tapseal/hsm/admin"
	"github.com/tapseal/tapseal/hsm/scratch"
)

// The ways to get a scratch token.
func scratchOptions(t *testing.T, name string) scratch.Options {
	t.Helper()
	o := scratch.Options{Binary: os.Args[0]}
	switch name {
	case "own SoftHSM":
	case "own NSS":
		o.Module, o.OwnNSS = softokn(t), true
	case "given SoftHSM", "given NSS":
		tt := newTestToken(t, provider{nss: name == "given NSS"}, 1)
		m, slot, err := openModule(tt.cfg)
		must(t, err)
		m.finalise()
		o.Module, o.ModuleArgs, o.Slot, o.PINFile, o.Environ = tt.cfg.Module, tt.cfg.ModuleArgs, &slot, tt.pinFile, tt.environ
		// Nothing of a given token may change.
		before := tt.act(t, admin.Act{Operation: admin.Inventory})
		t.Cleanup(func() {
			after := tt.act(t, admin.Act{Operation: admin.Inventory})
			if len(before.Objects) != 1 || len(after.Objects) != 1 || string(before.Objects[0].ID) != string(after.Objects[0].ID) {
				t.Errorf("objects of the given token: %d before, %d after", len(before.Objects), len(after.Objects))
			}
		})
	}
	return o
}

// scratchDirs lists the directories that scratch clients have made.
func scratchDirs(t *testing.T) []string {
	t.Helper()
	return must1(filepath.Glob(filepath.Join(os.TempDir(), scratch.DirPrefix+"*")))(t)
}

// Plans of all shapes, also those that compute under the root and produce
// without a comparison, against the software executor.
func TestScratch(t *testing.T) {
	for _, name := range []string{"own SoftHSM", "own NSS", "given SoftHSM", "given NSS"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			o := scratchOptions(t, name)
			c, err := scratch.Start(context.Background(), o)
			must(t, err)
			r := rand.New(rand.NewPCG(5, 6))
			for range 60 {
				req := scratch.Request{Plan: randomScratchPlan(r)}
				fill(r, req.Root[:])
				if r.IntN(4) == 0 {
					copy(req.Root[8:], req.Root[:8]) // K1 = K2 is a test key like any other
				}
				reply, err := c.Do(req)
				must(t, err)
				var want cryptogram.Outcome
				must(t, software.Execute(req.Root, &req.Plan, &want))
				if reply.Outcome != want {
					t.Fatal("token and software differ")
				}
			}
			// A plan that is not sound is an error of its own; the next runs.
			var bad *scratch.RequestError
			if _, err := c.Do(scratch.Request{}); !errors.As(err, &bad) {
				t.Errorf("empty plan: %v", err)
			}
			_, err = c.Do(scratch.Request{Plan: randomScratchPlan(r)})
			must(t, err)
			must(t, c.Close())
			must(t, c.Close())
			if _, err := c.Do(scratch.Request{}); !errors.Is(err, scratch.ErrStopped) {
				t.Errorf("after Close: %v", err)
			}
			if left := scratchDirs(t); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func randomScratchPlan(r *rand.Rand) (p cryptogram.Plan) {
	key := cryptogram.RootKey
	left := cryptogram.RootKey
	if r.IntN(2) == 0 {
		d := p.Derivations[:3]
		d[0] = cryptogram.Derivation{Purpose: cryptogram.ForDeriving}
		d[1] = cryptogram.Derivation{Parent: 1, Purpose: cryptogram.ForComputing}
		fill(r, d[0].Input[:])
		fill(r, d[1].Input[:])
		d[2] = d[1]
		d[2].Input = cryptogram.LeftTwin(d[1].Input)
		p.NumDerivations, key, left = 3, 2, 3
	}
	p.NumSteps = 2
	p.Steps[0] = cryptogram.Step{Op: cryptogram.EncryptBlock, Key: key, ProduceBytes: uint8(1 + r.IntN(8)), DataBytes: 8}
	p.Steps[1] = cryptogram.Step{
		Op: cryptogram.RetailMAC, Key: key, Left: left,
		ProduceBytes: 8, DataBytes: uint16(8 * (1 + r.IntN(cryptogram.MaxStepBytes/8))),
	}
	for i := range p.Steps[:p.NumSteps] {
		fill(r, p.Steps[i].Data[:p.Steps[i].DataBytes])
	}
	return p
}

func TestScratchRefusesToStart(t *testing.T) {
	slot := uint(0)
	tt := newTestToken(t, provider{}, 0)
	wrongPIN := filepath.Join(t.TempDir(), "pin")
	must(t, os.WriteFile(wrongPIN, []byte("99999999"), 0o600))
	m, real, err := openModule(tt.cfg)
	must(t, err)
	m.finalise()
	for name, o := range map[string]scratch.Options{
		"module without slot":     {Module: tt.cfg.Module, PINFile: tt.pinFile},
		"module without pin file": {Module: tt.cfg.Module, Slot: &slot},
		"slot without module":     {Slot: &slot},
		"pin file without module": {PINFile: tt.pinFile},
		"module does not exist":   {Module: "/nonexistent.so", Slot: &slot, PINFile: tt.pinFile},
		"wrong PIN":               {Module: tt.cfg.Module, Slot: &real, PINFile: wrongPIN, Environ: tt.environ},
		"own NSS in SoftHSM":      {Module: tt.cfg.Module, OwnNSS: true},
		"binary does not exist":   {Binary: "/nonexistent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			if o.Binary == "" {
				o.Binary = os.Args[0]
			}
			if c, err := scratch.Start(context.Background(), o); err == nil {
				must(t, c.Close())
				t.Error("started")
			}
			if left := scratchDirs(t); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// The process itself refuses a setup that would make a token elsewhere than in
// a private directory made for it, whatever its client says.
func TestScratchProcessMakesNoTokenElsewhere(t *testing.T) {
	tt := newTestToken(t, provider{}, 0)
	conf := os.Getenv("SOFTHSM2_CONF")
	open := filepath.Join(t.TempDir(), scratch.DirPrefix+"open")
	must(t, os.Mkdir(open, 0o755))
	must(t, os.Chmod(open, 0o755))
	private := filepath.Join(t.TempDir(), scratch.DirPrefix+"private")
	must(t, os.Mkdir(private, 0o700))
	for name, setup := range map[string]scratch.Setup{
		"another directory":      {Own: scratch.OwnSoftHSM, OwnDir: filepath.Dir(conf)},
		"no directory":           {Own: scratch.OwnNSS},
		"readable by others":     {Own: scratch.OwnNSS, OwnDir: open},
		"another configuration":  {Own: scratch.OwnSoftHSM, OwnDir: private},
		"unknown kind":           {Own: "opencryptoki", OwnDir: private},
		"own with a slot":        {Own: scratch.OwnNSS, OwnDir: private, Slot: new(uint)},
		"own with module args":   {Own: scratch.OwnNSS, OwnDir: private, ModuleArgs: "configdir='sql:/'"},
		"given without pin file": {Slot: new(uint)},
	} {
		setup.Module = tt.cfg.Module
		if token, err := openForScratch(&setup); err == nil {
			token.Close()
			t.Errorf("%s: opened", name)
		}
	}
}

// Keys of the scratch role are session objects, and none outlives its request.
func TestScratchLeavesNothing(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 0)
		s, err := OpenScratch(tt.cfg, []byte(tt.pin))
		must(t, err)
		defer s.Close()
		r := rand.New(rand.NewPCG(7, 8))
		var root [16]byte
		var out cryptogram.Outcome
		for range 20 {
			plan := randomScratchPlan(r)
			must(t, s.Execute(&root, &plan, &out))
		}
		found, err := findObjects(s.module.ctx, s.sessions.work, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		})
		must(t, err)
		if len(found) != 0 {
			t.Errorf("%d keys left", len(found))
		}
	})
}

func TestScratchDirectoryThatSoftHSMCannotRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a=b")
	must(t, os.Mkdir(dir, 0o700))
	t.Setenv("TMPDIR", dir)
	_, err := scratch.Start(context.Background(), scratch.Options{Binary: os.Args[0]})
	if err == nil || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("got %v", err)
	}
	if left := scratchDirs(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestScratchProcessDies(t *testing.T) {
	// A binary that is no tapseal-hsm: it ends without an answer.
	_, err := scratch.Start(context.Background(), scratch.Options{Binary: "/bin/false"})
	if !errors.Is(err, scratch.ErrStopped) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := scratch.Start(ctx, scratch.Options{Binary: "/bin/cat"}); err == nil {
		t.Error("started with a context that had ended")
	}
}

func TestPINFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(content), mode))
		must(t, os.Chmod(path, mode))
		return path
	}
	for path, want := range map[string]string{
		write("plain", "1234", 0o600):                     "1234",
		write("line", "1234\n", 0o600):                    "1234",
		write("read-only", "1234\n", 0o400):               "1234",
		write("longest", strings.Repeat("1", 255), 0o600): strings.Repeat("1", 255),
	} {
		if got := must1(readPINFile(path))(t); string(got) != want {
			t.Errorf("%s: wrong PIN", filepath.Base(path))
		}
	}
	link := filepath.Join(dir, "link")
	must(t, os.Symlink(filepath.Join(dir, "plain"), link))
	for _, path := range []string{
		write("group", "1234", 0o640), write("world", "1234", 0o604), write("empty", "", 0o600),
		write("newline", "\n", 0o600), write("long", strings.Repeat("1", 256), 0o600),
		write("longer", strings.Repeat("1", 300), 0o600), link, dir, filepath.Join(dir, "none"),
	} {
		_, err := readPINFile(path)
		if err == nil {
			t.Errorf("%s: read", filepath.Base(path))
		} else if strings.Contains(err.Error(), "1234") {
			t.Errorf("%s: the error shows the PIN", filepath.Base(path))
		}
	}
}
