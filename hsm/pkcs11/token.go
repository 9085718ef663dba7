package pkcs11

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/keys"
)

// A Token is a data worker's login to one token, for one epoch. It implements
// worker.Token, worker.SubjectHasher and worker.KeyProof.
type Token struct {
	mu       sync.Mutex // the engine's memory and the session serve one caller
	module   *module
	sessions *sessions
	engine   *engine
	keystore *keystore
	dead     error // wraps ErrDead

	resident  bool // keep session copies of proved keys
	residents residents
	now       time.Time
	log       *slog.Logger

	deadFlag atomic.Pointer[error] // dead, for readers without the lock
	counts   counters
}

type counters struct {
	crossings, jobs, failures, replaced, wallNS, cpuNS atomic.Uint64
	resident, notResident                              atomic.Uint64
}

// Stats count since Open.
type Stats struct {
	Crossings        uint64 // calls into the module's executor
	Jobs             uint64 // plans run, canaries included
	Failures         uint64 // plans that the module answered with an error
	SessionsReplaced uint64 // sessions thrown away after an error
	ResidentKeys     uint64 // keys used from a session copy, now
	NotResident      uint64 // keys of which the token gave no right copy
	InsideNanos      uint64 // wall time inside crossings
	InsideCPUNanos   uint64 // CPU time inside crossings; 0 without Config.MeasureCPU
}

// Open loads the module, finds the token, logs in with exactly one try, and
// finds the keys of the manifest. It proves none of them: that happens before
// the first use of each. pin is wiped in every case. Errors wrap
// ErrPINRefused, ErrTokenNotFound or ErrModule.
func Open(cfg Config, pin []byte, m *keys.Manifest) (*Token, error) {
	defer clear(pin)
	ks, err := newKeystore(m)
	if err != nil {
		return nil, fmt.Errorf("opening token: %w", err)
	}
	s, err := login(cfg, readOnly, pin)
	if err != nil {
		return nil, fmt.Errorf("opening token: %w", err)
	}
	mod := s.m
	t := &Token{
		module: mod, sessions: s, keystore: ks, engine: newEngine(mod.functions, cfg.MeasureCPU),
		resident: cfg.ResidentKeys, log: cfg.Log,
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	t.engine.use(s.work)
	if err := ks.index(mod.ctx, s.work); err != nil {
		return nil, errors.Join(fmt.Errorf("opening token: %w: %w", ErrModule, err), t.Close())
	}
	for _, k := range ks.keys {
		if k.refused != nil {
			t.report(k)
		}
	}
	return t, nil
}

// report says once, when it is found out, that a key will not be used: another
// worker may well use it, so callers alone might never notice.
func (t *Token) report(k *heldKey) {
	t.log.Error("a key is refused for as long as this worker lives", "key", k.version.ID.String(),
		"version", k.version.Number, "reason", k.refused.Error())
}

// Execute runs the jobs, as worker.Token says. It allocates nothing unless
// something fails.
func (t *Token) Execute(jobs []*worker.Job) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(jobs) > 0 {
		n := min(len(jobs), chunkJobs)
		t.executeChunk(jobs[:n])
		jobs = jobs[n:]
	}
}

func (t *Token) executeChunk(jobs []*worker.Job) {
	if t.resident {
		t.tick()
	}
	// Proofs use the engine themselves, so they come before any loading.
	for _, j := range jobs {
		j.Outcome, j.Subjects = cryptogram.Outcome{}, [2]keys.Subject{}
		j.Err = t.admit(j)
	}
	var loaded [chunkJobs]*worker.Job
	n := 0
	for _, j := range jobs {
		if j.Err == nil {
			t.load(n, j)
			loaded[n] = j
			n++
		}
	}
	t.run(n, func(i int) { t.noteGone(i, t.keystore.keys[loaded[i].Key]) })
	for i, j := range loaded[:n] {
		if j.Err = t.take(i, j); j.Err != nil && t.dead != nil {
			j.Err = fmt.Errorf("%w: %w", t.dead, j.Err)
		}
	}
}

