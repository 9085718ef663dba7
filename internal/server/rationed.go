package server

import (
	"log/slog"

	"github.com/tapseal/tapseal/internal/ration"
)

// A rationed log is for what callers can cause.
type rationed struct{ log *ration.Log }

func newRationed(log *slog.Logger) *rationed { return &rationed{ration.New(log)} }

// warn writes a line unless one of its kind was written a short while ago.
func (r *rationed) warn(kind, message string, args ...any) { r.log.Warn(kind, message, args...) }
