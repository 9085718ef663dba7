package verdict

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/store"
)

// maxContentBytes holds the longest content of a request: caller and id with
// their lengths, the card's data, the place, and the issuer's decision.
const maxContentBytes = 2 + 256 + 2 + MaxRequestIDBytes + 256

// maxDecisionBytes holds an issuer's decision: kind, lengths, ARC, CSU and
// proprietary data.
const maxDecisionBytes = 1 + 1 + 2 + 4 + 8

// subjectKeyBytes of a subject's hash name the token's record; the rest is the
// key under which its requests are digested. That half is stored nowhere.
const subjectKeyBytes = state.KeyBytes

// remember prepares what the state will be asked, as far as it is known before
// the HSM has answered.
func (c *Case) remember(t *Tap) error {
	req, op := &c.Call.Request, &c.Op
	place, device, err := readPlace(&t.Place)
	if err != nil {
		return err
	}
	*op = store.Op{
		Device: device, PAN: req.PAN.Prefix(), KeySet: c.Resolution.KeySet, Version: c.Resolution.KeyVersion,
		Deadline: c.AnswerBy, Owner: op.Owner, Sink: op.Sink,
	}
	d := &req.Data
	op.Event = state.Event{
		Policy: c.Resolution.Policy, Purpose: statePurpose(t),
		ATC: binary.BigEndian.Uint16(d.ATC[:]), UN: d.UN, Type: c.cryptogramType(),
		Date:     uint32(d.Date[0])<<16 | uint32(d.Date[1])<<8 | uint32(d.Date[2]),
		Amount:   fromBCD(d.AmountAuthorised[:]),
		Currency: binary.BigEndian.Uint16(d.Currency[:]),
		Place:    place,
	}
	name := sha256.Sum256([]byte(t.Caller))
	op.Event.Caller = binary.BigEndian.Uint32(name[:])
	c.Call.Caller = op.Event.Caller
	op.CallerKey, op.BINKey = failureKeys(name, &req.PAN)
	c.writeContent(t)
	return nil
}

func statePurpose(t *Tap) state.Purpose {
	switch {
	case t.Purpose == Advice:
		return state.Advice
	case t.Response.Kind != cryptogram.NoResponse:
		return state.Respond
	}
	return state.Authorise
}

func (c *Case) cryptogramType() state.CryptogramType {
	cid, ok := c.data.CID()
	if !ok {
		return state.TypeARQC
	}
	switch cid >> 6 {
	case 0:
		return state.TypeAAC
	case 1:
		return state.TypeTC
	}
	return state.TypeARQC
}

// failureKeys name the counters of a caller's mismatches: in all, and with a BIN
// of eight digits. The last four bytes are the store's.
func failureKeys(caller [sha256.Size]byte, pan *cryptogram.PAN) (all, bin state.Key) {
	copy(all[:8], caller[:])
	copy(bin[:8], caller[:])
	for i := range 4 {
		all[8+i] = 0xFF
		bin[8+i] = pan.Digit(2*i)<<4 | pan.Digit(2*i+1)
	}
	return all, bin
}

func fromBCD(b []byte) (v uint64) {
	for _, x := range b {
		v = v*100 + uint64(x>>4)*10 + uint64(x&0xF)
	}
	return v
}

// readPlace checks what the caller says of the tap's origin.
func readPlace(p *Place) (out state.Place, device state.Key, err error) {
	if p.Channel < 0 || p.Channel > int32(state.Transit) {
		return out, device, &InputError{"place.channel", "is not a known value"}
	}
	out.Channel = state.Channel(p.Channel)
	if p.Category != "" {
		var ok bool
		if out.Category, ok = state.ParseDigits(p.Category, 4); !ok || out.Category == 0 {
			return out, device, &InputError{"place.merchant_category_code", "must be four digits, not all zero"}
		}
	}
	switch len(p.Terminal) {
	case 0:
	case 1:
		out.Terminal = p.Terminal[0]
	default:
		return out, device, &InputError{"place.terminal_type", "must have 1 byte"}
	}
	if err := checkName("place.merchant_id", p.Merchant); err != nil {
		return out, device, err
	}
	if err := checkName("place.device_id", p.Device); err != nil {
		return out, device, err
	}
	if p.Merchant != "" {
		out.Merchant = state.MerchantName(p.Merchant)
	}
	if p.Device != "" {
		out.Device, device = state.DeviceName(p.Device), state.DeviceKey(p.Device)
	}
	return out, device, nil
}

