// Package audit is the durable record of what the service decided: an
// append-only journal whose records are on disk before the answers that they
// describe leave the process. If a decision cannot be recorded, it does not
// happen.
package audit

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Limits of one record.
const (
	MaxReasons    = 8   // reasons of one decision
	MaxFieldBytes = 512 // each text field
)

// Kind says what a record is. The zero value is invalid.
type Kind uint8

// Kinds. The journal sets them: Append writes decisions, AppendAct acts.
const (
	KindDecision       Kind = 1 // a verdict
	KindRecovered      Kind = 2 // the journal was opened and an uncommitted tail of CutBytes was cut off
	KindAdministration Kind = 3 // an act on the service: once before it, once after it
)

// Action is what an act does. The zero value is invalid.
type Action uint8

// Actions.
const (
	ActionReloadPolicy   Action = 1  // the policy file is read again and put in force; also at a start
	ActionTryPolicy      Action = 2  // the policy file is read again and compared only
	ActionRecycleWorkers Action = 3  // every worker process is replaced
	ActionSuspend        Action = 4  // a token, device, BIN range or key is stopped
	ActionResume         Action = 5  // it goes on
	ActionDelete         Action = 6  // a token or device is stopped for good
	ActionRestrict       Action = 7  // a token is bound to a device, or to where it may be used
	ActionResetWindow    Action = 8  // the counters of a reissued token are forgotten
	ActionCall           Action = 9  // a call of the method that Subject names
	ActionConnect        Action = 10 // a connection to the listener that Subject names
	ActionAcceptState    Action = 11 // a token state store that is older than the journal is taken as it is
	ActionBackupState    Action = 12 // the token state store is copied
	ActionEndRotation    Action = 13 // the previous subject key is forgotten
)

// String is the action's name in the journal's text form.
func (a Action) String() string {
	switch a {
	case ActionReloadPolicy:
		return "reload-policy"
	case ActionTryPolicy:
		return "try-policy"
	case ActionRecycleWorkers:
		return "recycle-workers"
	case ActionSuspend:
		return "suspend"
	case ActionResume:
		return "resume"
	case ActionDelete:
		return "delete"
	case ActionRestrict:
		return "restrict"
	case ActionAcceptState:
		return "accept-state"
	case ActionEndRotation:
		return "end-rotation"
	case ActionBackupState:
		return "backup-state"
	case ActionResetWindow:
		return "reset-window"
	case ActionCall:
		return "call"
	case ActionConnect:
		return "connect"
	default:
		return fmt.Sprintf("action %d", uint8(a))
	}
}

// Outcome says which of an act's records this is, and how it went. The zero
// value is invalid.
type Outcome uint8

// Outcomes.
const (
	OutcomeIntended Outcome = 1 // it is about to be done
	OutcomeDone     Outcome = 2
	OutcomeFailed   Outcome = 3 // nothing changed
	OutcomeRefused  Outcome = 4 // it was not allowed: the only record of it, and of those that Detail counts
)

// String is the outcome's name in the journal's text form.
func (o Outcome) String() string {
	switch o {
	case OutcomeIntended:
		return "intended"
	case OutcomeDone:
		return "done"
	case OutcomeFailed:
		return "failed"
	case OutcomeRefused:
		return "refused"
	default:
		return fmt.Sprintf("outcome %d", uint8(o))
	}
}

// Method is the call that led to a decision. The zero value is invalid.
type Method uint8

// Methods of tapseal.v1.CryptogramService.
const (
	MethodVerify  Method = 1 // VerifyCryptogram
	MethodStream  Method = 2 // an item of VerifyCryptograms
	MethodRespond Method = 3 // Respond
)

// A Token stands for a payment token: a part of its hash under a key in the HSM.
// Nobody without that key can tell which one it is.
type Token [8]byte

// String is 16 hexadecimal digits, or nothing for no token.
func (t Token) String() string {
	if t == (Token{}) {
		return ""
	}
	return hex.EncodeToString(t[:])
}

