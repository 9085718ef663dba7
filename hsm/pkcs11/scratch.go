package pkcs11

import (
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/cryptogram"
)

// A Scratch runs plans under keys imported for one request, as session objects
// of the token, whichever it is. It is not safe for concurrent use.
type Scratch struct {
	module   *module
	sessions *sessions
	engine   *engine
}

// OpenScratch logs in with exactly one try. pin is wiped in every case. Errors
// are those of Open.
func OpenScratch(cfg Config, pin []byte) (*Scratch, error) {
	s, err := login(cfg, readOnly, pin)
	if err != nil {
		return nil, fmt.Errorf("opening scratch token: %w", err)
	}
	return &Scratch{module: s.m, sessions: s, engine: newEngine(s.m.functions, false)}, nil
}

// Execute imports the root key in the faces that the plan uses, sensitive and
// not extractable, runs the plan and destroys them. Unlike in a data worker a
// plan may compute under the root itself and produce without a comparison.
// After an error of the module the session is replaced, and with it
// everything that was in it; an error that wraps ErrDead ends this value.
func (s *Scratch) Execute(root *[16]byte, p *cryptogram.Plan, o *cryptogram.Outcome) error {
	*o = cryptogram.Outcome{}
	if err := cryptogram.Validate(p, true); err != nil {
		return err
	}
	err := s.execute(root, p, o)
	var failure *callError
	if errors.As(err, &failure) || errors.Is(err, ErrModule) {
		if again := s.sessions.replace(); again != nil {
			return fmt.Errorf("%w: %w: %w", ErrDead, again, err)
		}
	}
	return err
}

func (s *Scratch) execute(root *[16]byte, p *cryptogram.Plan, o *cryptogram.Outcome) (err error) {
	var handles rootHandles
	defer func() {
		for _, h := range []p11.ObjectHandle{handles.deriving, handles.computing, handles.left} {
			if h != 0 {
				err = errors.Join(err, call("C_DestroyObject", s.module.ctx.DestroyObject(s.sessions.work, h)))
			}
		}
	}()
	deriving, computing, left := facesOf(p)
	if deriving {
		if handles.deriving, err = s.importKey(scratchRootForDeriving(), root); err != nil {
			return err
		}
	}
	if computing {
		if handles.computing, err = s.importKey(scratchRootForComputing(), root); err != nil {
			return err
		}
	}
	if left {
		twin := *root
		copy(twin[8:], twin[:8])
		defer clear(twin[:])
		if handles.left, err = s.importKey(scratchRootForComputing(), &twin); err != nil {
			return err
		}
	}
	s.engine.use(s.sessions.work)
	s.engine.load(0, handles, p)
	s.engine.run(0, 1)
	return s.engine.take(0, o)
}

// facesOf says in which forms a plan uses the root: as the base of
// derivations, as a computing key, as the KL‖KL of that.
func facesOf(p *cryptogram.Plan) (deriving, computing, left bool) {
	for _, d := range p.Derivations[:p.NumDerivations] {
		deriving = deriving || d.Parent == cryptogram.RootKey
	}
	for i := range p.Steps[:p.NumSteps] {
		st := &p.Steps[i]
		computing = computing || st.Key == cryptogram.RootKey
		left = left || st.Op == cryptogram.RetailMAC && st.Left == cryptogram.RootKey
	}
	return deriving, computing, left
}

// importKey makes a session object of a clear value. miekg/pkcs11 copies the
// value through memory that nobody wipes, so this is for published test values.
func (s *Scratch) importKey(t template, value *[16]byte) (p11.ObjectHandle, error) {
	h, err := s.module.ctx.CreateObject(s.sessions.work, t.attributes(p11.NewAttribute(p11.CKA_VALUE, value[:])))
	return h, call("C_CreateObject", err)
}

// Close ends the login and finalises the module.
func (s *Scratch) Close() {
	if s.engine == nil {
		return
	}
	s.sessions.close()
	s.module.finalise()
	s.engine.close()
	s.engine = nil
}
