package state

import "errors"

// Errors of subject keys. A record under another key is a token that nobody has
// seen, so a daemon with the wrong one would accept everything once more.
var (
	ErrOtherKey = errors.New("the workers hash tokens with another key than the one that this state was made with: " +
		"all daemons of a state need the same subject key in their HSMs; put the right key and manifest back")
	ErrRotationOpen = errors.New("the workers hold the new subject key only, and the rotation has not been ended: records under the " +
		"previous one would be forgotten. Make the previous version active again, or end it with: tapseald state end-rotation --config FILE")
)

// FitKeys compares the subject keys in force in the HSM, previous being empty
// outside of a rotation, with those that the records are under. changed says that
// the rules have taken up a first key, or the beginning of a rotation.
func (r *Rules) FitKeys(current, previous string) (changed bool, err error) {
	switch {
	case current == "":
		return false, ErrOtherKey
	case r.SubjectKey == "":
		r.SubjectKey, r.PreviousKey = current, previous
		return true, nil
	case current == r.SubjectKey && (r.PreviousKey == "" || previous == r.PreviousKey):
		return false, nil
	case current == r.SubjectKey && previous == "":
		return false, ErrRotationOpen
	case current == r.PreviousKey: // its workers have not heard of the rotation yet: what moved is closed to it
		return false, nil
	case previous == r.SubjectKey && r.PreviousKey == "":
		r.SubjectKey, r.PreviousKey = current, previous
		return true, nil
	}
	return false, ErrOtherKey
}

// EndRotation forgets the previous subject key. Records that have not moved are
// forgotten with it: tokens that nobody knows are accepted only with a
// transaction date after date (YYMMDD as BCD).
func (r *Rules) EndRotation(date uint32) error {
	if r.PreviousKey == "" {
		return errors.New("no rotation of the subject key is open")
	}
	r.PreviousKey = ""
	r.FloorDate = max(r.FloorDate, date)
	return nil
}
