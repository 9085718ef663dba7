// Package softhsmconfig makes the test token of development mode: SoftHSM's
// configuration, a token with demo issuer keys, and the files that tapseal-hsm
// needs to serve it. The token is made by the admin role of the production
// binary, so what works here is what works there. See README.md for what
// SoftHSM cannot stand in for.
package softhsmconfig

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"text/template"

	"github.com/tapseal/tapseal/hsm/admin"
	"github.com/tapseal/tapseal/hsm/scratch"
	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/internal/strictyaml"
	"github.com/tapseal/tapseal/keys"
)

// TokenLabel is the label of the development token.
const TokenLabel = admin.LabelPrefix + "-demo"

// pinBytes of randomness are in the PIN, written as hexadecimal digits.
const pinBytes = 16

//go:embed softhsm2.conf.tmpl
var softhsmConf string

// Options of Prepare.
type Options struct {
	HSMBinary string // path of tapseal-hsm, whose admin role makes the token
	Module    string // path of SoftHSM's PKCS#11 module; empty: see scratch.FindSoftHSM
	Vault     *Vault // where the PIN is kept; nil: in a file
}

// Prepare makes sure that dir holds a complete development token, and reports
// whether it had to be made. A directory that is complete is reused as it is.
// One that a killed Prepare left is made anew. One that holds anything else is
// refused with ErrForeign and left alone. The caller must keep other processes
// from doing the same at the same time.
func Prepare(ctx context.Context, dir string, o Options) (l Layout, made bool, err error) {
	l, err = open(dir)
	if err != nil {
		return l, false, fmt.Errorf("preparing %s: %w", dir, err)
	}
	m, ours, err := l.readMarker()
	if err != nil {
		return l, false, fmt.Errorf("preparing %s: %w", dir, err)
	}
	if o.Module == "" {
		if o.Module, err = scratch.FindSoftHSM(); err != nil {
			return l, false, fmt.Errorf("preparing %s: %w", dir, err)
		}
	}
	if ours && m.Vault != o.Vault.name() {
		return l, false, fmt.Errorf("preparing %s: %w", dir, otherPlace(m.Vault))
	}
	if ours && m.Complete && !o.Vault.lost() {
		if err := l.reuse(ctx, o); err != nil {
			return l, false, fmt.Errorf("reusing %s: %w", dir, err)
		}
		return l, false, nil
	}
	if err := l.make(ctx, o, ours && m.Complete); err != nil {
		return l, false, fmt.Errorf("preparing %s: %w", dir, err)
	}
	return l, true, nil
}

// CheckDir refuses a directory that SoftHSM could not be told about. Prepare
// does it too; this is for those who touch the directory before.
func CheckDir(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	return scratch.CheckSoftHSMPath(abs)
}

// open finds or creates the directory itself.
func open(dir string) (Layout, error) {
	if err := CheckDir(dir); err != nil {
		return Layout{}, err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Layout{}, err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return Layout{}, err
	}
	return Layout{Dir: abs}, nil
}

// make makes everything from nothing, between two states of the marker. Of a
// directory that was complete it keeps what a developer may have changed.
func (l Layout) make(ctx context.Context, o Options, complete bool) error {
	if err := l.writeMarker(o.Vault.name(), false); err != nil {
		return err
	}
	for _, path := range append(l.made(), l.Backup()) {
		if complete && (path == l.HSMConfig() || path == l.Assignments()) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("removing what an attempt left: %w", err)
		}
	}
	for _, d := range []string{l.Tokens(), l.Run(), l.State()} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	pin, err := l.newPIN(ctx, o.Vault)
	if err != nil {
		return err
	}
	defer pin.Wipe()
	if err := l.writeSoftHSMConf(); err != nil {
		return err
	}
	if err := l.makeToken(ctx, o, pin); err != nil {
		return err
	}
	if complete {
		err = l.updateHSMConfig(o)
	} else {
		err = errors.Join(ReplaceFile(l.Assignments(), assignmentsYAML, 0o600), l.writeHSMConfig(o))
	}
	if err != nil {
		return err
	}
	// An admin process that outlived a killed Prepare may have finished its
	// act in our new directory.
	if err := l.checkFiles(o.Vault); err != nil {
		return err
	}
	if err := l.saveToken(); err != nil {
		return err
	}
	return l.writeMarker(o.Vault.name(), true)
}

// newPIN makes a PIN and keeps it where it is to be kept, before there is a
// token that has it.
func (l Layout) newPIN(ctx context.Context, v *Vault) (secret.Secret, error) {
	random := make([]byte, pinBytes)
	if _, err := rand.Read(random); err != nil {
		return secret.Secret{}, fmt.Errorf("making a PIN: %w", err)
	}
	pin := secret.New(hex.AppendEncode(nil, random))
	clear(random)
	var err error
	if v != nil {
		err = v.Put(ctx, pin)
	} else {
		err = secret.WriteFile(l.PIN(), pin)
	}
	if err != nil {
		pin.Wipe()
		return secret.Secret{}, fmt.Errorf("keeping the PIN: %w", err)
	}
	return pin, nil
}

func (l Layout) writeSoftHSMConf() error {
	data, err := l.softHSMConf()
	if err != nil {
		return err
	}
	return ReplaceFile(l.SoftHSMConf(), data, 0o600)
}

