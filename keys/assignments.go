package keys

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/internal/protectedfile"
	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/strictyaml"
)

// assignmentsFile is the YAML form of Assignments.
type assignmentsFile struct {
	Assignments []assignmentFile `yaml:"assignments"`
}

type assignmentFile struct {
	Name         string    `yaml:"name"`
	BINs         []string  `yaml:"bins"`           // prefix, or first-last of the same length
	PANDigits    []int     `yaml:"pan_digits"`     // how long the PANs are; 16 unless it is said
	Scheme       string    `yaml:"scheme"`         // visa, mastercard, interac, emv-ccd, pboc
	Profiles     []string  `yaml:"profiles"`       // what the issuer's cards use
	ICCKeyOption string    `yaml:"icc_key_option"` // A or B; only where a profile leaves it to the issuer
	Keys         []keyFile `yaml:"keys"`
	policyFile   `yaml:",inline"`
}

type keyFile struct {
	DKI     string `yaml:"dki"` // two hexadecimal digits, or "any" where the IAD has none
	KeySet  string `yaml:"key_set"`
	Version uint32 `yaml:"version"`
}

// dkiAny is the only key of an assignment whose profiles have no public IAD
// layout, and so no derivation key index.
const dkiAny = "any"

// Assignments say for every PAN range which scheme, profiles and keys apply.
// They are immutable after parsing.
type Assignments struct {
	list   []assignment
	ranges []panRange // sorted, disjoint
}

type assignment struct {
	name     string
	scheme   cryptogram.Scheme
	option   cryptogram.KeyOption // 0 where no profile leaves it open
	profiles []*cryptogram.Profile
	byDKI    map[byte]keyRef
	any      *keyRef
	policy   *state.Policy
	digits   []int // how long its PANs are
}

type keyRef struct {
	set     string
	version uint32
}

// A Resolution is what the assignments say about one request.
type Resolution struct {
	Assignment string
	Profile    *cryptogram.Profile
	Option     cryptogram.KeyOption
	KeySet     string
	KeyVersion uint32
	Policy     *state.Policy // shared, read only
}

// A ResolveError says why no key applies. Field is an EMV tag or a request
// field; the text never holds a PAN or a cryptogram.
type ResolveError struct {
	Field   string
	Problem string
}

func (e *ResolveError) Error() string { return e.Field + ": " + e.Problem }

// maxFileBytes bounds what is read of an assignments file or a manifest.
const maxFileBytes = 64 << 20

// LoadAssignments reads and checks an assignments file. It must be a regular
// file that belongs to root or to this process's user and that nobody else can
// write: who can edit it decides which key a PAN belongs to.
func LoadAssignments(path string) (*Assignments, error) {
	data, err := readFile(path, "assignments")
	if err != nil {
		return nil, err
	}
	a, err := ParseAssignments(data)
	if err != nil {
		return nil, fmt.Errorf("assignments %s: %w", path, err)
	}
	return a, nil
}

// readFile reads a file that only root and this process's user can change.
func readFile(path, what string) ([]byte, error) {
	data, open, err := protectedfile.Read(path, maxFileBytes)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", what, err)
	case open != nil:
		return nil, fmt.Errorf("%s %s: %w", what, path, open)
	case len(data) > maxFileBytes:
		return nil, fmt.Errorf("%s %s: is longer than %d bytes", what, path, maxFileBytes)
	}
	return data, nil
}

