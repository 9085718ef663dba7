package softhsmconfig

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// tokenFile is a token object as SoftHSM writes it.
func tokenFile(generation byte) []byte {
	var b []byte
	word := func(v uint64) { b = binary.BigEndian.AppendUint64(b, v) }
	text := func(attribute uint64, value []byte) {
		word(attribute)
		word(kindBytes)
		word(uint64(len(value)))
		b = append(b, value...)
	}
	word(uint64(generation))
	text(0x80005349, bytes.Repeat([]byte{' '}, 32))
	text(0x8000534A, bytes.Repeat([]byte{'1'}, 16))
	word(0x8000534B)
	word(kindUlong)
	word(0x42D)
	text(0x8000534C, bytes.Repeat([]byte{3}, 72))
	text(0x8000534D, bytes.Repeat([]byte{4}, 72))
	return b
}

// tokenDir is a directory with a token and nothing else.
func tokenDir(t *testing.T) (l Layout, object string) {
	t.Helper()
	l = Layout{Dir: filepath.Join(t.TempDir(), "a[b] c")}
	object = filepath.Join(l.Tokens(), "some-token", tokenObject)
	if err := os.MkdirAll(filepath.Dir(object), 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, object, tokenFile(7))
	if err := l.saveToken(); err != nil {
		t.Fatal(err)
	}
	return l, object
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSoundTokenObject(t *testing.T) {
	whole := tokenFile(7)
	if len(whole) != 320 || !soundTokenObject(whole) {
		t.Errorf("a whole file of %d bytes is refused", len(whole))
	}
	for n := range whole {
		if soundTokenObject(whole[:n]) {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
	for name, data := range map[string][]byte{
		"zeros":           make([]byte, len(whole)),
		"ones":            bytes.Repeat([]byte{0xFF}, len(whole)),
		"a byte too many": append(tokenFile(7), 0),
		"too long":        append(make([]byte, maxTokenObjectBytes), whole...),
	} {
		if soundTokenObject(data) {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzSoundTokenObject(f *testing.F) {
	f.Add(tokenFile(1))
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, data []byte) { soundTokenObject(data) })
}

func TestHeal(t *testing.T) {
	newer := tokenFile(8)
	for name, tt := range map[string]struct {
		left, want []byte
		restored   bool
	}{
		"sound":      {left: tokenFile(7), want: tokenFile(7)},
		"newer":      {left: newer, want: newer},
		"empty":      {left: nil, want: tokenFile(7), restored: true},
		"cut":        {left: newer[:200], want: tokenFile(7), restored: true},
		"power cut":  {left: make([]byte, len(newer)), want: tokenFile(7), restored: true},
		"other file": {left: []byte("no token at all"), want: tokenFile(7), restored: true},
	} {
		t.Run(name, func(t *testing.T) {
			l, object := tokenDir(t)
			put(t, object, tt.left)
			if got, want := Suspect(l.Dir), len(tt.left) != len(newer); got != want {
				t.Errorf("suspect: %v, want %v", got, want)
			}
			restored, err := Heal(l.Dir)
			if err != nil || restored != tt.restored {
				t.Errorf("restored %v, %v", restored, err)
			}
			if got := get(t, object); !bytes.Equal(got, tt.want) {
				t.Errorf("left %x", got)
			}
			if again, err := Heal(l.Dir); again || err != nil {
				t.Errorf("a second time: %v, %v", again, err)
			}
		})
	}
}

// TestHealLeavesALoginAlone: the file is empty for an instant in every login.
func TestHealLeavesALoginAlone(t *testing.T) {
	l, object := tokenDir(t)
	put(t, object, nil)
	go func() {
		time.Sleep(betweenLooks / 4)
		_ = os.WriteFile(object, tokenFile(9), 0o600)
	}()
	restored, err := Heal(l.Dir)
	if restored || err != nil {
		t.Errorf("restored %v, %v", restored, err)
	}
	if got := get(t, object); !bytes.Equal(got, tokenFile(9)) {
		t.Errorf("left %x", got)
	}
}

func TestHealWithoutAGoodCopy(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, copied string){
		"none":    func(t *testing.T, copied string) { mustRemove(t, filepath.Dir(copied)) },
		"damaged": func(t *testing.T, copied string) { put(t, copied, tokenFile(7)[:100]) },
	} {
		t.Run(name, func(t *testing.T) {
			l, object := tokenDir(t)
			put(t, object, nil)
			spoil(t, l.savedToken())
			restored, err := Heal(l.Dir)
			if restored || !errors.Is(err, errDamaged) {
				t.Errorf("restored %v, %v", restored, err)
			}
			if err := l.saveToken(); !errors.Is(err, errDamaged) {
				t.Errorf("a damaged file was saved: %v", err)
			}
		})
	}
}

func mustRemove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func TestCopyIsPrivateAndFollows(t *testing.T) {
	l, object := tokenDir(t)
	for path, want := range map[string]fs.FileMode{l.Backup(): 0o700, l.savedToken(): 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	put(t, object, tokenFile(8))
	if err := l.saveToken(); err != nil || !bytes.Equal(get(t, l.savedToken()), tokenFile(8)) {
		t.Errorf("the copy is not the newer one: %v", err)
	}
}
