package state

import (
	"errors"
	"testing"
)

func TestFitKeys(t *testing.T) {
	for name, c := range map[string]struct {
		rules             Rules
		current, previous string
		changed           bool
		err               error
		after             [2]string
	}{
		"the first":                 {Rules{}, "a", "", true, nil, [2]string{"a", ""}},
		"no key":                    {Rules{}, "", "", false, ErrOtherKey, [2]string{}},
		"the same":                  {Rules{SubjectKey: "a"}, "a", "", false, nil, [2]string{"a", ""}},
		"another":                   {Rules{SubjectKey: "a"}, "b", "", false, ErrOtherKey, [2]string{"a", ""}},
		"a rotation begins":         {Rules{SubjectKey: "a"}, "b", "a", true, nil, [2]string{"b", "a"}},
		"another, and another":      {Rules{SubjectKey: "a"}, "c", "b", false, ErrOtherKey, [2]string{"a", ""}},
		"in a rotation":             {Rules{SubjectKey: "b", PreviousKey: "a"}, "b", "a", false, nil, [2]string{"b", "a"}},
		"not heard of it yet":       {Rules{SubjectKey: "b", PreviousKey: "a"}, "a", "", false, nil, [2]string{"b", "a"}},
		"ended by the manifest":     {Rules{SubjectKey: "b", PreviousKey: "a"}, "b", "", false, ErrRotationOpen, [2]string{"b", "a"}},
		"a rotation in one":         {Rules{SubjectKey: "b", PreviousKey: "a"}, "c", "b", false, ErrOtherKey, [2]string{"b", "a"}},
		"previous is kept, ended":   {Rules{SubjectKey: "b"}, "b", "a", false, nil, [2]string{"b", ""}},
		"old one after the end":     {Rules{SubjectKey: "b"}, "a", "", false, ErrOtherKey, [2]string{"b", ""}},
		"in a rotation, another":    {Rules{SubjectKey: "b", PreviousKey: "a"}, "b", "x", false, ErrOtherKey, [2]string{"b", "a"}},
		"a first one in a rotation": {Rules{}, "b", "a", true, nil, [2]string{"b", "a"}},
	} {
		r := c.rules
		changed, err := r.FitKeys(c.current, c.previous)
		if changed != c.changed || !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || [2]string{r.SubjectKey, r.PreviousKey} != c.after {
			t.Errorf("%s: %v, %v, %+v", name, changed, err, r)
		}
	}
	r := Rules{SubjectKey: "b", PreviousKey: "a", FloorDate: 0x260101}
	if err := r.EndRotation(0x261124); err != nil || r.PreviousKey != "" || r.FloorDate != 0x261124 {
		t.Errorf("%v, %+v", err, r)
	}
	if r.EndRotation(0) == nil {
		t.Error("ended twice")
	}
}