// ParseAssignments reads assignments from strict YAML. Overlapping ranges are
// an error: which key applies must not depend on an order.
func ParseAssignments(data []byte) (*Assignments, error) {
	var f assignmentsFile
	if err := strictyaml.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if len(f.Assignments) == 0 {
		return nil, errors.New("assignments: at least one is needed")
	}
	a := &Assignments{}
	for i := range f.Assignments {
		if err := a.add(i, &f.Assignments[i]); err != nil {
			return nil, fmt.Errorf("assignments[%d] %q: %w", i, f.Assignments[i].Name, err)
		}
	}
	if err := sortRanges(a.ranges); err != nil {
		var o *overlapError
		if errors.As(err, &o) {
			return nil, fmt.Errorf("bins of %q and %q overlap", a.list[o.a].name, a.list[o.b].name)
		}
		return nil, err
	}
	if err := a.checkAliases(); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Assignments) add(index int, f *assignmentFile) error {
	if !nameRule.MatchString(f.Name) {
		return errors.New("name must be 1 to 63 lower-case letters, digits and hyphens")
	}
	if slices.ContainsFunc(a.list, func(x assignment) bool { return x.name == f.Name }) {
		return errors.New("name is used twice")
	}
	as := assignment{name: f.Name, byDKI: map[byte]keyRef{}}
	var ok bool
	if as.scheme, ok = cryptogram.ParseScheme(f.Scheme); !ok {
		return fmt.Errorf("scheme: unknown scheme %q", f.Scheme)
	}
	if err := as.setProfiles(f); err != nil {
		return err
	}
	if err := as.setKeys(f.Keys); err != nil {
		return err
	}
	var err error
	if as.policy, err = f.policyFile.parse(); err != nil {
		return err
	}
	if as.digits, err = parseDigits(f.PANDigits); err != nil {
		return err
	}
	if len(f.BINs) == 0 {
		return errors.New("bins: at least one is needed")
	}
	for i, bin := range f.BINs {
		r, err := parseRange(bin)
		if err != nil {
			return fmt.Errorf("bins[%d]: %w", i, err)
		}
		r.owner = index
		a.ranges = append(a.ranges, r)
	}
	a.list = append(a.list, as)
	return nil
}

func (as *assignment) setProfiles(f *assignmentFile) error {
	if len(f.Profiles) == 0 {
		return errors.New("profiles: at least one is needed")
	}
	issuerChooses := false
	for i, name := range f.Profiles {
		p, ok := cryptogram.ProfileByName(name)
		switch {
		case !ok:
			return fmt.Errorf("profiles[%d]: unknown profile %q", i, name)
		case p.Scheme != as.scheme:
			return fmt.Errorf("profiles[%d]: %q is not of scheme %s", i, name, as.scheme)
		case slices.Contains(as.profiles, p):
			return fmt.Errorf("profiles[%d]: %q is named twice", i, name)
		case i > 0 && p.SelectedBy != as.profiles[0].SelectedBy:
			return fmt.Errorf("profiles[%d]: of %q and %q only one has a derivation key index: use two assignments", i, name, as.profiles[0].Name)
		}
		as.profiles = append(as.profiles, p)
		issuerChooses = issuerChooses || len(p.Options) > 1
	}
	switch {
	case f.ICCKeyOption == "A" && issuerChooses:
		as.option = cryptogram.OptionA
	case f.ICCKeyOption == "B" && issuerChooses:
		as.option = cryptogram.OptionB
	case f.ICCKeyOption == "" && !issuerChooses:
	case issuerChooses:
		return errors.New("icc_key_option: must be A or B, because sources differ for PANs of more than 16 digits: ask the issuer")
	default:
		return errors.New("icc_key_option: these profiles fix it; remove the key")
	}
	return nil
}

func (as *assignment) setKeys(files []keyFile) error {
	if len(files) == 0 {
		return errors.New("keys: at least one is needed")
	}
	hasDKI := as.profiles[0].SelectedBy == cryptogram.SelectedByCVN
	for i, k := range files {
		ref := keyRef{set: k.KeySet, version: k.Version}
		switch {
		case !nameRule.MatchString(k.KeySet):
			return fmt.Errorf("keys[%d]: key_set must name a key set", i)
		case k.Version == 0:
			return fmt.Errorf("keys[%d]: version must be 1 or more", i)
		case k.DKI == dkiAny && !hasDKI:
			if as.any != nil {
				return fmt.Errorf("keys[%d]: dki %q is given twice", i, dkiAny)
			}
			as.any = &ref
			continue
		case !hasDKI:
			return fmt.Errorf("keys[%d]: dki must be %q: no public IAD layout says which key these profiles use", i, dkiAny)
		}
		dki, err := hex.DecodeString(k.DKI)
		if err != nil || len(dki) != 1 {
			return fmt.Errorf("keys[%d]: dki must be two hexadecimal digits in quotes", i)
		}
		if _, taken := as.byDKI[dki[0]]; taken {
			return fmt.Errorf("keys[%d]: dki %s is given twice", i, k.DKI)
		}
		as.byDKI[dki[0]] = ref
	}
	return nil
}