// tick lets resident keys be looked for: nothing else depends on the time.
func (t *Token) tick() {
	t.now = time.Now()
	t.lookForResidents()
}

func (t *Token) load(i int, j *worker.Job) {
	t.engine.load(i, rootHandles{deriving: t.keystore.keys[j.Key].root()}, &j.Plan)
	if !j.Subject.IsZero() {
		t.engine.loadSubject(i, t.keystore.hashing(), j.Subject.Bytes())
	}
}

func (t *Token) take(i int, j *worker.Job) error {
	if err := t.engine.take(i, &j.Outcome); err != nil {
		return err
	}
	if !j.Subject.IsZero() {
		j.Subjects = t.takeSubjects(i)
	}
	return nil
}

// admit checks what must hold before a job may touch its key.
func (t *Token) admit(j *worker.Job) error {
	if err := cryptogram.Validate(&j.Plan, false); err != nil {
		return err
	}
	if t.dead != nil {
		return t.dead
	}
	k, known := t.keystore.keys[j.Key]
	switch {
	case !known:
		return worker.ErrKeyUnknown
	case k.use != keys.UseIssuerAC:
		return worker.ErrNotBound
	}
	if err := t.usable(k); err != nil {
		return err
	}
	if j.Subject.IsZero() {
		return nil
	}
	return t.admitSubject()
}

// usable proves a key that was not proved yet.
func (t *Token) usable(k *heldKey) error {
	switch {
	case k.refused != nil:
		return k.refused
	case k.proven:
		if k.copied != 0 {
			return t.residents.err
		}
		return nil
	}
	return t.prove(k)
}

// run executes the first n loaded jobs. After a failure the session is
// replaced and the jobs behind the failed one go on; the failed one is not
// tried again here: it may be what breaks the session.
func (t *Token) run(n int, failed func(i int)) {
	for first := 0; first < n && t.dead == nil; {
		ran := t.engine.run(first, n)
		first += ran
		last := first - 1
		t.count(ran)
		if t.engine.failed(last) {
			t.counts.failures.Add(1)
			failed(last)
			t.recover(t.engine.code(last), t.engine.failure(last))
		}
	}
}

var errCopyLost = errors.New("the module has lost a session object")

// noteGone draws the consequences if job i failed because the object of its key
// k, or of a subject key, is not there any more.
func (t *Token) noteGone(i int, k *heldKey) {
	if which, gone := t.engine.subjectGone(i); gone {
		k = t.keystore.subjects[which]
	} else if !t.engine.rootGone(i) {
		return
	}
	if k.copied == 0 {
		t.refuse(k, goneText)
	} else {
		// Nobody else destroys a session object: a module that loses one
		// may give its handle to another.
		t.die(errCopyLost)
	}
}

// recover replaces the session after an error, or ends the epoch.
func (t *Token) recover(rv p11.Error, cause error) {
	if endsEpoch(rv) {
		t.die(cause)
		return
	}
	if err := t.sessions.replace(); err != nil {
		t.die(err)
		return
	}
	t.engine.use(t.sessions.work)
	t.counts.replaced.Add(1)
}

func (t *Token) die(cause error) {
	t.dead = fmt.Errorf("%w: %w", ErrDead, cause)
	t.deadFlag.Store(&t.dead)
}

// Dead gives the error that ended this epoch, nil while it lasts. It does not
// wait for a running Execute.
func (t *Token) Dead() error {
	if p := t.deadFlag.Load(); p != nil {
		return *p
	}
	return nil
}

