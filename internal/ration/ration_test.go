package ration

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestRationedLog(t *testing.T) {
	var out bytes.Buffer
	now := time.Now()
	r := New(slog.New(slog.NewJSONHandler(&out, nil)))
	r.now = func() time.Time { return now }
	for range 5 {
		r.Warn("a", "of a")
	}
	r.Warn("b", "of b")
	now = now.Add(every)
	r.Warn("a", "of a")
	log := out.String()
	if strings.Count(log, "of a") != 2 || strings.Count(log, "of b") != 1 || !strings.Contains(log, `"kept_back":4`) {
		t.Errorf("log %s", log)
	}
	for i := range 2 * maxKinds {
		r.Warn(time.Duration(i).String(), "many")
	}
	if len(r.kinds) > maxKinds {
		t.Errorf("%d kinds are kept", len(r.kinds))
	}
}
