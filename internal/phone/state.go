package phone

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
)

// stateFile is the only file in a phone's directory.
const stateFile = "state.json"

// stateFormat is the version of the file's layout.
const stateFormat = 1

// Errors that callers give hints for.
var (
	// ErrNoPhone means that the directory holds no phone.
	ErrNoPhone = errors.New("no phone here")
	// ErrNoCard means that the phone has no card for the profile.
	ErrNoCard = errors.New("the phone has no card for this profile")
	// ErrCounterSpent means that the card's transaction counter is at FFFF: a
	// real card is dead then, for a counter never starts again.
	ErrCounterSpent = errors.New("the card's transaction counter is used up")
)

// A Phone is a directory with the cards of one person and their counters.
type Phone struct{ dir string }

type storedState struct {
	Format int          `json:"format"`
	Cards  []storedCard `json:"cards"`
}

type storedCard struct {
	Profile      string `json:"profile"`
	PAN          string `json:"pan"`
	PSN          string `json:"psn"`
	ICCMasterKey string `json:"icc_master_key"`
	ATC          uint16 `json:"atc"`
}

// Create makes a phone with the given cards, one for each profile, in dir,
// which it creates. A phone that is already there is an error: its counters
// must not go back.
func Create(dir string, cards []Card) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("creating a phone: %w", err)
	}
	state := storedState{Format: stateFormat}
	for _, c := range cards {
		state.Cards = append(state.Cards, c.stored())
	}
	unlock, err := lock(dir)
	if err != nil {
		return fmt.Errorf("creating a phone: %w", err)
	}
	defer unlock()
	if _, err := os.Lstat(filepath.Join(dir, stateFile)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("creating a phone: %s is there already", filepath.Join(dir, stateFile))
	}
	return state.write(dir)
}

// Open finds the phone in dir. ErrNoPhone if there is none.
func Open(dir string) (*Phone, error) {
	state, err := readState(dir)
	if err != nil {
		return nil, err
	}
	for _, c := range state.Cards {
		if _, err := c.card(); err != nil {
			return nil, fmt.Errorf("opening the phone in %s: %w", dir, err)
		}
	}
	return &Phone{dir: dir}, nil
}

// Cards are the phone's cards with their present counters.
func (p *Phone) Cards() ([]Card, error) {
	state, err := readState(p.dir)
	if err != nil {
		return nil, err
	}
	var cards []Card
	for _, s := range state.Cards {
		c, err := s.card()
		if err != nil {
			return nil, fmt.Errorf("reading the phone in %s: %w", p.dir, err)
		}
		cards = append(cards, c)
	}
	return cards, nil
}

// Tap makes one transaction with the card of a profile. The counter is on
// disk before the cryptogram exists, so it is never used twice, however many
// taps run at once and wherever one of them dies. The card that comes back
// has the counter of this tap.
func (p *Phone) Tap(profile string, t Terminal) (Card, Tap, error) {
	card, err := p.take(profile)
	if err != nil {
		return Card{}, Tap{}, fmt.Errorf("tapping: %w", err)
	}
	tap, err := card.Use(card.ATC, t)
	if err != nil {
		return Card{}, Tap{}, fmt.Errorf("tapping: %w", err)
	}
	return card, tap, nil
}

// take moves the counter of one card on.
func (p *Phone) take(profile string) (Card, error) {
	unlock, err := lock(p.dir)
	if err != nil {
		return Card{}, err
	}
	defer unlock()
	state, err := readState(p.dir)
	if err != nil {
		return Card{}, err
	}
	for i := range state.Cards {
		s := &state.Cards[i]
		if s.Profile != profile {
			continue
		}
		if s.ATC == math.MaxUint16 {
			return Card{}, ErrCounterSpent
		}
		s.ATC++
		if err := state.write(p.dir); err != nil {
			return Card{}, err
		}
		return s.card()
	}
	return Card{}, fmt.Errorf("%w: %q", ErrNoCard, profile)
}

// lock takes the phone's directory for this process. The directory and not
// the file is locked, because the file is replaced by every tap.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { _ = d.Close() }, nil
}

func readState(dir string) (storedState, error) {
	var state storedState
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return state, fmt.Errorf("%w: %s", ErrNoPhone, dir)
	}
	if err != nil {
		return state, fmt.Errorf("reading the phone: %w", err)
	}
	if err := json.Unmarshal(data, &state); err != nil {
		return state, fmt.Errorf("reading the phone in %s: %w", dir, err)
	}
	if state.Format != stateFormat {
		return state, fmt.Errorf("reading the phone in %s: format %d, this program knows %d",
			dir, state.Format, stateFormat)
	}
	return state, nil
}

// write replaces the state file and makes sure that the replacement lasts:
// a counter that comes back after a power cut would be used twice.
func (s storedState) write(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the phone: %w", err)
	}
	if err := replaceFile(dir, stateFile, append(data, '\n')); err != nil {
		return fmt.Errorf("writing the phone: %w", err)
	}
	return nil
}

func replaceFile(dir, name string, data []byte) error {
	next := filepath.Join(dir, name+".next")
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(next, filepath.Join(dir, name)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (c Card) stored() storedCard {
	return storedCard{
		Profile: c.Profile, PAN: c.PAN, PSN: c.PSN,
		ICCMasterKey: hex.EncodeToString(c.master[:]), ATC: c.ATC,
	}
}

// card checks a stored card. Errors say what is wrong and never the value.
func (s storedCard) card() (Card, error) {
	c := Card{Profile: s.Profile, PAN: s.PAN, PSN: s.PSN, ATC: s.ATC}
	raw, err := hex.DecodeString(s.ICCMasterKey)
	if err != nil || len(raw) != len(c.master) {
		return Card{}, fmt.Errorf("card %q: icc_master_key must be %d hexadecimal digits", s.Profile, 2*len(c.master))
	}
	copy(c.master[:], raw)
	if len(s.PSN) != 2 || !decimal(s.PSN) || !decimal(s.PAN) {
		return Card{}, fmt.Errorf("card %q: %w", s.Profile, errDigits)
	}
	return c, nil
}

func decimal(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}