// MarshalText is String.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// A Record is one decision, or one half of an act. It has no PAN, cryptogram or key material, and no
// field into which a caller could put one unnoticed but RequestID, which the
// service restricts to 64 printable characters.
type Record struct {
	Sequence   uint64            `json:"sequence"`         // 1, 2, …; set by the journal
	Kind       Kind              `json:"kind"`             // set by the journal
	Time       time.Time         `json:"time"`             // UTC, nanoseconds; zero: the time of Append
	Caller     string            `json:"caller,omitempty"` // identity of the caller, at most MaxFieldBytes
	RequestID  string            `json:"request_id,omitempty"`
	Method     Method            `json:"method,omitempty"`
	Purpose    uint8             `json:"purpose,omitempty"`    // number of tapseal.v1.Purpose
	Assignment string            `json:"assignment,omitempty"` // name of the assignment that applied
	Profile    uint16            `json:"profile,omitempty"`    // cryptogram.ProfileID
	KeySet     string            `json:"key_set,omitempty"`
	KeyVersion uint32            `json:"key_version,omitempty"`
	Verdict    uint8             `json:"verdict,omitempty"`   // number of tapseal.v1.Verdict
	Reasons    [MaxReasons]uint8 `json:"reasons"`             // numbers of tapseal.v1.Reason, zero terminated
	Attempts   uint8             `json:"attempts,omitempty"`  // workers that were asked
	Freshness  uint8             `json:"freshness,omitempty"` // number of tapseal.v1.Freshness
	Token      Token             `json:"token,omitzero"`      // the token that was tapped; zero: not known
	// StateSequence is the commit of the token's state that the decision rests
	// on, or one that came after the act; 0 if it changed nothing. It proves, after
	// a restore, that the state is not older than this record.
	StateSequence uint64 `json:"state_sequence,omitempty"`
	CutBytes      uint64 `json:"cut_bytes,omitempty"` // KindRecovered only

	// KindAdministration only. RequestID is the same in both records of an act;
	// Caller is empty for an act of the process itself, as at a start.
	Action    Action  `json:"action,omitempty"`
	Outcome   Outcome `json:"outcome,omitempty"`
	Principal string  `json:"principal,omitempty"` // whom the policy takes the caller for
	Subject   string  `json:"subject,omitempty"`   // what is acted on: a digest or a name
	Reason    string  `json:"reason,omitempty"`    // why, in the words of whoever acts
	Detail    string  `json:"detail,omitempty"`    // what changed, or what went wrong
}

// Versions of an encoded record, its first byte. Acts have text fields after
// those of version 1, those on the state its sequence after them, and decisions
// what the state of their token said; everything
// else is still written as version 1, so that a reader of before understands it.
const (
	recordVersion         = 1
	recordVersionAct      = 2
	recordVersionState    = 3
	recordVersionStateAct = 4
)

// firstReasons are the ones in the fixed part, which all versions have.
const firstReasons = 4

func (r *Record) version() byte {
	switch {
	case r.Kind == KindAdministration && r.StateSequence != 0:
		return recordVersionStateAct
	case r.Kind == KindAdministration:
		return recordVersionAct
	case r.Freshness != 0 || r.StateSequence != 0 || r.Token != Token{} || [MaxReasons - firstReasons]uint8(r.Reasons[firstReasons:]) != [MaxReasons - firstReasons]uint8{}:
		return recordVersionState
	}
	return recordVersion
}

// actFields are the text fields that only acts have, in their order.
func (r *Record) actFields() [4]*string {
	return [...]*string{&r.Principal, &r.Subject, &r.Reason, &r.Detail}
}

// recordHeadBytes is the fixed part: version, kind, time, method, purpose,
// verdict, attempts, reasons, profile, key version.
const recordHeadBytes = 1 + 1 + 8 + 1 + 1 + 1 + 1 + firstReasons + 2 + 4

// framePrefixBytes precedes each record: length of the body, CRC-32C of it.
const framePrefixBytes = 4 + 4

// appendRecord appends the record with its frame prefix. The sequence is not
// written: it follows from the group header and the position in the group.
func appendRecord(dst []byte, r *Record) ([]byte, error) {
	for _, s := range [...]string{r.Caller, r.RequestID, r.Assignment, r.KeySet} {
		if len(s) > MaxFieldBytes {
			return dst, fmt.Errorf("audit record: text field has %d bytes, at most %d are allowed", len(s), MaxFieldBytes)
		}
	}
	if err := r.checkAct(); err != nil {
		return dst, err
	}
	start := len(dst)
	dst = append(dst, make([]byte, framePrefixBytes)...)
	dst = append(dst, r.version(), byte(r.Kind))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Time.UnixNano()))
	dst = append(dst, byte(r.Method), r.Purpose, r.Verdict, r.Attempts)
	dst = append(dst, r.Reasons[:firstReasons]...)
	dst = binary.BigEndian.AppendUint16(dst, r.Profile)
	dst = binary.BigEndian.AppendUint32(dst, r.KeyVersion)
	dst = appendText(dst, r.Caller)
	dst = appendText(dst, r.RequestID)
	dst = appendText(dst, r.Assignment)
	dst = appendText(dst, r.KeySet)
	dst = binary.AppendUvarint(dst, r.CutBytes)
	switch r.version() {
	case recordVersionAct, recordVersionStateAct:
		dst = append(dst, byte(r.Action), byte(r.Outcome))
		for _, field := range r.actFields() {
			dst = appendText(dst, *field)
		}
		if r.StateSequence != 0 {
			dst = binary.AppendUvarint(dst, r.StateSequence)
		}
	case recordVersionState:
		dst = append(append(dst, r.Reasons[firstReasons:]...), r.Freshness)
		dst = append(dst, r.Token[:]...)
		dst = binary.AppendUvarint(dst, r.StateSequence)
	}
	body := dst[start+framePrefixBytes:]
	binary.BigEndian.PutUint32(dst[start:], uint32(len(body)))
	binary.BigEndian.PutUint32(dst[start+4:], checksum(body))
	return dst, nil
}

