package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/tapseal/tapseal/hsm/worker"
)

// Limits of logins.
const (
	// startLimit is how long a worker may take from its bootstrap to its
	// first report: loading the module, finding the keys, logging in, proving.
	startLimit = 15 * time.Second
	// latchPoll is how often a stopped supervisor looks whether an operator
	// has unlocked it.
	latchPoll = 250 * time.Millisecond
)

// errStopped means that no login may be tried.
var errStopped = errors.New("logins are stopped: " + latchHint)

// A startError is a worker that did not get ready.
type startError struct {
	kind   worker.FailureKind // empty: it died or hung without a report
	detail string
}

func (e *startError) Error() string {
	if e.kind == "" {
		return "worker did not report: " + e.detail
	}
	return fmt.Sprintf("worker failed: %s", e.detail)
}

// logins has the PIN and decides whether it is used. One login happens at a
// time, over all processes with the same state directory, and the next one
// only when the result of the one before is known.
type logins struct {
	latch    latch
	tries    tries
	lockPath string
	keeper   *pinKeeper
	log      *slog.Logger
	turn     chan struct{} // holds one token

	mu      sync.Mutex // guards what follows
	noPIN   string     // why an operator's unlock is not done yet
	stopped *LatchRecord
	durable bool   // the latch file was seen or written
	proven  string // version of the PIN that succeeded last, in case the disk is full
	counts  map[string]uint64
	changed chan struct{} // closed when stopped changes
}

// A login is one that is under way.
type login struct {
	version string // of its PIN
	proven  bool   // that PIN was right the last time
	unknown int    // logins without a known result before it
}

// newLogins reads the latch, and the PIN unless it is latched. It takes over
// the source, also when it fails.
func newLogins(c *Config, source pinSource, log *slog.Logger) (*logins, error) {
	l := &logins{
		latch: newLatch(c.StateDir), tries: newTries(c), lockPath: loginLock(c.StateDir), keeper: newKeeper(source),
		log: log, turn: make(chan struct{}, 1), counts: map[string]uint64{}, changed: make(chan struct{}),
	}
	if err := l.prepare(c.StateDir); err != nil {
		l.keeper.close()
		return nil, Problem{"state_dir", fmt.Sprintf("a login latch could not be written: %v", withoutPath(err))}
	}
	if r, ok := l.latch.read(); ok {
		l.stopped, l.durable = &r, true
		l.keeper.forget() // it is read after the unlock
		log.Error("logins are stopped", "reason", r.Reason, "since", r.Time, "what_to_do", latchHint)
		return l, nil
	}
	pin, err := l.keeper.fresh(context.Background())
	pin.Wipe()
	if err != nil {
		l.keeper.close()
		return nil, err
	}
	return l, nil
}

// loginLock is the file whose lock is held by who logs in or changes the tries.
func loginLock(stateDir string) string { return filepath.Join(stateDir, "login.lock") }

// prepare waits for a login of another process: that one may be writing.
func (l *logins) prepare(stateDir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*startLimit)
	defer cancel()
	lock, err := waitLock(ctx, l.lockPath)
	if err != nil {
		return err
	}
	defer lock.Close() //nolint:errcheck // ends the lock
	return testWriting(stateDir)
}

// close forgets the PIN.
func (l *logins) close() { l.keeper.close() }

// attempt gives p its bootstrap when it is its turn, and waits for the first
// report. After an error p is dead or dying.
func (l *logins) attempt(ctx context.Context, p *process, b *worker.Bootstrap) (worker.Report, error) {
	leave, err := l.enter(ctx)
	if err != nil {
		p.kill()
		return worker.Report{}, err
	}
	defer leave()
	pin, err := l.currentPIN(ctx)
	if err != nil {
		p.kill()
		return worker.Report{}, err
	}
	defer pin.Wipe()
	try, err := l.begin(pin.version)
	if err != nil {
		p.kill()
		return worker.Report{}, err
	}
	b.PIN = pin.Secret
	report, err := p.await(b)
	l.record(try, err)
	if err != nil {
		p.kill()
		return worker.Report{}, err
	}
	return report, nil
}

// enter waits for its turn in this process and among all processes.
func (l *logins) enter(ctx context.Context) (leave func(), err error) {
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	lock, err := waitLock(ctx, l.lockPath)
	if err != nil {
		<-l.turn
		return nil, fmt.Errorf("waiting for the turn to log in: %w", err)
	}
	return func() {
		_ = lock.Close()
		<-l.turn
	}, nil
}

// currentPIN looks at the latch file as well: another process may have set it.
func (l *logins) currentPIN(ctx context.Context) (userPIN, error) {
	if !l.allowed() {
		return userPIN{}, errStopped
	}
	pin, err := l.keeper.pin(ctx)
	if err != nil {
		return userPIN{}, fmt.Errorf("no PIN for a login: %w", err)
	}
	return pin, nil
}

// begin remembers durably that a login is under way, unless the PIN was right
// the last time: who dies in such a login has said nothing about the PIN, and
// must not stop the service.
func (l *logins) begin(version string) (login, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	try := login{version: version}
	if version != "" && (version == l.proven || l.tries.proven(version)) {
		try.proven = true
		return try, nil
	}
	if try.unknown = l.tries.unknown(); try.unknown >= maxUnknownLogins {
		l.stopNow(reasonUnknown)
		return try, errStopped
	}
	if err := l.tries.setUnknown(try.unknown + 1); err != nil {
		return try, Problem{"state_dir", fmt.Sprintf("a login that could be forgotten is not tried: %v", err)}
	}
	return try, nil
}

