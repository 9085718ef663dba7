package server

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/store"
	"github.com/tapseal/tapseal/keys"
)

const (
	// subjectWithin bounds the wait for the HSM to name a token.
	subjectWithin = 5 * time.Second
	// minStopDigits keeps a slip of the finger from stopping a whole scheme.
	minStopDigits  = 6
	maxDeviceBytes = 64
)

// A target is what an act is about. Exactly one of token, device and stop is set.
type target struct {
	token   [2]store.Subject
	device  state.Key
	stop    state.StandingStop // without who, when and why
	subject string             // for the journal: it has no PAN
}

func (t *target) isToken() bool { return t.token[0].Version != 0 }
func (t *target) isStop() bool  { return t.stop.Kind != "" }

// readTarget checks a target, and has the HSM name a token. The error is a status.
func (a *administration) readTarget(ctx context.Context, m *tapsealv1.Target) (target, error) {
	switch what := m.GetWhat().(type) {
	case *tapsealv1.Target_Token:
		return a.readToken(ctx, "target.token", what.Token)
	case *tapsealv1.Target_DeviceId:
		if err := checkName("target.device_id", what.DeviceId); err != nil {
			return target{}, invalid(err)
		}
		k := state.DeviceKey(what.DeviceId)
		return target{device: k, subject: "device " + hex.EncodeToString(k[:8])}, nil
	case *tapsealv1.Target_BinRange:
		return readBIN(what.BinRange)
	case *tapsealv1.Target_Key:
		return readKey(what.Key)
	}
	return target{}, invalid(errors.New("target: one of token, device_id, bin_range and key is required"))
}

// readToken has the HSM name a token. Errors name the field and hold no digit.
func (a *administration) readToken(ctx context.Context, field string, m *tapsealv1.TokenName) (t target, err error) {
	pan, err := cryptogram.ParsePAN(m.GetPan())
	if err != nil {
		return t, invalid(fmt.Errorf("%s.pan: %w", field, err))
	}
	var psn cryptogram.PSN
	if m.GetPsn() != "" {
		if psn, err = cryptogram.ParsePSN(m.GetPsn()); err != nil {
			return t, invalid(fmt.Errorf("%s.psn: %w", field, err))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, subjectWithin)
	defer cancel()
	subjects, err := a.e.pool.Subject(ctx, pan, psn)
	switch {
	case errors.Is(err, hsm.ErrNoSubjectKey):
		return t, status.Error(codes.FailedPrecondition, "the HSM workers have no active subject key, under which tokens are kept: the manifest needs one")
	case err != nil:
		return t, status.Error(codes.Unavailable, "the HSM could not name the token, nothing was done: repeat it; tapseal status shows how the workers are")
	}
	for i := range subjects {
		if subjects[i].Version != 0 {
			t.token[i] = store.Subject{Version: subjects[i].Version, Key: state.Key(subjects[i].Hash[:state.KeyBytes])}
		}
	}
	t.subject = t.ref()
	return t, nil
}

// ref is the token_ref: what stands for the token in the journal and in events.
func (t *target) ref() string {
	return audit.Token(t.token[0].Key[:len(audit.Token{})]).String()
}

func readBIN(text string) (target, error) {
	first, last, err := keys.ParsePANRange(text)
	if err != nil {
		return target{}, invalid(fmt.Errorf("target.bin_range: %w", err))
	}
	if from, _, _ := strings.Cut(text, "-"); len(from) < minStopDigits {
		return target{}, invalid(fmt.Errorf("target.bin_range: must have at least %d digits", minStopDigits))
	}
	return target{stop: state.StandingStop{Kind: state.StopsBIN, First: first, Last: last, Name: text}, subject: "bin " + text}, nil
}

// setRule is that of key sets in the manifest.
var setRule = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func readKey(m *tapsealv1.KeyName) (target, error) {
	set := m.GetKeySet()
	if !setRule.MatchString(set) {
		return target{}, invalid(errors.New("target.key.key_set: must be 1 to 63 lower-case letters, digits and hyphens"))
	}
	name := set
	if m.GetVersion() != 0 {
		name = fmt.Sprintf("%s/%d", set, m.GetVersion())
	}
	return target{
		stop:    state.StandingStop{Kind: state.StopsKey, KeySet: set, KeyVersion: m.GetVersion(), Name: name},
		subject: "key " + name,
	}, nil
}

// checkName holds the name of a device or merchant to what a tap may say: one that
// no tap can name would stop nothing.
func checkName(field, name string) error {
	if name == "" || len(name) > maxDeviceBytes {
		return fmt.Errorf("%s: must have 1 to %d characters", field, maxDeviceBytes)
	}
	for i := range len(name) {
		if name[i] < '!' || name[i] > '~' {
			return fmt.Errorf("%s: must be printable ASCII without spaces", field)
		}
	}
	return nil
}

// assigned reports whether any assignment uses the key, or a version of the set.
func (a *administration) assigned(s *state.StandingStop) bool {
	for _, use := range a.e.rules.Assignments.KeyUses() {
		if use.KeySet == s.KeySet && (s.KeyVersion == 0 || s.KeyVersion == use.Version) {
			return true
		}
	}
	return false
}

// find is the very stop, or nil.
func find(r *state.Rules, s *state.StandingStop) *state.StandingStop {
	for i := range r.Stops {
		t := &r.Stops[i]
		if t.Kind == s.Kind && t.First == s.First && t.Last == s.Last && t.KeySet == s.KeySet && t.KeyVersion == s.KeyVersion {
			return t
		}
	}
	return nil
}

// covers reports whether one stop stops everything that the other one is about.
func covers(s, what *state.StandingStop) bool {
	switch {
	case s.Kind != what.Kind:
		return false
	case s.Kind == state.StopsBIN:
		return s.First <= what.First && what.Last <= s.Last
	}
	return s.KeySet == what.KeySet && (s.KeyVersion == 0 || s.KeyVersion == what.KeyVersion)
}
