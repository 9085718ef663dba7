package verdict

// String is the verdict without the prefix that the API gives it.
func (v Verdict) String() string {
	switch v {
	case Valid:
		return "VALID"
	case Invalid:
		return "INVALID"
	default:
		return "UNKNOWN"
	}
}

var reasonNames = [MaxReason + 1]string{
	CryptogramMismatch: "CRYPTOGRAM_MISMATCH",
	KeyNotActive:       "KEY_NOT_ACTIVE",
	DeadlineExceeded:   "DEADLINE_EXCEEDED",
	NoWorker:           "NO_WORKER",
	HSMFailure:         "HSM_FAILURE",
	KeyUnproven:        "KEY_UNPROVEN",
	KeyUnavailable:     "KEY_UNAVAILABLE",
	AttemptsLimited:    "ATTEMPTS_LIMITED",
	AuditUnavailable:   "AUDIT_UNAVAILABLE",
	Overloaded:         "OVERLOADED",
	CryptogramReplayed: "CRYPTOGRAM_REPLAYED",
	ATCLate:            "ATC_LATE",
	ATCUnderWindow:     "ATC_UNDER_WINDOW",
	ATCUnderFloor:      "ATC_UNDER_FLOOR",
	ATCJump:            "ATC_JUMP",
	UNReused:           "UNPREDICTABLE_NUMBER_REUSED",
	TokenSuspended:     "TOKEN_SUSPENDED",
	TokenDeleted:       "TOKEN_DELETED",
	TokenUnknown:       "TOKEN_UNKNOWN",
	DeviceStopped:      "DEVICE_STOPPED",
	BINStopped:         "BIN_STOPPED",
	KeyStopped:         "KEY_STOPPED",
	DeviceMismatch:     "DEVICE_MISMATCH",
	ChannelRestricted:  "CHANNEL_RESTRICTED",
	MerchantRestricted: "MERCHANT_RESTRICTED",
	CurrencyRestricted: "CURRENCY_RESTRICTED",
	AmountOverCap:      "AMOUNT_OVER_CAP",
	VelocityCount:      "VELOCITY_COUNT",
	VelocityAmount:     "VELOCITY_AMOUNT",
	NotAccepted:        "NOT_ACCEPTED",
	AlreadyResponded:   "ALREADY_RESPONDED",
	StateUnavailable:   "STATE_UNAVAILABLE",
}

// String is the reason without the prefix that the API gives it, empty for none.
func (r Reason) String() string {
	if r > MaxReason {
		return ""
	}
	return reasonNames[r]
}
