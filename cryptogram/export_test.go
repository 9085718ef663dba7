package cryptogram

// BuildUnchecked is BuildPlan for the row prof, without the checks of the
// request: for published vectors whose issuer application data is of another
// version than their derivation, and for rows that must not exist.
func BuildUnchecked(r *Request, prof *Profile, p *Plan) {
	p.Reset()
	info, _ := parseSchemeIAD(prof.Scheme, r.IAD.value())
	buildPlan(r, prof, &info, p)
}

// Object is one data object of a field 55.
type Object struct {
	Tag   Tag
	Value []byte
}

// Objects splits a field 55 as ParseField55 does, without looking at the tags.
func Objects(b []byte) ([]Object, error) {
	var all []Object
	for at := 0; at < len(b); {
		o, next, err := nextObject(b, at)
		if err != nil {
			return nil, err
		}
		all = append(all, Object{o.tag, o.value})
		at = next
	}
	return all, nil
}
