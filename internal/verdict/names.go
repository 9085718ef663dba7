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

// String is the reason without the prefix that the API gives it, empty for none.
func (r Reason) String() string {
	switch r {
	case CryptogramMismatch:
		return "CRYPTOGRAM_MISMATCH"
	case KeyNotActive:
		return "KEY_NOT_ACTIVE"
	case DeadlineExceeded:
		return "DEADLINE_EXCEEDED"
	case NoWorker:
		return "NO_WORKER"
	case HSMFailure:
		return "HSM_FAILURE"
	case KeyUnproven:
		return "KEY_UNPROVEN"
	case KeyUnavailable:
		return "KEY_UNAVAILABLE"
	case AttemptsLimited:
		return "ATTEMPTS_LIMITED"
	case AuditUnavailable:
		return "AUDIT_UNAVAILABLE"
	case Overloaded:
		return "OVERLOADED"
	}
	return ""
}