// Resolve finds assignment, profile and key for one request. profileName is
// empty where the card's data says which profile it is. Errors are
// *ResolveError or cryptogram.TagError, safe to show to the caller.
func (a *Assignments) Resolve(pan cryptogram.PAN, iad cryptogram.IAD, profileName string) (Resolution, error) {
	owner, ok := findRange(a.ranges, &pan)
	if !ok {
		return Resolution{}, &ResolveError{"pan", "no assignment covers this PAN"}
	}
	as := &a.list[owner]
	if !slices.Contains(as.digits, pan.Len()) {
		return Resolution{}, &ResolveError{"pan", fmt.Sprintf("has %d digits, which pan_digits of assignment %s does not name", pan.Len(), as.name)}
	}
	p, err := as.profile(iad, profileName)
	if err != nil {
		return Resolution{}, err
	}
	if !slices.Contains(as.profiles, p) {
		return Resolution{}, &ResolveError{"profile", fmt.Sprintf("%s is not among the profiles of assignment %s", p.Name, as.name)}
	}
	ref, err := as.key(p, iad)
	if err != nil {
		return Resolution{}, err
	}
	return Resolution{
		Assignment: as.name, Profile: p, Option: as.optionFor(p),
		KeySet: ref.set, KeyVersion: ref.version, Policy: as.policy,
	}, nil
}

func (as *assignment) profile(iad cryptogram.IAD, name string) (*cryptogram.Profile, error) {
	var named *cryptogram.Profile
	if name != "" {
		var ok bool
		if named, ok = cryptogram.ProfileByName(name); !ok {
			return nil, &ResolveError{"profile", "unknown profile"}
		}
		if named.Scheme != as.scheme {
			return nil, &ResolveError{"profile", fmt.Sprintf("%s is not of scheme %s, which the PAN's assignment has", named.Name, as.scheme)}
		}
		if named.SelectedBy == cryptogram.SelectedByCaller {
			return named, nil
		}
	}
	said, _, err := cryptogram.SelectProfile(as.scheme, iad)
	switch {
	case errors.Is(err, cryptogram.ErrProfileNotInIAD):
		return nil, &ResolveError{"profile", fmt.Sprintf("must be named for scheme %s: no public layout of tag 9F10 says which it is", as.scheme)}
	case err != nil:
		return nil, err
	case named != nil && named != said:
		return nil, &ResolveError{"profile", fmt.Sprintf("%s was asked for, but tag 9F10 says %s", named.Name, said.Name)}
	}
	return said, nil
}

func (as *assignment) key(p *cryptogram.Profile, iad cryptogram.IAD) (keyRef, error) {
	if p.SelectedBy == cryptogram.SelectedByCaller {
		if as.any == nil {
			return keyRef{}, &ResolveError{"profile", fmt.Sprintf("assignment %s has no key for %s", as.name, p.Name)}
		}
		return *as.any, nil
	}
	dki, ok := cryptogram.IADKeyIndex(as.scheme, iad)
	if !ok {
		return keyRef{}, &ResolveError{"tag 9F10", "has no derivation key index"}
	}
	ref, ok := as.byDKI[dki]
	if !ok {
		return keyRef{}, &ResolveError{"tag 9F10", fmt.Sprintf("unknown derivation key index %02X for assignment %s", dki, as.name)}
	}
	return ref, nil
}

func (as *assignment) optionFor(p *cryptogram.Profile) cryptogram.KeyOption {
	if len(p.Options) > 1 {
		return as.option
	}
	return p.Options[0]
}

// A KeyUse is one key that an assignment names, and the profiles it is asked
// to serve.
type KeyUse struct {
	Assignment string
	KeySet     string
	Version    uint32
	Profiles   []*cryptogram.Profile
}

// KeyUses lists every key that the assignments name, for checking them
// against what the workers serve.
func (a *Assignments) KeyUses() []KeyUse {
	var uses []KeyUse
	for i := range a.list {
		as := &a.list[i]
		add := func(r keyRef) {
			uses = append(uses, KeyUse{as.name, r.set, r.version, as.profiles})
		}
		for dki := range 256 {
			if r, ok := as.byDKI[byte(dki)]; ok {
				add(r)
			}
		}
		if as.any != nil {
			add(*as.any)
		}
	}
	return uses
}
