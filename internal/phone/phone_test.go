package phone

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const testIssuer = "0123456789ABCDEFFEDCBA9876543210" // pyemv's test key

func TestMain(m *testing.M) {
	if dir := os.Getenv("PHONE_TEST_TAP_IN"); dir != "" {
		os.Exit(tapOnce(dir))
	}
	os.Exit(m.Run())
}

// tapOnce is the body of the processes of TestParallelTapsNeverShareACounter.
func tapOnce(dir string) int {
	p, err := Open(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for range 10 {
		_, tap, err := p.Tap("visa-cvn18", testTerminal())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(tap.ATC)
	}
	return 0
}

func testTerminal() Terminal {
	return Terminal{
		AmountMinor: 1250, Currency: 978, Country: 276,
		Time: time.Date(2030, 5, 17, 12, 0, 0, 0, time.UTC), UN: [4]byte{1, 2, 3, 4},
	}
}

func testPhone(t *testing.T, profiles ...string) (*Phone, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "phone")
	var issuer [16]byte
	copy(issuer[:], mustHex(t, testIssuer))
	var cards []Card
	for _, name := range profiles {
		c, err := Provision(issuer, name, "1234567890123456", "00")
		if err != nil {
			t.Fatal(err)
		}
		cards = append(cards, c)
	}
	if err := Create(dir, cards); err != nil {
		t.Fatal(err)
	}
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p, dir
}

func TestTapField55(t *testing.T) {
	p, _ := testPhone(t, "visa-cvn18")
	card, tap, err := p.Tap("visa-cvn18", testTerminal())
	if err != nil {
		t.Fatal(err)
	}
	// The cryptogram alone is cut out: TestCryptogramOfEveryProfile has it
	// from outside.
	got := strings.ToUpper(hex.EncodeToString(tap.Field55))
	const before = "82021800" + "8407A0000000031010" + "95050000000000" + "9A03300517" + "9C0100" +
		"5F2A020978" + "5F340100" + "9F0206000000001250" + "9F0306000000000000" +
		"9F100706011203A00000" + "9F1A020276" + "9F2608"
	const after = "9F270180" + "9F3303E008C8" + "9F36020001" + "9F370401020304"
	if len(got) != len(before)+16+len(after) {
		t.Fatalf("field 55 has %d digits", len(got))
	}
	if diff := cmp.Diff(before, got[:len(before)]); diff != "" {
		t.Errorf("before the cryptogram (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(after, got[len(before)+16:]); diff != "" {
		t.Errorf("after the cryptogram (-want +got):\n%s", diff)
	}
	if tap.ATC != 1 || card.ATC != 1 {
		t.Errorf("counter of the first tap is %d", tap.ATC)
	}
}

func TestEveryProfileTaps(t *testing.T) {
	p, _ := testPhone(t, Profiles()...)
	for _, name := range Profiles() {
		_, tap, err := p.Tap(name, testTerminal())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, want := len(tap.CVR) > 0, name == "pboc-tdes"; got != want {
			t.Errorf("%s: CVR given apart: %v, want %v", name, got, want)
		}
	}
}

func TestCounterGoesOnFromProcessToProcess(t *testing.T) {
	_, dir := testPhone(t, "visa-cvn18", "emv-ccd")
	for want := uint16(1); want <= 3; want++ {
		p, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		_, tap, err := p.Tap("visa-cvn18", testTerminal())
		if err != nil {
			t.Fatal(err)
		}
		if tap.ATC != want {
			t.Errorf("counter %d, want %d", tap.ATC, want)
		}
	}
	p, _ := Open(dir)
	if _, tap, err := p.Tap("emv-ccd", testTerminal()); err != nil || tap.ATC != 1 {
		t.Errorf("the other card: counter %d, %v; every card has its own", tap.ATC, err)
	}
}

func TestParallelTapsNeverShareACounter(t *testing.T) {
	_, dir := testPhone(t, "visa-cvn18")
	const processes = 6
	var wg sync.WaitGroup
	outputs := make([]string, processes)
	for i := range processes {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "PHONE_TEST_TAP_IN="+dir)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("process %d: %v: %s", i, err, out)
			}
			outputs[i] = string(out)
		})
	}
	wg.Wait()
	seen := map[int]bool{}
	for line := range strings.FieldsSeq(strings.Join(outputs, "\n")) {
		atc, err := strconv.Atoi(line)
		if err != nil {
			t.Fatal(err)
		}
		if seen[atc] {
			t.Errorf("counter %d was used twice", atc)
		}
		seen[atc] = true
	}
	if len(seen) != processes*10 {
		t.Errorf("%d counters, want %d", len(seen), processes*10)
	}
}

