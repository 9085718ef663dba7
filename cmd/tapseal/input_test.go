package main

import (
	"strconv"
	"strings"
	"testing"
)

func TestReadInput(t *testing.T) {
	var in verifyInput
	const all = `{"field55":"8202","pan":"4111111111111111","psn":"01","profile":"visa-cvn18","cvr":"03","arc":"3030",` +
		`"csu":"00820000","pad":"01","purpose":"advice","request_id":"r","atc":"0001",` +
		`"device":"d","channel":"atm","mcc":"5411","merchant":"m"}`
	if err := readInput(strings.NewReader(all), &in); err != nil {
		t.Fatal(err)
	}
	for name, value := range in.fields() {
		if *value == "" {
			t.Errorf("%s was not read", name)
		}
	}
}

// TestEmptyIsNotAbsent: an empty sequence number that counts as none becomes 00,
// and then a right cryptogram is INVALID.
func TestEmptyIsNotAbsent(t *testing.T) {
	for name := range (&verifyInput{}).fields() {
		var in verifyInput
		err := readInput(strings.NewReader(`{"`+name+`":""}`), &in)
		if err == nil || !strings.Contains(err.Error(), strconv.Quote(name)+" is empty") {
			t.Errorf("%s in JSON: %v", name, err)
		}
		empty := ""
		err = in.merge(map[string]*string{name: &empty})
		if flag := "--" + strings.ReplaceAll(name, "_", "-"); err == nil || !strings.Contains(err.Error(), flag+" is empty") {
			t.Errorf("%s as a flag: %v", name, err)
		}
		if err := in.merge(map[string]*string{name: nil}); err != nil {
			t.Errorf("%s is absent: %v", name, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := verifyInput{field55: "8202", pan: "4111111111111111"}
	for name, change := range map[string]func(*verifyInput){
		"no field 55":      func(in *verifyInput) { in.field55 = "" },
		"no pan":           func(in *verifyInput) { in.pan = "" },
		"odd digits":       func(in *verifyInput) { in.field55 = "820" },
		"no hexadecimal":   func(in *verifyInput) { in.cvr = "0G" },
		"both decisions":   func(in *verifyInput) { in.arc, in.csu = "3030", "00820000" },
		"pad alone":        func(in *verifyInput) { in.pad = "01" },
		"pad with arc":     func(in *verifyInput) { in.pad, in.arc = "01", "3030" },
		"odd arc":          func(in *verifyInput) { in.arc = "303" },
		"bad csu":          func(in *verifyInput) { in.csu = "x" },
		"unknown purpose":  func(in *verifyInput) { in.purpose = "clearing" },
		"arc for advice":   func(in *verifyInput) { in.purpose, in.arc = "advice", "3030" },
		"unknown channel":  func(in *verifyInput) { in.channel = "ATM" },
		"purpose capitals": func(in *verifyInput) { in.purpose = "AUTHORISE" },
	} {
		t.Run(name, func(t *testing.T) {
			in := good
			change(&in)
			_, err := in.decode()
			if err == nil {
				t.Fatal("accepted")
			}
			if strings.Contains(err.Error(), good.pan) {
				t.Errorf("the error shows the PAN: %v", err)
			}
		})
	}
	if _, err := good.decode(); err != nil {
		t.Error(err)
	}
}

// FuzzReadInput: whatever comes, no panic, and no account number in an error.
func FuzzReadInput(f *testing.F) {
	const pan = "4111111111111111"
	f.Add(`{"field55":"8202","pan":"` + pan + `"}`)
	f.Add(`{"pan":"` + pan + `","pan":""}`)
	f.Add(`{"` + pan + `":""}`)
	f.Add(`{"psn":{}}`)
	f.Add(`[`)
	f.Fuzz(func(t *testing.T, text string) {
		var in verifyInput
		err := readInput(strings.NewReader(text), &in)
		if err == nil {
			_, err = in.decode()
		}
		if err != nil && strings.Contains(err.Error(), pan) {
			t.Errorf("the error shows a value: %v", err)
		}
	})
}

func TestStatusIsTwoForWhateverIsNoVerdict(t *testing.T) {
	for verdict, want := range map[string]int{
		"VALID": 0, "INVALID": 1, "UNKNOWN": 2, "UNSPECIFIED": 2, "": 2, "valid": 2, "17": 2,
	} {
		if got := (answer{Verdict: verdict}).status(); got != want {
			t.Errorf("%q: status %d, want %d", verdict, got, want)
		}
	}
}
