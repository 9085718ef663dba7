package supervisor

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Asking for the PIN.
const (
	// freshWait is how long a login waits for a source that is slow while
	// there is a PIN from the time before: a worker that was killed must be
	// back within 2 s, and one question may take longer than that.
	freshWait = 500 * time.Millisecond
	// refreshEvery lets the age of a kept PIN count from the time when the
	// source went away, not from the last login.
	refreshEvery = time.Minute
)

var errClosed = errors.New("the supervisor ends")

// A pinKeeper asks the source before every login and now and then, one
// question at a time, and has the last answer for a login that cannot wait.
// How old a PIN may be is the source's to say: an error from it is final.
type pinKeeper struct {
	source pinSource
	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu      sync.Mutex // guards what follows
	kept    userPIN
	err     error
	asked   time.Time
	asking  chan struct{} // closed with the answer; nil: no question under way
	refused bool          // what is kept or under way is not wanted any more
}

func newKeeper(source pinSource) *pinKeeper {
	k := &pinKeeper{source: source}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

// ask starts a question unless one is under way.
func (k *pinKeeper) ask() (answered <-chan struct{}, asked time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.asking != nil {
		return k.asking, k.asked
	}
	done := make(chan struct{})
	k.asking, k.asked, k.refused = done, time.Now(), false
	go func() {
		defer close(done)
		pin, err := k.source.PIN(k.ctx)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.asking = nil
		if k.refused {
			pin.Wipe()
			return
		}
		k.kept.Wipe()
		k.kept, k.err = pin, err
	}()
	return done, k.asked
}

// pin gives the PIN for a login; the caller wipes it.
func (k *pinKeeper) pin(ctx context.Context) (userPIN, error) {
	answered, asked := k.ask()
	patience := time.NewTimer(time.Until(asked.Add(freshWait)))
	defer patience.Stop()
	select {
	case <-answered:
		return k.answer()
	case <-ctx.Done():
		return userPIN{}, ctx.Err()
	case <-patience.C:
	}
	if pin, err := k.answer(); err == nil {
		return pin, nil
	}
	return k.await(ctx, answered)
}

// fresh is pin without regard to what was asked before now.
func (k *pinKeeper) fresh(ctx context.Context) (userPIN, error) {
	k.mu.Lock()
	before := k.asking
	k.mu.Unlock()
	if before != nil {
		if _, err := k.await(ctx, before); ctx.Err() != nil {
			return userPIN{}, err
		}
	}
	answered, _ := k.ask()
	return k.await(ctx, answered)
}

func (k *pinKeeper) await(ctx context.Context, answered <-chan struct{}) (userPIN, error) {
	select {
	case <-answered:
		return k.answer()
	case <-ctx.Done():
		return userPIN{}, ctx.Err()
	}
}

func (k *pinKeeper) answer() (userPIN, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.err != nil:
		return userPIN{}, k.err
	case k.kept.IsZero():
		return userPIN{}, errors.New("there is no PIN yet")
	}
	return k.kept.clone(), nil
}

// forget wipes the PIN: the token refused it. No question may begin between
// the two halves, or the source would give it once more.
func (k *pinKeeper) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept.Wipe()
	k.kept, k.refused = userPIN{}, k.asking != nil
	k.source.Forget()
}

// refresh asks until ctx ends, while wanted.
func (k *pinKeeper) refresh(ctx context.Context, wanted func() bool) {
	for sleep(ctx, refreshEvery) {
		if wanted() {
			k.ask()
		}
	}
}

// close wipes the PIN and ends the source. Nobody may ask any more.
func (k *pinKeeper) close() {
	k.cancel()
	k.mu.Lock()
	asking := k.asking
	k.mu.Unlock()
	if asking != nil {
		<-asking
	}
	k.mu.Lock()
	k.kept.Wipe()
	k.kept, k.err = userPIN{}, errClosed
	k.mu.Unlock()
	k.source.Close()
}
