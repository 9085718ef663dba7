package postgres

import (
	"testing"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/statetest"
)

func TestConformance(t *testing.T) {
	for _, isolation := range []Isolation{Serializable, ReadCommitted} {
		t.Run(string(isolation), func(t *testing.T) {
			statetest.Conformance(t, func(t *testing.T) state.Engine {
				c := cluster(t)
				return open(t, Options{Connection: c.URL(migrated(t, c)), Isolation: isolation})
			})
		})
	}
	t.Run("as on CockroachDB", func(t *testing.T) {
		statetest.Conformance(t, func(t *testing.T) state.Engine {
			c := cluster(t)
			e := open(t, Options{Connection: c.URL(migrated(t, c))})
			e.together = false
			return e
		})
	})
}