// checkAct holds the fields of an act to their bounds.
func (r *Record) checkAct() error {
	if r.Kind != KindAdministration {
		return nil
	}
	for _, field := range r.actFields() {
		if len(*field) > MaxFieldBytes {
			return fmt.Errorf("audit record: text field has %d bytes, at most %d are allowed", len(*field), MaxFieldBytes)
		}
	}
	return nil
}

func appendText(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

var errRecordCut = errors.New("record ends early")

// decodeRecord reads one framed record from the front of b and returns what
// follows it.
func decodeRecord(b []byte) (r Record, rest []byte, err error) {
	if len(b) < framePrefixBytes {
		return Record{}, nil, errRecordCut
	}
	size, sum := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	b = b[framePrefixBytes:]
	if uint64(size) > uint64(len(b)) {
		return Record{}, nil, errRecordCut
	}
	body, rest := b[:size], b[size:]
	if checksum(body) != sum {
		return Record{}, nil, errors.New("record fails its checksum")
	}
	r, err = decodeBody(body)
	return r, rest, err
}

func decodeBody(b []byte) (Record, error) {
	if len(b) < recordHeadBytes {
		return Record{}, errRecordCut
	}
	version := b[0]
	if version < recordVersion || version > recordVersionStateAct {
		return Record{}, fmt.Errorf("record has version %d, only %d to %d are known", version, recordVersion, recordVersionStateAct)
	}
	isAct := version == recordVersionAct || version == recordVersionStateAct
	if isAct != (Kind(b[1]) == KindAdministration) {
		return Record{}, fmt.Errorf("record has version %d and kind %d", version, b[1])
	}
	r := Record{
		Kind:       Kind(b[1]),
		Time:       time.Unix(0, int64(binary.BigEndian.Uint64(b[2:]))).UTC(),
		Method:     Method(b[10]),
		Purpose:    b[11],
		Verdict:    b[12],
		Attempts:   b[13],
		Profile:    binary.BigEndian.Uint16(b[14+firstReasons:]),
		KeyVersion: binary.BigEndian.Uint32(b[16+firstReasons:]),
	}
	copy(r.Reasons[:firstReasons], b[14:])
	b = b[recordHeadBytes:]
	var err error
	for _, field := range [...]*string{&r.Caller, &r.RequestID, &r.Assignment, &r.KeySet} {
		if *field, b, err = cutText(b); err != nil {
			return Record{}, err
		}
	}
	cut, used := binary.Uvarint(b)
	if used <= 0 {
		return Record{}, errRecordCut
	}
	r.CutBytes, b = cut, b[used:]
	switch version {
	case recordVersionAct:
		b, err = r.decodeAct(b)
	case recordVersionState:
		b, err = r.decodeState(b)
	case recordVersionStateAct:
		if b, err = r.decodeAct(b); err == nil {
			b, err = r.decodeSequence(b)
		}
		if err == nil && r.StateSequence == 0 {
			err = errors.New("record of an act on the state has no sequence")
		}
	}
	if err != nil {
		return Record{}, err
	}
	if len(b) != 0 {
		return Record{}, errors.New("record has bytes after its last field")
	}
	return r, nil
}

func (r *Record) decodeState(b []byte) (rest []byte, err error) {
	const fixed = MaxReasons - firstReasons + 1 + len(r.Token)
	if len(b) < fixed {
		return nil, errRecordCut
	}
	copy(r.Reasons[firstReasons:], b)
	r.Freshness = b[MaxReasons-firstReasons]
	copy(r.Token[:], b[MaxReasons-firstReasons+1:])
	return r.decodeSequence(b[fixed:])
}

func (r *Record) decodeSequence(b []byte) (rest []byte, err error) {
	sequence, used := binary.Uvarint(b)
	if used <= 0 {
		return nil, errRecordCut
	}
	r.StateSequence = sequence
	return b[used:], nil
}

func (r *Record) decodeAct(b []byte) (rest []byte, err error) {
	if len(b) < 2 {
		return nil, errRecordCut
	}
	r.Action, r.Outcome, b = Action(b[0]), Outcome(b[1]), b[2:]
	for _, field := range r.actFields() {
		if *field, b, err = cutText(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func cutText(b []byte) (text string, rest []byte, err error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n > MaxFieldBytes || uint64(len(b)-used) < n {
		return "", nil, errRecordCut
	}
	return string(b[used : used+int(n)]), b[used+int(n):], nil
}
