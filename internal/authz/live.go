package authz

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tapseal/tapseal/internal/protectedfile"
)

// Live holds the policy in force. Reading is one atomic load; a reload replaces
// the whole policy at once, or on any error leaves the old one alone. Before the
// first Load nobody may do anything.
type Live struct {
	current atomic.Pointer[Policy]

	mu       sync.Mutex // one reload at a time
	required []string
	since    time.Time
	now      func() time.Time // nil is time.Now
}

// NewLive returns a holder without a policy.
func NewLive() *Live { return &Live{} }

func (l *Live) clock() time.Time {
	if l.now == nil {
		return time.Now()
	}
	return l.now()
}

// Policy is the one in force; nil before the first Load.
func (l *Live) Policy() *Policy { return l.current.Load() }

// Since is when the policy was put in force; zero before the first Load.
func (l *Live) Since() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since
}

// Require adds methods, by full gRPC name, that a server has registered. Every
// policy must have a row for each: the error names those that the one in force
// leaves out, and a later Load refuses a file that leaves out any.
func (l *Live) Require(registered []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.required = append(l.required, registered...)
	slices.Sort(l.required)
	l.required = slices.Compact(l.required)
	if p := l.current.Load(); p != nil {
		return p.CoversMethods(l.required)
	}
	return nil
}

// ErrNotReviewed means that the file is not the one whose digest was given.
var ErrNotReviewed = errors.New("the policy file is not the one that was reviewed: its digest differs")

// Load puts the policy in file in force and says what changed.
func (l *Live) Load(file string) (Change, error) { return l.load(file, nil, true) }

// LoadReviewed is Load for exactly the file with this digest: between a look
// and an act the file may have been replaced.
func (l *Live) LoadReviewed(file string, reviewed Digest) (Change, error) {
	return l.load(file, &reviewed, true)
}

// Try is Load without putting the policy in force.
func (l *Live) Try(file string) (Change, error) { return l.load(file, nil, false) }

func (l *Live) load(file string, reviewed *Digest, enforce bool) (Change, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	next, err := LoadFile(file)
	if err != nil {
		return Change{}, err
	}
	if reviewed != nil && *reviewed != next.digest {
		return Change{}, fmt.Errorf("%w: it is %s", ErrNotReviewed, next.digest)
	}
	if err := next.CoversMethods(l.required); err != nil {
		return Change{}, fmt.Errorf("policy %s: %w", file, err)
	}
	before := l.current.Load()
	change := difference(before, next)
	if !enforce || !change.Changed() {
		return change, nil
	}
	l.inherit(before, next)
	l.since = l.clock()
	l.current.Store(next)
	return change, nil
}

// inherit hands the accounts of those who stay to their successors.
func (l *Live) inherit(before, next *Policy) {
	old := make(map[string]*Principal)
	for _, p := range before.Principals() {
		old[p.name] = p
	}
	for _, p := range next.principals {
		if was := old[p.name]; was != nil {
			p.account = was.account
			p.account.rescale(p.account.ticks(l.clock()), &was.limits, &p.limits)
		}
	}
}

// LoadFile reads, checks and compiles a policy file. It must be a regular file
// that belongs to root or to this process's user and that nobody else can
// write: who can edit the policy has every right in it.
func LoadFile(file string) (*Policy, error) {
	p, open, err := read(file)
	switch {
	case err != nil:
		return nil, err
	case open != nil:
		return nil, fmt.Errorf("policy %s: %w", file, open)
	}
	return p, nil
}

// Review is LoadFile for a look at a file on any desk: who owns and can write
// it, which a service insists on, is a warning. Warnings come first to last as
// in the file.
func Review(file string) (*Policy, []Fault, error) {
	p, open, err := read(file)
	if err != nil {
		return nil, nil, err
	}
	warnings := p.Warnings()
	if open != nil {
		warnings = append(warnings, Fault{Problem: "a service refuses this file, because it " + open.Error()})
	}
	return p, warnings, nil
}

// read reads and compiles a file; open says how others can change it.
func read(file string) (p *Policy, open, err error) {
	data, open, err := protectedfile.Read(file, MaxPolicyBytes)
	if err != nil {
		return nil, nil, fmt.Errorf("reading policy: %w", err)
	}
	if p, err = Parse(data); err != nil {
		return nil, nil, fmt.Errorf("policy %s: %w", file, err)
	}
	return p, open, nil
}

// A Caller follows one identity through reloads. It is for one goroutine; copy
// it for another.
type Caller struct {
	live   *Live
	uri    string
	policy *Policy
	who    *Principal
}

// Caller returns the identity's view of the policies to come.
func (l *Live) Caller(uri string) Caller { return Caller{live: l, uri: uri} }

// Principal is who the identity belongs to now. Ask at each call, and at each
// message of a stream: rights that a reload took away end there. It is one
// atomic load unless the policy changed.
func (c *Caller) Principal() (*Principal, bool) {
	if c.live == nil {
		return nil, false
	}
	if p := c.live.Policy(); p != c.policy {
		c.policy = p
		c.who, _ = p.Principal(c.uri)
	}
	return c.who, c.who != nil
}
