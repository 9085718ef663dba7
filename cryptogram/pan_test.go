package cryptogram_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
)

func TestParsePAN(t *testing.T) {
	tests := []struct {
		in   string
		want error
	}{
		{"541333900000", nil},
		{"5413339000006165", nil},
		{"5413339000006165123", nil},
		{"", cryptogram.ErrPANLength},
		{"54133390000", cryptogram.ErrPANLength},
		{"54133390000061651234", cryptogram.ErrPANLength},
		{"541333900000616a", cryptogram.ErrPANDigit},
		{"5413 3390 0000 6165", cryptogram.ErrPANDigit},
		{"541333900000616F", cryptogram.ErrPANDigit},
		{"54133390000061\x005", cryptogram.ErrPANDigit},
		{"５４１３３３", cryptogram.ErrPANDigit},
		{"/:/:/:/:/:/:", cryptogram.ErrPANDigit},
	}
	for _, tt := range tests {
		p, err := cryptogram.ParsePAN(tt.in)
		q, errBytes := cryptogram.PANFromASCII([]byte(tt.in))
		if !errors.Is(err, tt.want) || !errors.Is(errBytes, tt.want) || p != q {
			t.Errorf("PAN of %d bytes: %v and %v, want %v", len(tt.in), err, errBytes, tt.want)
			continue
		}
		if err != nil {
			if !p.IsZero() || p.Len() != 0 {
				t.Error("an error left a PAN behind")
			}
			continue
		}
		if string(p.AppendDigits(nil)) != tt.in || p.Len() != len(tt.in) || p.IsZero() {
			t.Errorf("PAN of %d digits does not survive", len(tt.in))
		}
		for i := range p.Len() {
			if p.Digit(i) != tt.in[i]-'0' {
				t.Errorf("digit %d differs", i)
			}
		}
	}
}

func TestParsePSN(t *testing.T) {
	for n := range 100 {
		text := fmt.Sprintf("%02d", n)
		bcd := byte(n/10<<4 | n%10)
		p, err := cryptogram.ParsePSN(text)
		q, errBCD := cryptogram.PSNFromBCD(bcd)
		if err != nil || errBCD != nil || p != q || p.BCD() != bcd {
			t.Errorf("sequence number %s: %v, %v", text, err, errBCD)
		}
	}
	for _, text := range []string{"", "1", "001", "1a", "a1", "-1", " 1", "/0", ":0", "0/", "0:"} {
		if _, err := cryptogram.ParsePSN(text); !errors.Is(err, cryptogram.ErrPSN) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, bcd := range []byte{0x0A, 0xA0, 0xFF, 0x9F} {
		if _, err := cryptogram.PSNFromBCD(bcd); !errors.Is(err, cryptogram.ErrPSN) {
			t.Errorf("%02X: %v", bcd, err)
		}
	}
}

// TestNothingPrintsAPAN tries the ways in which a value gets into a log by
// accident.
func TestNothingPrintsAPAN(t *testing.T) {
	const digits, sequence = "5413339000006165", "73"
	holder := struct {
		PAN cryptogram.PAN
		PSN cryptogram.PSN
	}{PAN: mustPAN(t, digits), PSN: mustPSN(t, sequence)}

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		fmt.Fprintf(&out, verb+"\n", holder.PAN)
		fmt.Fprintf(&out, verb+"\n", holder.PSN)
		fmt.Fprintf(&out, verb+"\n", &holder.PAN)
		fmt.Fprintf(&out, verb+"\n", holder)
		fmt.Fprintf(&out, verb+"\n", []cryptogram.PAN{holder.PAN})
	}
	fmt.Fprintln(&out, holder.PAN.String(), holder.PSN.String(), holder.PAN.GoString(), holder.PSN.GoString())
	noTime := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{} // its digits could be anything
		}
		return a
	}}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, noTime), slog.NewJSONHandler(&out, noTime)} {
		slog.New(h).Info("tap", "pan", holder.PAN, "psn", holder.PSN, "all", holder)
	}
	if err := json.NewEncoder(&out).Encode(holder); err != nil {
		t.Fatal(err)
	}
	text := strings.ToUpper(out.String())
	// As digits, as ASCII codes in decimal and in hexadecimal.
	for _, leak := range []string{"5413", "6165", "53 52 49 51", "35343133", "0X35", "115", "0X73", "PSN:73"} {
		if strings.Contains(text, leak) {
			t.Errorf("the output holds digits of the PAN or of the sequence number (%d bytes pattern)", len(leak))
		}
	}
	if strings.Count(text, "PAN(16 DIGITS)") < 20 {
		t.Error("the output does not hold the masked form")
	}
}
