package main

import (
	"os"
	"testing"

	"github.com/tapseal/tapseal/hsm/admin"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/internal/workertest"
	"github.com/tapseal/tapseal/keys"
)

// addSubjectKeys makes two in the token and puts both in force.
func (s *site) addSubjectKeys() {
	s.t.Helper()
	m, err := keys.LoadManifest(s.path("manifest.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	set := keys.Set{Name: "subjects", Use: keys.UseSubjectHash}
	for n := uint32(1); n <= 2; n++ {
		made := s.act(admin.Act{Operation: admin.MakeSubjectKey, Label: "subjects"}).Key
		set.Versions = append(set.Versions, keys.Version{
			Number: n, ID: made.ID, State: keys.Active, CheckValue: made.CheckValue, Canary: made.Canary,
		})
	}
	m.Sets = append(m.Sets, set)
	data, err := m.Marshal()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.path("manifest.yaml"), data, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// Two workers are two processes with a login each, and name a card alike: with
// a match, with a mismatch, and asked for it alone.
func TestWorkersAgreeOnSubjects(t *testing.T) {
	s := newSite(t)
	s.addSubjectKeys()
	s.supervise()
	s.await("all serve", serving)
	right, other := s.item(1), s.item(2)
	wrong := workertest.Spoil(right, 7)
	wrong.ID = 3
	var seen [2]map[uint64]frame.Reply
	for n := range seen {
		c := s.dial(n)
		var err error
		if seen[n], err = c.Verify(right, other, wrong); err != nil {
			t.Fatal(err)
		}
		alone, err := c.Subject(9, &right.Request.PAN, right.Request.PSN)
		if err != nil || alone.Status != frame.StatusMatched || alone.Subjects != seen[n][1].Subjects {
			t.Errorf("worker %d: asked for alone: status %x, error %v", n, alone.Status, err)
		}
		if status, err := c.Health(5); err != nil || status != frame.StatusMatched {
			t.Errorf("worker %d: health %x, error %v", n, status, err)
		}
	}
	a, b := seen[0], seen[1]
	for id, want := range map[uint64]frame.Status{1: frame.StatusMatched, 2: frame.StatusMatched, 3: frame.StatusMismatched} {
		r := a[id]
		if r.Status != want || r.Subjects != b[id].Subjects || r.Subjects[0].Version != 2 || r.Subjects[1].Version != 1 {
			t.Errorf("item %d: status %x, the same subjects %t", id, r.Status, r.Subjects == b[id].Subjects)
		}
	}
	if a[1].Subjects != a[3].Subjects || a[1].Subjects == a[2].Subjects || a[1].Subjects[0].Hash == a[1].Subjects[1].Hash {
		t.Error("cards are confused")
	}
	if out, _, status := s.run("check", "--config", s.path("hsm.yaml")); status != 0 {
		t.Errorf("check: status %d: %s", status, out)
	}
}
