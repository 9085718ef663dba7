package server

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if a test leaves a goroutine behind: daemons, streams and
// pools come and go in these tests by the dozen.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
