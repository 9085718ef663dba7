package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What the load does with each token.
const (
	tapsOfToken = 4 // all of which a token remembers
	// maxFold is how often one cryptogram is sent at most, each time under another
	// request id.
	maxFold = 8
)

// A Load asks without end.
type Load struct {
	c      *Cluster
	o      *Oracle
	next   atomic.Int64 // token that was not used yet
	cancel context.CancelFunc
	lanes  sync.WaitGroup
}

// LoadOptions say how much.
type LoadOptions struct {
	Lanes int           // goroutines that ask at the same time
	Wave  int           // cryptograms that a lane asks about at once
	Pause time.Duration // between waves of a lane
	First int           // token from which on new ones are taken
}

// StartLoad asks all daemons of the cluster until Stop, and keeps what it
// learns in o.
func (c *Cluster) StartLoad(o *Oracle, l LoadOptions) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	load := &Load{c: c, o: o, cancel: cancel}
	load.next.Store(int64(l.First))
	for lane := range l.Lanes {
		load.lanes.Go(func() { load.lane(ctx, lane, l) })
	}
	return load
}

// Stop waits until everything that was asked is answered.
func (l *Load) Stop() {
	l.cancel()
	l.lanes.Wait()
}

func (l *Load) lane(ctx context.Context, lane int, options LoadOptions) {
	a := newAsker(l.c.Daemons, l.o)
	defer a.close()
	for n := 0; ctx.Err() == nil; n++ {
		first := int(l.next.Add(int64(options.Wave))) - options.Wave
		// Counters come out of order: 2, 1, 4, 3.
		for i := range tapsOfToken {
			if ctx.Err() != nil {
				return
			}
			atc := uint16(i ^ 1 + 1)
			wave := mixedWave(first, options.Wave, atc)
			l.run(a, wave, lane, n%8 == 7)
			sleep(ctx, options.Pause)
		}
	}
}

// mixedWave is one transaction of each of n tokens: most are sent once, some
// many times, and some are wrong.
func mixedWave(first, n int, atc uint16) []*Cryptogram {
	wave := make([]*Cryptogram, n)
	for i := range wave {
		x := Transaction{Token: (first + i) % MaxTokens, ATC: atc}
		fold := 1
		switch m := mix(uint64(first+i)<<16 | uint64(atc)); {
		case m%32 == 0:
			x.Wrong = true
			x.ATC += 100 // the right one follows, and a counter of a wrong one counts for nothing
		case m%4 == 1:
			fold = 2 + int(m>>8%(maxFold-1))
		}
		wave[i] = newCryptogram(x, fmt.Sprintf("t%d.%d", first+i, x.ATC), fold)
	}
	return wave
}

// mix spreads a number's bits (the finaliser of SplitMix64), so that a load is
// mixed and yet the same each time.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// run asks about all cryptograms of a wave at once, those with several
// requests at several daemons, until all have their answers.
func (l *Load) run(a *asker, wave []*Cryptogram, lane int, unary bool) {
	l.ask(a, wave, lane, unary)
	l.o.keep(wave)
}

func (l *Load) ask(a *asker, wave []*Cryptogram, lane int, unary bool) {
	var requests []*Request
	place := map[*Request]int{}
	for i, c := range wave {
		for k, r := range c.Requests {
			requests = append(requests, r)
			place[r] = lane + i + k
		}
	}
	a.settle(context.Background(), requests, func(r *Request) int { return place[r] }, unary)
	l.o.conclude(wave)
}

// Duplicate asks n times about a cryptogram of its own, maxFold times in parallel
// at all daemons, each time under another id. What it learns is checked and not
// kept.
func (c *Cluster) Duplicate(o *Oracle, first, n int) {
	const lanes, size = 2, 64 // more would only wait for the workers
	l := &Load{c: c, o: o}
	var next atomic.Int64
	for lane := range lanes {
		l.lanes.Go(func() {
			a := newAsker(c.Daemons, o)
			defer a.close()
			for {
				from := int(next.Add(size)) - size
				if from >= n {
					return
				}
				wave := make([]*Cryptogram, min(size, n-from))
				for i := range wave {
					at := from + i
					x := Transaction{Token: first + at/tapsOfToken, ATC: uint16(1 + at%tapsOfToken)}
					wave[i] = newCryptogram(x, fmt.Sprintf("d%d", at), maxFold)
				}
				l.ask(a, wave, lane, false)
			}
		})
	}
	l.lanes.Wait()
}

// Recheck asks every request that was accepted again, at every daemon: it must
// be VALID as a repeat, or something acknowledged is lost. One refused request
// of each cryptogram is asked again too, and must stay refused. It gives the
// number of answers.
func (c *Cluster) Recheck(o *Oracle) int64 {
	o.mu.Lock()
	all := o.kept
	o.mu.Unlock()
	before := o.Counts()
	const lanes, chunk = 4, 128
	var next atomic.Int64
	var group sync.WaitGroup
	for range lanes {
		group.Go(func() {
			a := newAsker(c.Daemons, o)
			defer a.close()
			for {
				to := int(next.Add(chunk))
				if to-chunk >= len(all) {
					return
				}
				a.recheck(all[to-chunk : min(to, len(all))])
			}
		})
	}
	group.Wait()
	after := o.Counts()
	return after.Repeated + after.Replayed - before.Repeated - before.Replayed
}

// recheck asks what is known about some cryptograms again.
func (a *asker) recheck(all []*Cryptogram) {
	var again []*Request
	for _, c := range all {
		refused := false
		for _, r := range c.Requests {
			if r.accepted || (r.refused && !refused && !c.Wrong) {
				refused = refused || r.refused
				again = append(again, r)
			}
		}
	}
	for d := range a.daemons {
		a.onceMore(d, again)
	}
}

// onceMore asks one daemon until each request has one more answer.
func (a *asker) onceMore(daemon int, requests []*Request) {
	had := make(map[*Request]int, len(requests))
	for _, r := range requests {
		had[r] = r.answers
	}
	for end := time.Now().Add(patience); len(requests) > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			a.o.violated("%d requests were not answered again by %s", len(requests), a.daemons[daemon].Name)
			return
		}
		byDaemon := make([][]*Request, len(a.daemons))
		byDaemon[daemon] = requests
		a.askAll(context.Background(), byDaemon, false)
		requests = slices.DeleteFunc(slices.Clone(requests), func(r *Request) bool { return r.answers > had[r] })
	}
}
