package scratch

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tapseal/tapseal/cryptogram"
)

func anyRequest(t *rapid.T) Request {
	var r Request
	b := func(n int) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "bytes") }
	copy(r.Root[:], b(16))
	r.Plan.NumDerivations = rapid.Uint8Range(0, cryptogram.MaxDerivations).Draw(t, "derivations")
	r.Plan.NumSteps = rapid.Uint8Range(0, cryptogram.MaxSteps).Draw(t, "steps")
	for i := range r.Plan.NumDerivations {
		d := &r.Plan.Derivations[i]
		d.Parent, d.Purpose = cryptogram.KeyNode(rapid.Byte().Draw(t, "parent")), cryptogram.Purpose(rapid.Byte().Draw(t, "purpose"))
		copy(d.Input[:], b(16))
	}
	for i := range r.Plan.NumSteps {
		s := &r.Plan.Steps[i]
		s.Op, s.Key, s.Left = cryptogram.Op(rapid.Byte().Draw(t, "op")), cryptogram.KeyNode(rapid.Byte().Draw(t, "key")), cryptogram.KeyNode(rapid.Byte().Draw(t, "left"))
		s.Requires = cryptogram.StepRef(rapid.Byte().Draw(t, "requires"))
		s.CompareBytes, s.ProduceBytes = rapid.Byte().Draw(t, "compare"), rapid.Byte().Draw(t, "produce")
		if s.CompareBytes > 0 {
			copy(s.Expected[:], b(8))
		}
		s.DataBytes = rapid.Uint16Range(0, cryptogram.MaxStepBytes).Draw(t, "size")
		copy(s.Data[:], b(int(s.DataBytes)))
	}
	return r
}

func TestRequestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyRequest(t)
		line, err := AppendRequest(nil, &want)
		if err != nil {
			t.Fatal(err)
		}
		if len(line) > MaxLineBytes || bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("not one line of bounded length: %d bytes", len(line))
		}
		got := Request{Root: [16]byte{0xEE}} // decoding overwrites everything
		if err := DecodeRequest(line, &got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatal("another request came back")
		}
	})
}

func TestReplyRoundTrip(t *testing.T) {
	want := cryptogram.Outcome{Steps: [cryptogram.MaxSteps]cryptogram.StepOutcome{
		{Status: cryptogram.Matched}, {Status: cryptogram.Produced, Bytes: [8]byte{1, 2}}, {Status: cryptogram.NotRun}, {Status: cryptogram.Mismatched},
	}}
	line, err := AppendReply(nil, &want, 4, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := cryptogram.Outcome{Steps: [cryptogram.MaxSteps]cryptogram.StepOutcome{{Bytes: [8]byte{9}}}}
	if err := DecodeReply(line, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFailureRoundTrip(t *testing.T) {
	line, err := AppendReply(nil, nil, 0, errors.New("it failed"))
	if err != nil {
		t.Fatal(err)
	}
	var failure *RequestError
	if err := DecodeReply(line, &cryptogram.Outcome{}); !errors.As(err, &failure) || failure.Text != "it failed" {
		t.Errorf("got %v", err)
	}
}

func TestBadLines(t *testing.T) {
	const secret = "c2VjcmV0IHZhbHVl"
	for _, line := range []string{
		``, `{`, `[]`, `{}`, `{"root":"` + secret + `"}`, `{"root":"` + secret + `!"}`, `{"root":` + secret + `}`,
		`{"root":"AAAAAAAAAAAAAAAAAAAAAA==","steps":[{},{},{},{},{}]}`,
		`{"root":"AAAAAAAAAAAAAAAAAAAAAA==","derivations":[{"input":"` + secret + `"}]}`,
		`{"root":"AAAAAAAAAAAAAAAAAAAAAA==","steps":[{"expected":"` + secret + `"}]}`,
		`{"root":"AAAAAAAAAAAAAAAAAAAAAA==","steps":[{"data":"` + strings.Repeat("AAAA", 100) + `"}]}`,
	} {
		var r Request
		err := DecodeRequest([]byte(line), &r)
		if err == nil {
			t.Errorf("decoded: %s", line)
		} else if strings.Contains(err.Error(), secret[:8]) {
			t.Errorf("the error shows a value: %v", err)
		}
	}
	for _, line := range []string{``, `{`, `{"steps":[{},{},{},{},{}]}`, `{"steps":[{"status":3,"bytes":"AA=="}]}`} {
		if err := DecodeReply([]byte(line), &cryptogram.Outcome{}); err == nil {
			t.Errorf("decoded: %s", line)
		}
	}
}

func TestPlansTooLargeAreNotSent(t *testing.T) {
	for name, p := range map[string]cryptogram.Plan{
		"derivations": {NumDerivations: cryptogram.MaxDerivations + 1},
		"steps":       {NumSteps: cryptogram.MaxSteps + 1},
		"data":        {NumSteps: 1, Steps: [cryptogram.MaxSteps]cryptogram.Step{{DataBytes: cryptogram.MaxStepBytes + 1}}},
	} {
		if _, err := AppendRequest(nil, &Request{Plan: p}); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

// A process that takes the setup and never answers is killed, because a call
// into a module cannot be cancelled.
func TestSilentProcessIsKilled(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	silent := filepath.Join(t.TempDir(), "silent")
	if err := os.WriteFile(silent, []byte("#!/bin/sh\nexec sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err := Start(context.Background(), given(Options{Binary: silent, Timeout: 100 * time.Millisecond}))
	if !errors.Is(err, ErrStopped) {
		t.Fatalf("got %v", err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

// A program that answers with something else is no scratch process.
func TestAnotherProgramIsNoScratchProcess(t *testing.T) {
	for _, binary := range []string{"/bin/cat", "/bin/echo", "/bin/true"} {
		if _, err := Start(context.Background(), given(Options{Binary: binary})); err == nil {
			t.Errorf("%s passed for one", binary)
		}
	}
}

// given names a token, so that the client does not look for SoftHSM.
func given(o Options) Options {
	o.Module, o.Slot, o.PINFile = "/m.so", new(uint), "/pin"
	return o
}

func FuzzDecodeRequest(f *testing.F) {
	line, err := AppendRequest(nil, &Request{Plan: cryptogram.Plan{NumSteps: 1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(line)
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Request
		if err := DecodeRequest(data, &r); err != nil {
			return
		}
		again, err := AppendRequest(nil, &r)
		if err != nil {
			t.Fatal(err)
		}
		var r2 Request
		if err := DecodeRequest(again, &r2); err != nil {
			t.Fatal(err)
		}
	})
}