func TestCounterEndsAtFFFF(t *testing.T) {
	p, dir := testPhone(t, "visa-cvn18")
	state, err := readState(dir)
	if err != nil {
		t.Fatal(err)
	}
	state.Cards[0].ATC = math.MaxUint16 - 1
	if err := state.write(dir); err != nil {
		t.Fatal(err)
	}
	if _, tap, err := p.Tap("visa-cvn18", testTerminal()); err != nil || tap.ATC != math.MaxUint16 {
		t.Errorf("last tap: counter %d, %v", tap.ATC, err)
	}
	for range 2 {
		if _, _, err := p.Tap("visa-cvn18", testTerminal()); !errors.Is(err, ErrCounterSpent) {
			t.Errorf("after FFFF: %v, want ErrCounterSpent", err)
		}
	}
}

func TestCreateRefusesAPhoneThatIsThere(t *testing.T) {
	p, dir := testPhone(t, "visa-cvn18")
	if _, _, err := p.Tap("visa-cvn18", testTerminal()); err != nil {
		t.Fatal(err)
	}
	if err := Create(dir, nil); err == nil {
		t.Fatal("created a second time: the counter would go back")
	}
	cards, err := p.Cards()
	if err != nil || len(cards) != 1 || cards[0].ATC != 1 {
		t.Errorf("after the refusal: %v, %v", cards, err)
	}
}

func TestStateIsPrivateAndUnprintable(t *testing.T) {
	p, dir := testPhone(t, "visa-cvn18")
	info, err := os.Stat(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode of the state file %o, want 600", got)
	}
	cards, err := p.Cards()
	if err != nil {
		t.Fatal(err)
	}
	secret := hex.EncodeToString(cards[0].master[:4])
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(format, cards[0]); strings.Contains(got, secret) || strings.Contains(got, "123456789") {
			t.Errorf("%s shows the card: %s", format, got)
		}
	}
}

func TestErrors(t *testing.T) {
	p, dir := testPhone(t, "visa-cvn18")
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNoPhone) {
		t.Errorf("empty directory: %v, want ErrNoPhone", err)
	}
	if _, _, err := p.Tap("emv-ccd", testTerminal()); !errors.Is(err, ErrNoCard) {
		t.Errorf("no such card: %v, want ErrNoCard", err)
	}
	for name, change := range map[string]func(*Terminal){
		"amount":   func(x *Terminal) { x.AmountMinor = 1_000_000_000_000 },
		"currency": func(x *Terminal) { x.Currency = 1000 },
		"country":  func(x *Terminal) { x.Country = 1000 },
	} {
		x := testTerminal()
		change(&x)
		if _, _, err := p.Tap("visa-cvn18", x); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("bad %s: %v", name, err)
		}
	}
	for _, bad := range []string{"{", `{"format":2}`, `{"format":1,"cards":[{"profile":"visa-cvn18","pan":"1234567890123456","psn":"00","icc_master_key":"0123"}]}`} {
		if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || strings.Contains(err.Error(), "1234567890123456") {
			t.Errorf("state %.12q…: %v", bad, err)
		}
	}
}

func TestProvisionRefuses(t *testing.T) {
	for name, args := range map[string][3]string{
		"profile":      {"visa-cvn43", "1234567890123456", "00"},
		"letter":       {"visa-cvn18", "12345678901234X6", "00"},
		"long psn":     {"visa-cvn18", "1234567890123456", "000"},
		"psn letter":   {"visa-cvn18", "1234567890123456", "0A"},
		"no account":   {"visa-cvn18", "", "00"},
		"empty number": {"visa-cvn18", "1234567890123456", ""},
	} {
		if _, err := Provision([16]byte{}, args[0], args[1], args[2]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