func (l *logins) allowed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped == nil {
		if r, ok := l.latch.read(); ok {
			l.stop(r, true)
		}
	}
	return l.stopped == nil
}

// await boots p and waits for what becomes of it. It does not give up when the
// supervisor is told to stop: a login under way must have a known result.
func (p *process) await(b *worker.Bootstrap) (worker.Report, error) {
	if err := p.boot(b, startLimit); err != nil {
		return worker.Report{}, &startError{detail: err.Error()}
	}
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	select {
	case r := <-p.outcome:
		return outcomeError(r)
	case <-limit.C:
		p.kill()
		return worker.Report{}, &startError{detail: fmt.Sprintf("nothing within %s", startLimit)}
	case <-p.exited:
	}
	select {
	case r := <-p.outcome: // its last words
		return outcomeError(r)
	default:
		return worker.Report{}, &startError{detail: p.ended()}
	}
}

func outcomeError(r worker.Report) (worker.Report, error) {
	if r.Failed != nil {
		return r, &startError{kind: r.Failed.Kind, detail: fmt.Sprintf("%s: %s", r.Failed.Kind, r.Failed.Detail)}
	}
	return r, nil
}

// record draws the consequences of one login.
func (l *logins) record(try login, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var failed *startError
	switch {
	case err == nil:
		l.counts["ok"]++
		l.accept(try)
	case errors.As(err, &failed) && failed.kind == worker.FailurePINRefused:
		l.counts["refused"]++
		l.stopNow(reasonPINRefused)
	case failed != nil && failed.kind == worker.FailureKeys:
		l.counts["failed"]++
		l.accept(try) // who looked at the keys was logged in
	case failed != nil && failed.kind != "":
		// The worker lived to say that something else is wrong. That says
		// nothing about the logins before.
		l.counts["failed"]++
		if !try.proven {
			l.warn(l.tries.setUnknown(try.unknown))
		}
	default:
		l.counts["unknown"]++ // and what begin has written stays
		if !try.proven && try.unknown+1 >= maxUnknownLogins {
			l.stopNow(reasonUnknown)
		}
	}
}

// accept remembers that the PIN is right; the token counts from zero again.
// Called with mu held.
func (l *logins) accept(try login) {
	l.proven = try.version
	l.warn(l.tries.prove(try.version))
	l.warn(l.tries.setUnknown(0))
}

func (l *logins) warn(err error) {
	if err != nil {
		l.log.Warn("the result of a login is not remembered", "error", err)
	}
}

// stopNow latches in memory first: nothing may undo it while the file is
// being written. Called with mu held.
func (l *logins) stopNow(reason string) {
	r := LatchRecord{Time: time.Now().UTC().Truncate(time.Second), Reason: reason}
	err := l.latch.set(r)
	if err == nil {
		l.warn(l.tries.forget()) // the latch stands for it
	} else {
		l.log.Error("the login latch is only in memory", "error", err)
		l.warn(l.tries.disprove())
	}
	l.stop(r, err == nil)
}

// stop is called with mu held.
func (l *logins) stop(r LatchRecord, durable bool) {
	l.stopped, l.durable, l.proven, l.noPIN = &r, durable, "", ""
	l.keeper.forget()
	l.log.Error("logins are stopped", "reason", r.Reason, "since", r.Time, "what_to_do", latchHint)
	close(l.changed)
	l.changed = make(chan struct{})
}

// watch notices an operator's unlock until ctx ends.
func (l *logins) watch(ctx context.Context) {
	for sleep(ctx, latchPoll) {
		if l.unlocked() {
			l.resume(ctx)
		}
	}
}

func (l *logins) unlocked() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped == nil {
		return false
	}
	if !l.durable {
		l.durable = l.latch.set(*l.stopped) == nil
		return false
	}
	_, ok := l.latch.read()
	return !ok
}

// resume allows logins again, with a PIN that was read after the unlock.
func (l *logins) resume(ctx context.Context) {
	pin, err := l.keeper.fresh(ctx)
	pin.Wipe()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if why := err.Error(); why != l.noPIN && ctx.Err() == nil {
			l.noPIN = why
			l.log.Error("logins are unlocked, but there is no PIN", "error", err)
		}
		return
	}
	l.stopped = nil
	l.log.Info("logins are allowed again")
	close(l.changed)
	l.changed = make(chan struct{})
}

// waitAllowed waits until logins are allowed.
func (l *logins) waitAllowed(ctx context.Context) {
	for {
		l.mu.Lock()
		stopped, changed := l.stopped != nil, l.changed
		l.mu.Unlock()
		if !stopped {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// state is for the status page.
func (l *logins) state() (*LatchRecord, map[string]uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := make(map[string]uint64, len(l.counts))
	for k, v := range l.counts {
		counts[k] = v
	}
	if l.stopped == nil {
		return nil, counts
	}
	r := *l.stopped
	return &r, counts
}
