package state

// Purpose is why a cryptogram is looked at. The zero value is invalid.
type Purpose uint8

// Purposes.
const (
	Authorise Purpose = 1 // consumes the ATC
	Advice    Purpose = 2 // reports whether the cryptogram was accepted before
	Respond   Purpose = 3 // makes the issuer's response to an accepted request
)

// CryptogramType is what the card said of its cryptogram (9F27), which no MAC
// covers: nothing is accepted or refused by it.
type CryptogramType uint8

// Types.
const (
	TypeARQC CryptogramType = 0 // also where the card says nothing
	TypeTC   CryptogramType = 1
	TypeAAC  CryptogramType = 2
)

// Channel is where a tap came from. The zero value is not known.
type Channel uint8

// Channels.
const (
	ContactlessPOS Channel = 1
	ContactPOS     Channel = 2
	ATM            Channel = 3
	Ecommerce      Channel = 4
	Transit        Channel = 5
	maxChannel             = Transit
)

// A Place is where a tap came from, in the words of the caller. Zero values are
// not known, and do not satisfy a restriction.
type Place struct {
	Channel  Channel
	Category uint16 // merchant category code as BCD
	Terminal uint8  // terminal type
	Merchant NameHash
	Device   NameHash
}

// A Stop says what beside the token itself is stopped for a tap.
type Stop uint8

// Stops, as bits.
const (
	StopDevice Stop = 1 << iota
	StopBIN
	StopKey
)

// A Floor says what to do with records of an older generation, after a backup
// was restored: what was accepted since cannot be known.
type Floor struct {
	Generation uint32
	// Raise is added to the highest ATC of a record of an older generation; up
	// to there nothing is accepted.
	Raise uint16
	// Date: a token without a record is not accepted with a transaction date up
	// to it. YYMMDD as BCD; 0 is none.
	Date uint32
}

// An Event is one verification that the HSM has answered. It holds no PAN.
type Event struct {
	Now     int64 // Unix seconds
	Policy  *Policy
	Floor   Floor
	Purpose Purpose
	Matched bool // the cryptogram is authentic

	Caller uint32
	// Requests are the request's digests under the current and the previous
	// subject key; the second one is zero but while that rotates.
	Requests [2]Digest
	// Respond: stand for the issuer's decision under the current and the previous
	// subject key; the first one is not zero.
	Response, PreviousResponse [ResponseBytes]byte

	ATC      uint16
	Type     CryptogramType
	UN       [UNBytes]byte
	Date     uint32 // YYMMDD as BCD
	Amount   uint64 // minor units
	Currency uint16 // as BCD
	Place    Place
	Stops    Stop

	// Failures so far in this period.
	CallerFailures, BINFailures uint64
}

// Result is what became of an event. The zero value is no answer.
type Result uint8

// Results.
const (
	Accept Result = 1
	Reject Result = 2 // with a reason of policy or a mismatch
	Defer  Result = 3 // nobody looked: the limits do not allow it now
)

// Freshness is what the window says of a cryptogram. Numbers are those of
// tapseal.v1.Freshness.
type Freshness uint8

// Freshness.
const (
	FreshnessUnset Freshness = 0
	NotChecked     Freshness = 1 // the cryptogram is not authentic, or nobody could look
	Fresh          Freshness = 2 // above every ATC that was accepted
	Late           Freshness = 3 // below the highest one, inside the window, and not seen yet
	Repeated       Freshness = 4 // this very request was accepted before
	Replayed       Freshness = 5 // accepted before, in another request
	CannotTell     Freshness = 6 // under the window, or under a floor
)

// Reason says why. Numbers are those of tapseal.v1.Reason.
type Reason uint8

// Reasons.
const (
	CryptogramMismatch Reason = 1
	AttemptsLimited    Reason = 8
	CryptogramReplayed Reason = 11
	ATCLate            Reason = 12
	ATCUnderWindow     Reason = 13
	ATCUnderFloor      Reason = 14
	ATCJump            Reason = 15
	UNReused           Reason = 16
	TokenSuspended     Reason = 17
	TokenDeleted       Reason = 18
	TokenUnknown       Reason = 19
	DeviceStopped      Reason = 20
	BINStopped         Reason = 21
	KeyStopped         Reason = 22
	DeviceMismatch     Reason = 23
	ChannelRestricted  Reason = 24
	MerchantRestricted Reason = 25
	CurrencyRestricted Reason = 26
	AmountOverCap      Reason = 27
	VelocityCount      Reason = 28
	VelocityAmount     Reason = 29
	NotAccepted        Reason = 30
	AlreadyResponded   Reason = 31
)

// MaxReasons is the most that one outcome can have.
const MaxReasons = 8

// An Outcome is what Next says of an event. The zero value is no answer.
type Outcome struct {
	Result    Result
	Freshness Freshness
	// AcceptedBefore: an AUTHORISE accepted this ATC, or an advice reported this
	// cryptogram, before this event.
	AcceptedBefore bool
	// Counted: a mismatch that was not counted before. It counts for the caller
	// and the BIN as well.
	Counted bool
	// RetryAfterSec, with Defer: seconds until somebody looks.
	RetryAfterSec uint32

	reasons [MaxReasons]Reason
	n       uint8
}

// Reasons lists why, most important first. Beside Accept they are what the
// policy lets pass.
func (o *Outcome) Reasons() []Reason { return o.reasons[:o.n] }

func (o *Outcome) add(r Reason) {
	if int(o.n) < len(o.reasons) {
		o.reasons[o.n] = r
		o.n++
	}
}

// ParseDigits reads exactly n decimal digits, at most four, as BCD: the three of
// "978" are 0x0978.
func ParseDigits(s string, n int) (bcd uint16, ok bool) {
	if len(s) != n || n > 4 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		bcd = bcd<<4 | uint16(s[i]-'0')
	}
	return bcd, true
}
