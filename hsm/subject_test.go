package hsm

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/keys"
)

// subjectTable has version 2 of the subject key in force, and version 1 before
// it.
func subjectTable() []frame.KeyEntry {
	return append(testTable(),
		frame.KeyEntry{ID: keys.ID{3}, Set: "subjects", Version: 1, State: keys.Active, Use: keys.UseSubjectHash},
		frame.KeyEntry{ID: keys.ID{4}, Set: "subjects", Version: 2, State: keys.Active, Use: keys.UseSubjectHash},
		frame.KeyEntry{ID: keys.ID{5}, Set: "subjects", Version: 3, State: keys.PreActive, Use: keys.UseSubjectHash},
	)
}

// hashAt is a peer's idea of a subject: the pool cannot tell.
func hashAt(version uint32, in *keys.SubjectInput) Subject {
	return Subject{Version: version, Hash: sha256.Sum256(append([]byte{byte(version)}, in.Bytes()...))}
}

func subjectAt(version uint32, it *frame.Item) Subject {
	in := keys.NewSubjectInput(&it.Request.PAN, it.Request.PSN)
	return hashAt(version, &in)
}

func bothSubjects(in *keys.SubjectInput) [2]Subject { return [2]Subject{hashAt(2, in), hashAt(1, in)} }

// hashingPeer is a healthy worker with subject keys.
func hashingPeer(p *peer) {
	p.table = subjectTable()
	p.handle = func(c *peerConn, items []frame.Item) error { return c.replyWith(items, rightReplyAndSubjects) }
	p.subject = func(id uint64, in *keys.SubjectInput) []byte {
		return subjectsFrame(frame.SubjectsReply{ID: id, Status: frame.StatusMatched, Subjects: bothSubjects(in)})
	}
}

func rightReplyAndSubjects(it *frame.Item) frame.Reply {
	r := rightReply(it)
	r.Subjects = [2]Subject{subjectAt(2, it), subjectAt(1, it)}
	return r
}

func checkSubjects(t *testing.T, calls []*Call) {
	t.Helper()
	for i, c := range calls {
		checkVerdict(t, i, c)
		in := keys.NewSubjectInput(&c.Request.PAN, c.Request.PSN)
		if c.Answer > Mismatched || c.Subjects != bothSubjects(&in) {
			t.Errorf("call %d: answer %v, or the subjects of another", i, c.Answer)
		}
	}
}

func TestCallsCarryTheirSubjects(t *testing.T) {
	dir := socketDir(t)
	startPeer(t, dir, "worker-0.sock", hashingPeer)
	startPeer(t, dir, "worker-1.sock", hashingPeer)
	p := startPool(t, dir, nil)
	waitOpen(t, p, 2)
	l := newLedger()
	calls := l.calls(t, 300, 5*time.Second)
	p.Submit(calls...)
	l.wait(t, calls)
	checkSubjects(t, calls)
	if current, previous := p.SubjectVersions(); current != 2 || previous != 1 {
		t.Errorf("versions %d and %d are in force", current, previous)
	}
	if k, ok := p.Key("subjects", 2); !ok || k.Use != keys.UseSubjectHash || k.Serves(1) {
		t.Errorf("key info %+v", k)
	}
	p.Close() // what comes after has none of what was before
	again := newLedger()
	for _, c := range calls {
		c.Sink = again
	}
	again.left.Add(len(calls))
	p.Submit(calls...)
	again.wait(t, calls)
	for i, c := range calls {
		if c.Answer != NoWorker || c.Subjects != ([2]Subject{}) {
			t.Fatalf("call %d: answer %v with a subject of before", i, c.Answer)
		}
	}
}

// A comparison without exactly the subjects that the key table promised ends
// the connection; the calls are answered, rightly, by the next.
func TestCallsWithWrongSubjectsAreNoAnswers(t *testing.T) {
	for name, subjects := range map[string]func(it *frame.Item) [2]Subject{
		"none":             func(*frame.Item) [2]Subject { return [2]Subject{} },
		"current only":     func(it *frame.Item) [2]Subject { return [2]Subject{subjectAt(2, it)} },
		"previous only":    func(it *frame.Item) [2]Subject { return [2]Subject{subjectAt(1, it)} },
		"of the next one":  func(it *frame.Item) [2]Subject { return [2]Subject{subjectAt(3, it), subjectAt(2, it)} },
		"exchanged":        func(it *frame.Item) [2]Subject { return [2]Subject{subjectAt(1, it), subjectAt(2, it)} },
		"of a later third": func(it *frame.Item) [2]Subject { return [2]Subject{subjectAt(3, it), subjectAt(1, it)} },
	} {
		t.Run(name, func(t *testing.T) {
			dir := socketDir(t)
			startPeer(t, dir, "worker-0.sock", func(p *peer) {
				hashingPeer(p)
				p.handle = func(c *peerConn, items []frame.Item) error {
					return c.replyWith(items, func(it *frame.Item) frame.Reply {
						r := rightReplyAndSubjects(it)
						if c.id == 1 {
							r.Subjects = subjects(it)
						}
						return r
					})
				}
			})
			p := startPool(t, dir, nil)
			waitOpen(t, p, 1)
			l := newLedger()
			calls := l.calls(t, 30, 5*time.Second)
			p.Submit(calls...)
			l.wait(t, calls)
			checkSubjects(t, calls)
			if s := p.Stats(); s.ConnectionsLost != 1 {
				t.Errorf("the connection was not given up: %+v", s)
			}
		})
	}
}

