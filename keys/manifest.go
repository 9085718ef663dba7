package keys

import (
	"encoding/hex"
	"fmt"
	"regexp"

	"go.yaml.in/yaml/v3"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/internal/strictyaml"
)

// manifestFile is the YAML form of a Manifest.
type manifestFile struct {
	Deployment string    `yaml:"deployment"`
	KeySets    []setFile `yaml:"key_sets"`
}

type setFile struct {
	Name     string        `yaml:"name"`
	Use      string        `yaml:"use"`
	Profiles []string      `yaml:"profiles,omitempty"`
	Versions []versionFile `yaml:"versions"`
}

type versionFile struct {
	Version    uint32 `yaml:"version"`
	ID         string `yaml:"id"`
	State      string `yaml:"state"`
	CheckValue string `yaml:"check_value"`
	Canary     string `yaml:"canary"`
}

// nameRule bounds the names that appear in answers, metrics and records.
var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// LoadManifest reads and checks a manifest file. It must be a regular file that
// belongs to root or to this process's user and that nobody else can write: who
// can edit it decides what a key may serve.
func LoadManifest(path string) (*Manifest, error) {
	data, err := readFile(path, "key manifest")
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("key manifest %s: %w", path, err)
	}
	return m, nil
}

// ParseManifest reads a manifest from strict YAML. Errors name the key set,
// the version and the YAML key.
func ParseManifest(data []byte) (*Manifest, error) {
	var f manifestFile
	if err := strictyaml.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if !nameRule.MatchString(f.Deployment) {
		return nil, fmt.Errorf("deployment: %q must be lower-case letters, digits and hyphens", f.Deployment)
	}
	m := &Manifest{Deployment: f.Deployment}
	names, ids, subjects := map[string]bool{}, map[ID]string{}, 0
	for i := range f.KeySets {
		set, err := parseSet(&f.KeySets[i])
		if err != nil {
			return nil, fmt.Errorf("key_sets[%d] %q: %w", i, f.KeySets[i].Name, err)
		}
		if names[set.Name] {
			return nil, fmt.Errorf("key_sets[%d]: name %q is used twice", i, set.Name)
		}
		names[set.Name] = true
		if set.Use == UseSubjectHash {
			// With two, which one names a record would be a matter of order.
			if subjects++; subjects > 1 {
				return nil, fmt.Errorf("key_sets[%d] %q: use: there may be one set of use %s", i, set.Name, UseSubjectHash)
			}
			if err := checkInForce(set.Versions); err != nil {
				return nil, fmt.Errorf("key_sets[%d] %q: versions: %w", i, set.Name, err)
			}
		}
		for _, v := range set.Versions {
			where := fmt.Sprintf("%s version %d", set.Name, v.Number)
			if other, taken := ids[v.ID]; taken {
				return nil, fmt.Errorf("key_sets[%d]: id of %s is also the id of %s", i, where, other)
			}
			ids[v.ID] = where
		}
		m.Sets = append(m.Sets, set)
	}
	return m, nil
}

func parseSet(f *setFile) (Set, error) {
	s := Set{Name: f.Name}
	if !nameRule.MatchString(f.Name) {
		return Set{}, fmt.Errorf("name must be 1 to 63 lower-case letters, digits and hyphens")
	}
	var err error
	if s.Use, err = parseUse(f.Use); err != nil {
		return Set{}, fmt.Errorf("use: %w", err)
	}
	switch {
	case s.Use != UseSubjectHash:
		s.Profiles, err = parseBoundProfiles(f.Profiles)
	case f.Profiles != nil:
		err = fmt.Errorf("a key of use %s serves none: leave it out", s.Use)
	}
	if err != nil {
		return Set{}, fmt.Errorf("profiles: %w", err)
	}
	if len(f.Versions) == 0 {
		return Set{}, fmt.Errorf("versions: at least one is needed")
	}
	for i := range f.Versions {
		v, err := parseVersion(&f.Versions[i])
		if err != nil {
			return Set{}, fmt.Errorf("versions[%d]: %w", i, err)
		}
		if i > 0 && v.Number <= s.Versions[i-1].Number {
			return Set{}, fmt.Errorf("versions[%d]: version %d must be above the one before", i, v.Number)
		}
		s.Versions = append(s.Versions, v)
	}
	return s, nil
}

// parseBoundProfiles refuses a key set for two schemes: a key has one owner.
func parseBoundProfiles(names []string) ([]cryptogram.ProfileID, error) {
	if len(names) == 0 {
		return nil, fmt.Errorf("at least one is needed")
	}
	var ids []cryptogram.ProfileID
	var scheme cryptogram.Scheme
	for i, name := range names {
		p, ok := cryptogram.ProfileByName(name)
		switch {
		case !ok:
			return nil, fmt.Errorf("unknown profile %q", name)
		case i > 0 && p.Scheme != scheme:
			return nil, fmt.Errorf("%q is of scheme %s, the others of %s: a key set serves one scheme", name, p.Scheme, scheme)
		}
		for _, id := range ids {
			if id == p.ID {
				return nil, fmt.Errorf("%q is named twice", name)
			}
		}
		scheme = p.Scheme
		ids = append(ids, p.ID)
	}
	return ids, nil
}

func parseVersion(f *versionFile) (Version, error) {
	v := Version{Number: f.Version}
	if v.Number == 0 {
		return Version{}, fmt.Errorf("version must be 1 or more")
	}
	var err error
	if v.ID, err = ParseID(f.ID); err != nil {
		return Version{}, fmt.Errorf("id: %w", err)
	}
	if v.State, err = parseState(f.State); err != nil {
		return Version{}, fmt.Errorf("state: %w", err)
	}
	if err := parseHex(f.CheckValue, v.CheckValue[:]); err != nil {
		return Version{}, fmt.Errorf("check_value: %w", err)
	}
	if err := parseHex(f.Canary, v.Canary[:]); err != nil {
		return Version{}, fmt.Errorf("canary: %w", err)
	}
	return v, nil
}

func parseHex(s string, into []byte) error {
	if len(s) != 2*len(into) {
		return fmt.Errorf("must have %d hexadecimal digits", 2*len(into))
	}
	if _, err := hex.Decode(into, []byte(s)); err != nil {
		return fmt.Errorf("must be hexadecimal")
	}
	return nil
}

// Marshal is the YAML form of the manifest, which ParseManifest reads back.
func (m *Manifest) Marshal() ([]byte, error) {
	f := manifestFile{Deployment: m.Deployment}
	for i := range m.Sets {
		s := &m.Sets[i]
		sf := setFile{Name: s.Name, Use: s.Use.String()}
		for _, id := range s.Profiles {
			p, ok := cryptogram.LookupProfile(id)
			if !ok {
				return nil, fmt.Errorf("key set %q: unknown profile id %d", s.Name, id)
			}
			sf.Profiles = append(sf.Profiles, p.Name)
		}
		for _, v := range s.Versions {
			sf.Versions = append(sf.Versions, versionFile{
				Version: v.Number, ID: v.ID.String(), State: v.State.String(),
				CheckValue: hex.EncodeToString(v.CheckValue[:]),
				Canary:     hex.EncodeToString(v.Canary[:]),
			})
		}
		f.KeySets = append(f.KeySets, sf)
	}
	out, err := yaml.Marshal(&f)
	if err != nil {
		return nil, fmt.Errorf("writing key manifest: %w", err)
	}
	return out, nil
}
