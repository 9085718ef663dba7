package worker

import (
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/keys"
)

// chunkItems is how many verifications go into the token at once. More would
// save little (a crossing costs 0.1 µs for each) and let one connection, or a
// deadline, wait longer.
const chunkItems = 8

// A chunk is a few items of one connection on their way through the token.
// All its memory is reused.
type chunk struct {
	n       int
	entries [chunkItems]chunkEntry
	jobs    [chunkItems]*Job
}

type chunkEntry struct {
	item    frame.Item
	subject guessSubject
	status  frame.Status // 0 as long as the token is to be asked
	job     Job
}

// admit decides, without the token, whether the token is to be asked, and
// builds the plan if so.
func (s *Server) admit(e *chunkEntry, now int64) {
	e.status = 0
	it := &e.item
	r := &it.Request
	if status, ok := s.keys.permits(it.Key, r.Profile); !ok {
		e.status = status
		return
	}
	if expired(it, now) {
		e.status = frame.StatusExpired
		return
	}
	e.subject = s.guesses.subject(&it.Key, &r.PAN, r.PSN, it.Caller)
	if s.guesses.exhausted(e.subject, now) {
		s.refused.Add(1)
		e.status = frame.StatusGuessLimit
		return
	}
	e.job.Key = it.Key
	e.job.Err = errNotExecuted
	e.job.Outcome = cryptogram.Outcome{}
	e.job.Subject, e.job.Subjects = keys.SubjectInput{}, [2]keys.Subject{}
	if s.keys.hashes() {
		e.job.Subject = keys.NewSubjectInput(&r.PAN, r.PSN)
	}
	if err := cryptogram.BuildPlan(r, &e.job.Plan); err != nil {
		e.status = frame.StatusMalformed
	}
}

func expired(it *frame.Item, now int64) bool { return it.Deadline != 0 && now >= it.Deadline }

// execute asks the token about every entry that has no status yet, and gives
// each one its status.
func (s *Server) execute(c *chunk) {
	now := s.enter()
	n := 0
	for i := range c.n {
		e := &c.entries[i]
		switch {
		case e.status != 0:
		case expired(&e.item, now): // it may have waited for its turn
			e.status = frame.StatusExpired
		default:
			c.jobs[n] = &e.job
			n++
		}
	}
	if n > 0 {
		s.o.Token.Execute(c.jobs[:n])
	}
	s.leave()
	s.served.Add(uint64(n))
	for i := range c.n {
		e := &c.entries[i]
		if e.status != 0 {
			continue
		}
		e.status = s.keys.statusOf(&e.job, e.item.Request.Response.Kind != cryptogram.NoResponse)
		switch e.status {
		case frame.StatusMismatched:
			s.guesses.mismatched(e.subject, now)
		case frame.StatusTokenFailure:
			s.noteFailure()
		}
	}
}
