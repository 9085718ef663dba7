package frame

import (
	"encoding/binary"
	"fmt"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/keys"
)

// Sizes in bytes.
const (
	hashesBytes     = 2 * (4 + keys.SubjectBytes)
	minSubjectBytes = 8 + 1 + cryptogram.MinPANDigits + 1
	maxSubjectBytes = 8 + 1 + cryptogram.MaxPANDigits + 1
	subjectsBytes   = 8 + 4 + hashesBytes
)

// AppendSubject appends a Subject frame: the worker hashes the PAN and sequence
// number and answers with a Subjects frame. There must be a PAN: a worker ends
// the connection over a frame without one.
func AppendSubject(b []byte, id uint64, pan *cryptogram.PAN, psn cryptogram.PSN) []byte {
	b, start := Begin(b)
	b = binary.LittleEndian.AppendUint64(b, id)
	b = append(b, byte(pan.Len()))
	b = pan.AppendDigits(b)
	b = append(b, psn.BCD())
	End(b, start, TypeSubject, 0)
	return b
}

// DecodeSubject reads the payload of a Subject frame.
func DecodeSubject(b []byte) (id uint64, pan cryptogram.PAN, psn cryptogram.PSN, err error) {
	d := decoder{b: b}
	id = d.u64()
	d.account(&pan, &psn)
	if d.bad || len(d.b) != 0 {
		return 0, cryptogram.PAN{}, cryptogram.PSN{}, fmt.Errorf("%w: subject", ErrFrame)
	}
	return id, pan, psn, nil
}

// A SubjectsReply answers a Subject frame. StatusMatched means that Subjects
// were computed: there is a current one, and a previous one during a rotation.
// Beside any other status there is none.
type SubjectsReply struct {
	ID       uint64
	Status   Status
	Subjects [2]keys.Subject // current, previous
}

// AppendSubjects appends a Subjects frame.
func AppendSubjects(b []byte, r *SubjectsReply) []byte {
	b, start := Begin(b)
	b = binary.LittleEndian.AppendUint64(b, r.ID)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Status))
	b = appendHashes(b, &r.Subjects)
	End(b, start, TypeSubjects, 0)
	return b
}

// DecodeSubjects reads the payload of a Subjects frame.
func DecodeSubjects(b []byte) (SubjectsReply, error) {
	var r SubjectsReply
	d := decoder{b: b}
	r.ID = d.u64()
	r.Status = Status(d.u32())
	d.hashes(&r.Subjects)
	if d.bad || len(d.b) != 0 || !r.Status.known() || (r.Status == StatusMatched) != (r.Subjects[0].Version != 0) {
		return SubjectsReply{}, fmt.Errorf("%w: subjects", ErrFrame)
	}
	return r, nil
}

// appendHashes appends both subjects, each as version (4) and hash (32), zeros
// for none.
func appendHashes(b []byte, s *[2]keys.Subject) []byte {
	for i := range s {
		b = binary.LittleEndian.AppendUint32(b, s[i].Version)
		b = append(b, s[i].Hash[:]...)
	}
	return b
}

// hashes reads both subjects. There is no previous one without a current one,
// and it has a lower version; a hash is there exactly if its version is. A token
// that was asked for a hash and gives zeros has computed nothing.
func (d *decoder) hashes(s *[2]keys.Subject) {
	for i := range s {
		s[i].Version = d.u32()
		d.copy(s[i].Hash[:])
		if (s[i].Version == 0) != (s[i].Hash == [keys.SubjectBytes]byte{}) {
			d.bad = true
		}
	}
	if s[1].Version != 0 && s[1].Version >= s[0].Version {
		d.bad = true
	}
}