func checkName(field, name string) error {
	if len(name) > MaxNameBytes {
		return &InputError{field, "must have at most 64 characters"}
	}
	for i := range len(name) {
		if name[i] < '!' || name[i] > '~' {
			return &InputError{field, "must be printable ASCII without spaces"}
		}
	}
	return nil
}

// writeContent writes down what makes a request this one: who asks, under which
// id, for what, and everything that was authenticated or decides. PAN and
// sequence number are in the key of the digest.
func (c *Case) writeContent(t *Tap) {
	req, p := &c.Call.Request, &c.Op.Event.Place
	b := append(c.content[:0], byte(t.Purpose), byte(c.Op.Event.Type))
	b = appendField(b, t.Caller)
	b = appendField(b, t.RequestID)
	b = binary.LittleEndian.AppendUint16(b, uint16(req.Profile))
	b = append(b, byte(req.KeyOption))
	b = appendTransaction(b, &req.Data)
	b = append(append(b, req.IAD.Len), req.IAD.Bytes[:min(int(req.IAD.Len), len(req.IAD.Bytes))]...)
	b = append(append(b, req.CVR.Len), req.CVR.Bytes[:min(int(req.CVR.Len), len(req.CVR.Bytes))]...)
	b = append(b, req.Cryptogram[:]...)
	b = append(b, byte(p.Channel), p.Terminal)
	b = binary.LittleEndian.AppendUint16(b, p.Category)
	b = append(append(b, p.Merchant[:]...), p.Device[:]...)
	c.askBytes = len(b)
	r := &req.Response
	b = append(append(append(b, byte(r.Kind), r.PADLen), r.ARC[:]...), r.CSU[:]...)
	c.contentBytes = len(append(b, r.PAD[:]...))
}

func appendField(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(s))), s...)
}

func appendTransaction(b []byte, d *cryptogram.TransactionData) []byte {
	for _, field := range [...][]byte{
		d.AmountAuthorised[:], d.AmountOther[:], d.TerminalCountry[:], d.TVR[:], d.Currency[:],
		d.Date[:], d.Type[:], d.UN[:], d.AIP[:], d.ATC[:],
	} {
		b = append(b, field...)
	}
	return b
}

// askState fills in what the HSM's answer brought, and reports whether there is a
// subject to ask about.
func (c *Case) askState() bool {
	subjects, e := &c.Call.Subjects, &c.Op.Event
	if subjects[0].Version == 0 {
		return false // the worker holds no subject key
	}
	e.Matched = c.Call.Answer == hsm.Matched
	for i := range subjects {
		c.Op.Subjects[i] = store.Subject{}
		if subjects[i].Version == 0 {
			continue
		}
		hash := &subjects[i].Hash
		c.Op.Subjects[i] = store.Subject{Version: subjects[i].Version, Key: state.Key(hash[:subjectKeyBytes])}
		sum := digest(hash[subjectKeyBytes:], c.content[:c.askBytes])
		copy(e.Requests[i][:], sum[:])
	}
	if e.Purpose == state.Respond {
		e.Response = c.decisionDigest(&subjects[0])
		if subjects[1].Version != 0 {
			e.PreviousResponse = c.decisionDigest(&subjects[1])
		}
	}
	return true
}

// decisionDigest stands for the issuer's decision on this cryptogram, under a key
// that the caller does not know: nobody can look for two with the same one.
func (c *Case) decisionDigest(s *hsm.Subject) (d [state.ResponseBytes]byte) {
	var content [len(c.Call.Request.Cryptogram) + maxDecisionBytes]byte
	n := copy(content[:], c.Call.Request.Cryptogram[:])
	n += copy(content[n:], c.content[c.askBytes:c.contentBytes])
	sum := digest(s.Hash[subjectKeyBytes:], content[:n])
	copy(d[:], sum[:])
	d[0] |= 1 // none is zero
	return d
}

// digest is SHA-256 over a key of fixed length and a content whose parts have
// their lengths: what it is cut to cannot be extended.
func digest(key, content []byte) [sha256.Size]byte {
	var block [sha256.BlockSize + maxContentBytes]byte
	n := copy(block[:], key)
	n += copy(block[n:], content)
	return sha256.Sum256(block[:n])
}