func (l Layout) softHSMConf() ([]byte, error) {
	t, err := template.New("softhsm2.conf").Parse(softhsmConf)
	if err != nil {
		return nil, fmt.Errorf("softhsm2.conf: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, map[string]string{"Tokens": l.Tokens()}); err != nil {
		return nil, fmt.Errorf("softhsm2.conf: %w", err)
	}
	return b.Bytes(), nil
}

// makeToken initialises the token, imports the demo keys, lets it make the
// subject key, and writes down what came back as the manifest.
func (l Layout) makeToken(ctx context.Context, o Options, pin secret.Secret) error {
	if _, err := l.act(ctx, o, pin, admin.Act{Operation: admin.InitToken}); err != nil {
		return err
	}
	manifest := &keys.Manifest{Deployment: "development"}
	for _, set := range demoSets() {
		value, err := set.value()
		if err != nil {
			return err
		}
		res, err := l.act(ctx, o, pin, admin.Act{
			Operation: admin.ImportDemoKey,
			Key:       &admin.DemoKey{Label: set.name + "-1", Value: value},
		})
		if err != nil {
			return err
		}
		if res.Key == nil {
			return fmt.Errorf("importing the key of %s: no description came back", set.name)
		}
		manifest.Sets = append(manifest.Sets, keys.Set{
			Name: set.name, Use: keys.UseIssuerAC, Profiles: set.profiles(),
			Versions: []keys.Version{{
				Number: 1, ID: res.Key.ID, State: keys.Active,
				CheckValue: res.Key.CheckValue, Canary: res.Key.Canary,
			}},
		})
	}
	if err := l.makeSubjectKey(ctx, o, pin, manifest); err != nil {
		return err
	}
	return l.writeManifest(manifest)
}

const environName = "SOFTHSM2_CONF"

func (l Layout) environ() string { return environName + "=" + l.SoftHSMConf() }

func (l Layout) writeHSMConfig(o Options) error {
	hash, err := worker.HashModule(o.Module)
	if err != nil {
		return err
	}
	c := supervisor.Config{
		Module:       o.Module,
		ModuleSHA256: hash.String(),
		TokenLabel:   TokenLabel,
		Environment:  map[string]string{environName: l.SoftHSMConf()},
		Manifest:     filepath.Base(l.Manifest()),
		SocketDir:    filepath.Base(l.Run()),
		StateDir:     filepath.Base(l.State()),
	}
	if o.Vault != nil {
		c.Vault = o.Vault.configFor(nil)
	} else {
		c.PINFile = filepath.Base(l.PIN())
	}
	return l.replaceHSMConfig(c)
}

// updateHSMConfig follows an update of SoftHSM's package, and Vault to another
// address. In production somebody has to look at a new module first; here the
// distribution is trusted. What a developer changed in the file stays.
func (l Layout) updateHSMConfig(o Options) error {
	data, err := os.ReadFile(l.HSMConfig())
	if err != nil {
		return err
	}
	var c supervisor.Config
	if err := strictyaml.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(l.HSMConfig()), err)
	}
	hash, err := worker.HashModule(c.Module)
	if err != nil {
		return err
	}
	if c.ModuleSHA256 == hash.String() && o.Vault == nil {
		return nil
	}
	c.ModuleSHA256 = hash.String()
	if o.Vault != nil {
		c.PINFile, c.Vault = "", o.Vault.configFor(c.Vault)
	}
	return l.replaceHSMConfig(c)
}

func (l Layout) replaceHSMConfig(c supervisor.Config) error {
	data, err := c.Marshal()
	if err != nil {
		return err
	}
	return ReplaceFile(l.HSMConfig(), data, 0o600)
}

// reuse checks that nothing is missing and follows the directory if it was
// moved: SoftHSM and its workers are told absolute paths.
func (l Layout) reuse(ctx context.Context, o Options) error {
	if err := l.checkFiles(o.Vault); err != nil {
		return err
	}
	if _, err := Heal(l.Dir); err != nil {
		return err
	}
	if err := l.saveToken(); err != nil { // also of a token that was made before copies were
		return err
	}
	want, err := l.softHSMConf()
	if err != nil {
		return err
	}
	have, err := os.ReadFile(l.SoftHSMConf())
	if err != nil {
		return err
	}
	if !bytes.Equal(have, want) {
		if err := ReplaceFile(l.SoftHSMConf(), want, 0o600); err != nil {
			return err
		}
	}
	if err := l.addSubjectKey(ctx, o); err != nil {
		return err
	}
	c, err := supervisor.LoadConfig(l.HSMConfig())
	if err != nil {
		return err
	}
	if _, err := os.Stat(c.Module); err != nil || c.Environment[environName] != l.SoftHSMConf() {
		return l.writeHSMConfig(o)
	}
	return l.updateHSMConfig(o)
}

// remedy is for a directory that cannot be mended.
const remedy = "delete the directory and start again"

// checkFiles says what is missing. Whether the token really holds the keys of
// the manifest is proved by every worker before it serves.
func (l Layout) checkFiles(v *Vault) error {
	for _, path := range l.made() {
		if v != nil && path == l.PIN() {
			continue
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is missing: %s", filepath.Base(path), remedy)
		} else if err != nil {
			return err
		}
	}
	if _, err := l.tokenObject(); err != nil {
		return err
	}
	m, err := keys.LoadManifest(l.Manifest())
	if err != nil {
		return err
	}
	if got, want := len(m.Sets), len(demoSets()); got < want {
		return fmt.Errorf("%s has %d key sets, want %d: %s", filepath.Base(l.Manifest()), got, want, remedy)
	}
	if _, err := keys.LoadAssignments(l.Assignments()); err != nil {
		return err
	}
	return nil
}
