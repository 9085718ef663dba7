package cryptogram

// Request is one verification as the worker receives it: typed fields and the
// identity of a profile row. It has no pointers and cannot express a key
// chain, mechanism, message order or length: the worker builds the plan from
// the same profile table as the caller.
type Request struct {
	Profile    ProfileID
	KeyOption  KeyOption // ICC master key option; must be one that the profile allows
	PAN        PAN
	PSN        PSN
	Data       TransactionData
	IAD        IAD     // tag 9F10 as received; empty for a profile without an IAD in its data
	CVR        CVR     // only for profiles with CVRFromCaller (no IAD layout is known)
	Cryptogram [8]byte // tag 9F26
	Response   Response
}

// TransactionData holds the data elements that every profile in the table
// authenticates, 33 bytes in all, each encoded as EMV Book 3 annex A has it.
type TransactionData struct {
	AmountAuthorised [6]byte // 9F02, n 12, minor units of TransactionCurrency
	AmountOther      [6]byte // 9F03, n 12
	TerminalCountry  [2]byte // 9F1A, n 3, ISO 3166-1 numeric
	TVR              [5]byte // 95
	Currency         [2]byte // 5F2A, n 3, ISO 4217 numeric
	Date             [3]byte // 9A, YYMMDD
	Type             [1]byte // 9C
	UN               [4]byte // 9F37, unpredictable number
	AIP              [2]byte // 82
	ATC              [2]byte // 9F36
}

// IAD is issuer application data (tag 9F10), 0…32 bytes.
type IAD struct {
	Len   uint8
	Bytes [32]byte
}

// CVR is a card verification results field given by the caller, 0…6 bytes.
type CVR struct {
	Len   uint8
	Bytes [6]byte
}

// ResponseKind says which ARPC is wanted. The zero value is none.
type ResponseKind uint8

// Kinds of authorisation response cryptogram.
const (
	NoResponse       ResponseKind = 0
	ResponseCode     ResponseKind = 1 // ARPC method 1, from ARC
	CardStatusUpdate ResponseKind = 2 // ARPC method 2, from CSU and PAD
)

// Response asks for an ARPC, made only after the cryptogram matched in the
// same plan. The kind must be the one of the profile's ARPC method.
type Response struct {
	Kind   ResponseKind
	PADLen uint8
	ARC    [2]byte // tag 8A, two ASCII characters
	CSU    [4]byte // card status update
	PAD    [8]byte // proprietary authentication data, 0…8 bytes
}
