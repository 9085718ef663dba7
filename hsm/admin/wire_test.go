package admin

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/keys"
)

func orders() []Order {
	return []Order{
		{Module: "/m.so", Act: Act{Operation: InitToken, TokenLabel: LabelPrefix, PINFile: "/pin"}},
		{Module: "/m.so", Act: Act{Operation: InitToken, TokenLabel: LabelPrefix, PIN: secret.New([]byte("12345678"))}},
		{Module: "/m.so", ModuleArgs: "configdir='sql:/d'", Act: Act{Operation: Inventory, TokenLabel: LabelPrefix + "-1", PINFile: "/pin"}},
		{Module: "/m.so", Act: Act{Operation: MakeSubjectKey, TokenLabel: LabelPrefix, PINFile: "/pin", Label: "subjects-1"}},
		{Module: "/m.so", Act: Act{
			Operation: ImportDemoKey, TokenLabel: LabelPrefix, PINFile: "/pin",
			Key: &DemoKey{Label: "demo/1", Value: [16]byte{1, 2, 3, 0xFF}},
		}},
	}
}

// samePIN also takes two that are not there.
func samePIN() cmp.Option {
	return cmp.Comparer(func(a, b secret.Secret) bool { return a.IsZero() && b.IsZero() || a.Equal(b) })
}

func TestOrderRoundTrip(t *testing.T) {
	for _, want := range orders() {
		var b bytes.Buffer
		if err := WriteOrder(&b, &want); err != nil {
			t.Fatal(err)
		}
		got, err := ReadOrder(&b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, samePIN()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestOrderNeedsOnePIN(t *testing.T) {
	for _, pins := range []string{``, `,"pin":""`, `,"pin_file":"/p","pin":"MTIzNA=="`} {
		order := `{"module":"/m.so","operation":"init-token","token_label":"tapseal-dev"` + pins + `}`
		if _, err := ReadOrder(strings.NewReader(order)); err == nil {
			t.Errorf("read: %s", order)
		}
	}
}

func TestReplyRoundTrip(t *testing.T) {
	for _, want := range []Result{
		{},
		{TokenSerial: "0123"},
		{Key: &MadeKey{ID: keys.ID{1}, CheckValue: [3]byte{1, 2, 3}, Canary: [8]byte{8, 7}}},
		{Objects: []Object{{ID: []byte{}, Label: "x", CheckValue: []byte{}}, {ID: []byte{1}, CheckValue: []byte{1, 2, 3}, Faults: []string{"CKA_WRAP is wrong"}}}},
	} {
		var b bytes.Buffer
		if err := WriteReply(&b, want, nil); err != nil {
			t.Fatal(err)
		}
		got, err := ReadReply(&b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestFailureRoundTrip(t *testing.T) {
	var b bytes.Buffer
	if err := WriteReply(&b, Result{TokenSerial: "not shown"}, errors.New("it failed")); err != nil {
		t.Fatal(err)
	}
	res, err := ReadReply(&b)
	var failure *ActError
	if !errors.As(err, &failure) || failure.Text != "it failed" || res.TokenSerial != "" {
		t.Errorf("got %v, %+v", err, res)
	}
}

func TestBadRepliesAreRefused(t *testing.T) {
	for _, reply := range []string{
		``, `{`, `[]`, `{"extra":1}`, `{}{}`,
		`{"key":{"id":"00","check_value":"010203","canary":"0102030405060708"}}`,
		`{"key":{"id":"00000000000000000000000000000000","check_value":"010203","canary":"0102030405060708"}}`,
		`{"key":{"id":"01000000000000000000000000000000","check_value":"0102","canary":"0102030405060708"}}`,
		`{"key":{"id":"01000000000000000000000000000000","check_value":"010203","canary":"01020304050607zz"}}`,
		`{"objects":[{"id":"x","label":""}]}`,
	} {
		if _, err := ReadReply(strings.NewReader(reply)); err == nil {
			t.Errorf("read: %s", reply)
		}
	}
}

// No error of a damaged order shows the key value in it.
func TestOrderErrorsHideTheKey(t *testing.T) {
	const value = "8899AABBCCDDEEFF"
	for _, key := range []string{`"` + value + `"`, `"` + value + value + "zz" + `"`, value, `["` + value + `"]`} {
		order := `{"module":"/m.so","operation":"import-demo-key","token_label":"tapseal-dev","pin_file":"/p","key":{"label":"x","value":` + key + `}}`
		_, err := ReadOrder(strings.NewReader(order))
		if err == nil {
			t.Errorf("read: %s", key)
		} else if strings.Contains(err.Error(), value) {
			t.Errorf("the error shows the value: %v", err)
		}
	}
}

func TestRunWithoutABinary(t *testing.T) {
	act := orders()[0].Act
	if _, err := Run(context.Background(), Options{Binary: "/nonexistent", Module: "/m.so"}, act); err == nil {
		t.Error("no error")
	}
	// It answers nothing and fails: the error says so.
	if _, err := Run(context.Background(), Options{Binary: "/bin/false", Module: "/m.so"}, act); err == nil {
		t.Error("no error")
	}
}

func FuzzReadOrder(f *testing.F) {
	for _, o := range orders() {
		var b bytes.Buffer
		if err := WriteOrder(&b, &o); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := ReadOrder(bytes.NewReader(data))
		if err != nil {
			return
		}
		if err := o.Act.Check(); err != nil {
			t.Errorf("an order that was read does not hold: %v", err)
		}
		var b bytes.Buffer
		if err := WriteOrder(&b, &o); err != nil {
			t.Fatal(err)
		}
		again, err := ReadOrder(&b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(o, again, samePIN()); diff != "" {
			t.Error(diff)
		}
	})
}