// Prove runs the whole proof of one key now, as worker.KeyProof says. A key
// that fails is refused for the rest of the epoch. Errors wrap
// worker.ErrKeyUnknown or worker.ErrKeyUnproven; any other means that the
// module could not tell.
func (t *Token) Prove(id keys.ID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dead != nil {
		return t.dead
	}
	k, known := t.keystore.keys[id]
	switch {
	case !known:
		return worker.ErrKeyUnknown
	case k.refused != nil:
		return k.refused
	}
	return t.prove(k)
}

// prove compares attributes and check value, then runs the canary, all on the
// token object; the same for a resident copy. Only a difference is remembered:
// an error of the module says nothing about the key.
func (t *Token) prove(k *heldKey) error {
	fault, err := k.examine(t.module.ctx, t.sessions.work)
	if err == nil && fault == "" {
		fault, err = t.canary(k, k.handle, func() { t.refuse(k, goneText) })
	} else if err != nil {
		t.afterCallError(k, err)
	}
	if k.refused != nil { // the object went away meanwhile
		return k.refused
	}
	if err != nil {
		return fmt.Errorf("proving key %s: %w", k.version.ID, err)
	}
	if fault != "" {
		t.refuse(k, fault)
		return k.refused
	}
	if err := t.keepResident(k); err != nil {
		k.proven = false
		return fmt.Errorf("proving key %s: %w", k.version.ID, err)
	}
	k.proven = true
	return nil
}

// afterCallError draws the consequences of an error outside the engine.
func (t *Token) afterCallError(k *heldKey, err error) {
	var failure *callError
	if errors.As(err, &failure) && isGone(failure.rv) {
		t.refuse(k, goneText)
	}
	t.noteCallError(err)
}

// noteCallError counts an error of the module and replaces the session.
func (t *Token) noteCallError(err error) {
	t.counts.failures.Add(1)
	var failure *callError
	if errors.As(err, &failure) {
		t.recover(failure.rv, err)
	}
}

// canary runs the canary of a key from the object h, calling gone if the
// module says that there is no such object.
func (t *Token) canary(k *heldKey, h p11.ObjectHandle, gone func()) (fault string, err error) {
	if k.use == keys.UseSubjectHash {
		return t.subjectCanary(k, h, gone)
	}
	var plan cryptogram.Plan
	var out cryptogram.Outcome
	cryptogram.CanaryPlan(k.version.Canary, &plan)
	if err := cryptogram.Validate(&plan, false); err != nil {
		return "", err
	}
	t.engine.load(0, rootHandles{deriving: h}, &plan)
	t.run(1, func(i int) {
		if t.engine.rootGone(i) {
			gone()
		}
	})
	if err := t.engine.take(0, &out); err != nil {
		return "", err
	}
	return canaryVerdict(&out), nil
}

func (t *Token) count(jobs int) {
	t.counts.crossings.Add(1)
	t.counts.jobs.Add(uint64(jobs))
	t.counts.wallNS.Store(t.engine.wallNS())
	t.counts.cpuNS.Store(t.engine.cpuNS())
}

// Stats may be called at any time, also during Execute.
func (t *Token) Stats() Stats {
	return Stats{
		Crossings:        t.counts.crossings.Load(),
		Jobs:             t.counts.jobs.Load(),
		Failures:         t.counts.failures.Load(),
		SessionsReplaced: t.counts.replaced.Load(),
		ResidentKeys:     t.counts.resident.Load(),
		NotResident:      t.counts.notResident.Load(),
		InsideNanos:      t.counts.wallNS.Load(),
		InsideCPUNanos:   t.counts.cpuNS.Load(),
	}
}

// Close waits for a running Execute, then ends the login and finalises the
// module. A process that is killed instead loses nothing, but for SoftHSM's
// token itself if that happens in its login: see softhsm-config/README.md.
func (t *Token) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.engine == nil {
		return nil
	}
	if t.dead == nil {
		t.die(errors.New("closed"))
	}
	t.sessions.close()
	t.module.finalise()
	t.engine.close()
	t.engine = nil
	return nil
}
