// Package workertest is what the tests of worker, supervisor and command have
// in common: keys in software, requests whose answer is known, and a client
// that speaks plain frames. Nothing but tests imports it.
package workertest

import (
	"fmt"
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/keys"
)

// A Key is an issuer key in clear: a published test value.
type Key [16]byte

// Keys of the test manifest.
var (
	VisaKey      = Key{0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF, 0xFE, 0xDC, 0xBA, 0x98, 0x76, 0x54, 0x32, 0x10}
	SuspendedKey = Key{0x23, 0x15, 0x20, 0x8C, 0x91, 0x10, 0xAD, 0x40, 0x23, 0x15, 0x20, 0x8C, 0x91, 0x10, 0xAD, 0x45}
	AbsentKey    = Key{0x9E, 0x15, 0x20, 0x43, 0x13, 0xF7, 0x31, 0x8A, 0xCB, 0x79, 0xB9, 0x0B, 0xD9, 0x86, 0xAD, 0x29}
)

// ID is the id of a test key.
func (k Key) ID() keys.ID {
	id := keys.ID(k)
	id[0] ^= 0x55
	return id
}

// Version describes the key for a manifest.
func (k Key) Version(state keys.State) keys.Version {
	return keys.Version{Number: 1, ID: k.ID(), State: state, CheckValue: software.CheckValue(k[:]), Canary: k.canary()}
}

func (k Key) canary() [8]byte {
	var p cryptogram.Plan
	var o cryptogram.Outcome
	cryptogram.CanaryBirthPlan(&p)
	if err := software.Execute(k, &p, &o); err != nil {
		panic(err) // a fixed plan
	}
	return o.Steps[0].Bytes
}

// Manifest has an active key for two Visa profiles, a suspended one, and an
// active one that Token does not hold.
func Manifest() *keys.Manifest {
	visa := []cryptogram.ProfileID{cryptogram.VisaCVN10, cryptogram.VisaCVN18}
	set := func(name string, v keys.Version) keys.Set {
		return keys.Set{Name: name, Use: keys.UseIssuerAC, Profiles: visa, Versions: []keys.Version{v}}
	}
	return &keys.Manifest{Deployment: "test", Sets: []keys.Set{
		set("visa", VisaKey.Version(keys.Active)),
		set("visa-old", SuspendedKey.Version(keys.Suspended)),
		set("visa-absent", AbsentKey.Version(keys.Active)),
	}}
}

// A Token executes plans in software. The hooks, if set, run before each
// crossing and may say how it fails.
type Token struct {
	Held     map[keys.ID]Key
	Subjects []HeldSubjectKey // current first, see Hashing
	Before   func() error
	Pause    time.Duration // a token takes its time
}

// NewToken holds the active and the suspended key.
func NewToken() *Token {
	return &Token{Held: map[keys.ID]Key{VisaKey.ID(): VisaKey, SuspendedKey.ID(): SuspendedKey}}
}

// Execute implements worker.Token.
func (t *Token) Execute(jobs []*worker.Job) {
	if t.Pause > 0 {
		time.Sleep(t.Pause)
	}
	for _, j := range jobs {
		j.Err = t.execute(j)
	}
}

func (t *Token) execute(j *worker.Job) error {
	if t.Before != nil {
		if err := t.Before(); err != nil {
			return err
		}
	}
	k, ok := t.Held[j.Key]
	if !ok {
		return worker.ErrKeyUnproven
	}
	if err := cryptogram.Validate(&j.Plan, false); err != nil {
		return fmt.Errorf("validating: %w", err)
	}
	j.Subjects = [2]keys.Subject{}
	if !j.Subject.IsZero() {
		j.Subjects = t.subjects(&j.Subject)
	}
	return software.Execute(k, &j.Plan, &j.Outcome)
}

// Prove implements worker.KeyProof.
func (t *Token) Prove(id keys.ID) error {
	for _, k := range t.Subjects {
		if k.Key.ID() == id {
			return nil
		}
	}
	if _, ok := t.Held[id]; !ok {
		return worker.ErrKeyUnproven
	}
	return nil
}
