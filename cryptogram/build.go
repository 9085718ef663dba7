package cryptogram

// BuildPlan writes into p what a token must do for r: step 1 compares the
// cryptogram, all 8 bytes; step 2, if the request asks for a response, makes
// the ARPC and requires step 1. Nothing is derived that these steps do not
// need. It does not allocate, and writes only the bytes of p that are used. On
// an error p is empty.
func BuildPlan(r *Request, p *Plan) error {
	p.Reset()
	prof, ok := LookupProfile(r.Profile)
	if !ok {
		return ErrProfile
	}
	info, err := checkRequest(r, prof)
	if err != nil {
		return err
	}
	buildPlan(r, prof, &info, p)
	return nil
}

// buildPlan is BuildPlan for a request that was checked.
func buildPlan(r *Request, prof *Profile, info *IADInfo, p *Plan) {
	k := deriveACKeys(r, prof, p)
	mac := p.step(RetailMAC, k.ac, k.acLeft)
	mac.CompareBytes = uint8(len(r.Cryptogram))
	mac.Expected = r.Cryptogram
	// 65 bytes at most, so padding in place never leaves the array.
	data := appendMessage(mac.Data[:0], r, prof, info)
	mac.DataBytes = uint16(len(padInPlace(data, prof.Padding)))

	switch r.Response.Kind {
	case ResponseCode:
		arpc := p.step(EncryptBlock, p.arpcKey(prof, &k), RootKey)
		arpc.Requires, arpc.ProduceBytes = 1, 8
		arpc.DataBytes = uint16(len(appendARPC1(arpc.Data[:0], r)))
	case CardStatusUpdate:
		arpc := p.step(RetailMAC, k.ac, k.acLeft)
		arpc.Requires, arpc.ProduceBytes = 1, 4
		arpc.DataBytes = uint16(len(padInPlace(appendARPC2(arpc.Data[:0], r), PaddingMethod2)))
	}
}

// acKeys are the keys of one card and transaction.
type acKeys struct {
	iccInput   [16]byte // derives the ICC master key from the root
	ac, acLeft KeyNode  // the application cryptogram key and its KL‖KL
	icc        KeyNode  // the ICC master key for computing; RootKey if not derived
}

func deriveACKeys(r *Request, prof *Profile, p *Plan) (k acKeys) {
	k.iccInput = ICCMasterKeyInput(r.KeyOption, r.PAN, r.PSN)
	parent, in := RootKey, k.iccInput
	sk, derived := SessionKeyInput(prof.SessionKey, r.Data.ATC, r.Data.UN)
	if derived {
		parent, in = p.derive(RootKey, ForDeriving, k.iccInput), sk
	}
	k.ac = p.derive(parent, ForComputing, in)
	k.acLeft = p.derive(parent, ForComputing, LeftTwin(in))
	if !derived {
		k.icc = k.ac
	}
	return k
}

// arpcKey is the key of ARPC method 1. The ICC master key of a profile with
// session keys exists only for deriving, so it is derived again for computing.
func (p *Plan) arpcKey(prof *Profile, k *acKeys) KeyNode {
	if prof.ARPCKey != ARPCUnderICCMasterKey {
		return k.ac
	}
	if k.icc == RootKey {
		k.icc = p.derive(RootKey, ForComputing, k.iccInput)
	}
	return k.icc
}

func (p *Plan) derive(parent KeyNode, purpose Purpose, in [16]byte) KeyNode {
	d := &p.Derivations[p.NumDerivations]
	d.Parent, d.Purpose, d.Input = parent, purpose, in
	p.NumDerivations++
	return KeyNode(p.NumDerivations)
}

// step adds a step and sets every field but the data, which is overwritten up
// to DataBytes.
func (p *Plan) step(op Op, key, left KeyNode) *Step {
	s := &p.Steps[p.NumSteps]
	p.NumSteps++
	s.Op, s.Key, s.Left = op, key, left
	s.Requires, s.CompareBytes, s.ProduceBytes, s.DataBytes = 0, 0, 0, 0
	s.Expected = [BlockBytes]byte{}
	return s
}

// appendMessage appends the cryptogram input: 33 bytes that all profiles have
// in common, then what the profile appends.
func appendMessage(b []byte, r *Request, prof *Profile, info *IADInfo) []byte {
	d := &r.Data
	b = append(b, d.AmountAuthorised[:]...)
	b = append(b, d.AmountOther[:]...)
	b = append(b, d.TerminalCountry[:]...)
	b = append(b, d.TVR[:]...)
	b = append(b, d.Currency[:]...)
	b = append(b, d.Date[:]...)
	b = append(b, d.Type[:]...)
	b = append(b, d.UN[:]...)
	b = append(b, d.AIP[:]...)
	b = append(b, d.ATC[:]...)
	if prof.Append == AppendIAD {
		return append(b, r.IAD.value()...)
	}
	if prof.CVRFrom == CVRFromCaller {
		b = append(b, r.CVR.Bytes[:prof.CVRBytes]...)
	} else {
		b = append(b, info.CVR...)
	}
	if prof.Append == AppendCVRCounters {
		// 8 or 16 bytes. The last online ATC that may follow them in the IAD
		// is not authenticated, as far as public sources tell.
		b = append(b, info.Counters...)
	}
	return b
}

// appendARPC1 appends the input of ARPC method 1: ARQC ⊕ (ARC ‖ 0^6).
func appendARPC1(b []byte, r *Request) []byte {
	b = append(b, r.Cryptogram[:]...)
	b[0] ^= r.Response.ARC[0]
	b[1] ^= r.Response.ARC[1]
	return b
}

// appendARPC2 appends the input of ARPC method 2: ARQC ‖ CSU ‖ PAD.
func appendARPC2(b []byte, r *Request) []byte {
	b = append(b, r.Cryptogram[:]...)
	b = append(b, r.Response.CSU[:]...)
	return append(b, r.Response.PAD[:r.Response.PADLen]...)
}

func padInPlace(b []byte, p Padding) []byte { return AppendPadded(b[:0], b, p) }
