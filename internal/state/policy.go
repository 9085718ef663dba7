package state

// Mode says what replay protection does with what it finds. The zero value is
// invalid.
type Mode uint8

// Modes.
const (
	// Strict accepts only an ATC above the highest one.
	Strict Mode = 1
	// WindowMode also accepts late ones that were not seen yet, inside the window.
	WindowMode Mode = 2
	// Observe refuses nothing that the replay window finds, and says so in the
	// reasons. A duplicate is VALID: for the time in which a portfolio is taken over.
	Observe Mode = 3
)

// Reaction is what a policy does with something unusual. The zero value is
// invalid.
type Reaction uint8

// Reactions.
const (
	AcceptWithReason Reaction = 1
	Refuse           Reaction = 2
)

// Bounds of a policy.
const (
	MaxBackoffSec  = 3600
	MaxWindowSec   = 86_400
	forgetAfterSec = 86_400 // a caller's failures with a token, after the last one
)

// A Policy says how the taps of one assignment are remembered and limited.
type Policy struct {
	Mode       Mode
	WindowSize uint8    // 1 to WindowBits ATCs, counted from the highest one
	MaxJump    uint16   // how far above the highest ATC one may be without a reason; 0: any
	OnJump     Reaction // further than MaxJump
	OnUnder    Reaction // under the window, where nobody can tell a duplicate; Strict refuses
	OnUNReuse  Reaction // an unpredictable number among those remembered
	Remember   uint8    // requests, 1 to MaxAccepted
	OnUnknown  Reaction // a token without a record
	Limits     Limits
	Velocity   VelocityRule
	OnVelocity Reaction
}

// Limits bound what guessing can gain. All of them are kept apart for each
// caller, so that one cannot shut out another one's customers.
type Limits struct {
	// TokenFailures in a row, for one token and caller, after which the next
	// attempt has to wait BackoffSec, then twice as long for each further one,
	// at most MaxBackoffSec. 0: no limit.
	TokenFailures uint8
	BackoffSec    uint32
	// CallerFailures and BINFailures in one period of PeriodSec. 0: no limit.
	CallerFailures uint32
	BINFailures    uint32
	PeriodSec      uint32
}

// A VelocityRule bounds what is accepted in WindowSec from the first tap on. The
// zero value does not bound.
type VelocityRule struct {
	WindowSec uint32
	Count     uint16 // 0: not bounded
	Amount    uint64 // minor units of Currency; 0: not bounded
	Currency  uint16 // ISO 4217 numeric as BCD; other currencies only count
}

// DefaultPolicy is what an assignment has that says nothing else.
func DefaultPolicy() Policy {
	return Policy{
		Mode: WindowMode, WindowSize: 32,
		MaxJump: 1000, OnJump: AcceptWithReason,
		OnUnder: Refuse, OnUNReuse: AcceptWithReason, OnUnknown: AcceptWithReason,
		Remember:   3,
		Limits:     Limits{TokenFailures: 5, BackoffSec: 30, CallerFailures: 10_000, BINFailures: 1000, PeriodSec: 60},
		OnVelocity: Refuse,
	}
}
