package statetest

import (
	"testing"

	"github.com/tapseal/tapseal/internal/state"
)

// The reference passes its own suite.
func TestModel(t *testing.T) {
	Conformance(t, func(*testing.T) state.Engine { return NewModel() })
}