// What is said of the newest worker's table is what is in force.
func TestSubjectVersions(t *testing.T) {
	dir := socketDir(t)
	p := startPool(t, dir, nil)
	inForce := func(current, previous uint32) func() bool {
		return func() bool { c, b := p.SubjectVersions(); return c == current && b == previous }
	}
	if !inForce(0, 0)() {
		t.Error("versions out of nothing")
	}
	older := startPeer(t, dir, "worker-0.sock", func(p *peer) { p.table = subjectTable()[:3] })
	eventually(t, "the first version", inForce(1, 0))
	newer := startPeer(t, dir, "worker-1.sock", func(p *peer) { p.table = subjectTable() })
	eventually(t, "the rotation", inForce(2, 1))
	newer.stop()
	eventually(t, "what is left", inForce(1, 0))
	older.stop()
	eventually(t, "no connection", func() bool { return p.Stats().Connections == 0 })
	if !inForce(1, 0)() { // not reachable is not the same as not there
		t.Error("the last known versions are forgotten")
	}
}

func subjectsFrame(r frame.SubjectsReply) []byte { return frame.AppendSubjects(nil, &r) }

func testAccount(t *testing.T) (cryptogram.PAN, cryptogram.PSN, *keys.SubjectInput) {
	t.Helper()
	pan, err := cryptogram.ParsePAN("4111111111111111")
	if err != nil {
		t.Fatal(err)
	}
	psn, err := cryptogram.ParsePSN("07")
	if err != nil {
		t.Fatal(err)
	}
	in := keys.NewSubjectInput(&pan, psn)
	return pan, psn, &in
}

func TestSubject(t *testing.T) {
	pan, psn, in := testAccount(t)
	dir := socketDir(t)
	p := startPool(t, dir, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := p.Subject(ctx, pan, psn); !errors.Is(err, ErrNoWorker) {
		t.Errorf("without a worker: %v", err)
	}
	if _, err := p.Subject(ctx, cryptogram.PAN{}, psn); !errors.Is(err, ErrNoPAN) {
		t.Errorf("without a PAN: %v", err)
	}
	startPeer(t, dir, "worker-0.sock", func(p *peer) {
		hashingPeer(p)
		p.subject = func(id uint64, _ *keys.SubjectInput) []byte {
			return subjectsFrame(frame.SubjectsReply{ID: id, Status: frame.StatusTokenFailure})
		}
	})
	waitOpen(t, p, 1)
	if _, err := p.Subject(ctx, pan, psn); err == nil || !strings.Contains(err.Error(), "token_failure") || strings.Contains(err.Error(), "4111") {
		t.Errorf("a token that fails: %v", err)
	}
	startPeer(t, dir, "worker-1.sock", hashingPeer)
	waitOpen(t, p, 2)
	for range 4 { // whichever is asked first
		if s, err := p.Subject(ctx, pan, psn); err != nil || s != bothSubjects(in) {
			t.Errorf("another subject, error %v", err)
		}
	}
}

func TestSubjectWithoutAKey(t *testing.T) {
	pan, psn, _ := testAccount(t)
	dir := socketDir(t)
	startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.subject = func(id uint64, _ *keys.SubjectInput) []byte {
			return subjectsFrame(frame.SubjectsReply{ID: id, Status: frame.StatusKeyUnknown})
		}
	})
	p := startPool(t, dir, nil)
	waitOpen(t, p, 1)
	if _, err := p.Subject(context.Background(), pan, psn); !errors.Is(err, ErrNoSubjectKey) {
		t.Errorf("got %v", err)
	}
}

// A worker that is stuck, dies or breaks the protocol costs only its own try.
func TestSubjectIsAskedElsewhere(t *testing.T) {
	pan, psn, in := testAccount(t)
	for name, change := range map[string]func(*peer){
		"stuck": func(p *peer) { p.subject = nil },
		"of other versions": func(p *peer) {
			p.subject = func(id uint64, in *keys.SubjectInput) []byte {
				return subjectsFrame(frame.SubjectsReply{ID: id, Status: frame.StatusMatched, Subjects: [2]Subject{hashAt(3, in), hashAt(2, in)}})
			}
		},
		"under another id": func(p *peer) {
			p.subject = func(id uint64, in *keys.SubjectInput) []byte {
				return subjectsFrame(frame.SubjectsReply{ID: id + 1, Status: frame.StatusMatched, Subjects: bothSubjects(in)})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := socketDir(t)
			startPeer(t, dir, "worker-0.sock", func(p *peer) { hashingPeer(p); change(p) })
			startPeer(t, dir, "worker-1.sock", hashingPeer)
			p := startPool(t, dir, nil)
			waitOpen(t, p, 2)
			for range 2 {
				eventually(t, "both again", func() bool { return p.Stats().Connections == 2 })
				ctx, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
				s, err := p.Subject(ctx, pan, psn)
				if cancel(); err != nil || s != bothSubjects(in) {
					t.Errorf("another subject, error %v", err)
				}
			}
		})
	}
}

// A question is answered by its own kind of answer.
func TestCanaryForASubjectEndsTheConnection(t *testing.T) {
	pan, psn, _ := testAccount(t)
	dir := socketDir(t)
	startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.subject = func(id uint64, _ *keys.SubjectInput) []byte { return frame.AppendHealthy(nil, id, frame.StatusMatched) }
	})
	p := startPool(t, dir, nil)
	waitOpen(t, p, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if _, err := p.Subject(ctx, pan, psn); !errors.Is(err, errWentAway) {
		t.Errorf("got %v", err)
	}
}
