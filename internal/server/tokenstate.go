package server

import (
	"encoding/hex"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/internal/state"
)

// Bounds of a restriction that are not those of the record.
const maxCap = 999_999_999_999 // n 12

// tokenState is a record in the words of the contract.
func tokenState(t *target, r *state.Record) *tapsealv1.TokenState {
	out := &tapsealv1.TokenState{Status: protoStatus(r)}
	writeNote(out, r.Note)
	if !t.isToken() {
		return out
	}
	out.TokenRef = t.ref()
	out.HighestAtc, out.FloorAtc = uint32(r.ARQC.Highest), uint32(r.Floor)
	out.AcceptedInWindow = uint32(r.ARQC.Accepted()) //nolint:gosec // at most 64
	for i := range r.Failing {
		out.Failures += uint32(r.Failing[i].Count)
	}
	out.Restriction = protoRestriction(&r.Restricted)
	return out
}

func writeNote(out *tapsealv1.TokenState, n state.Note) {
	if n == (state.Note{}) {
		return
	}
	out.ChangedBy, out.Reason, out.ChangedAt = n.By, n.Why, timestamppb.New(time.Unix(n.At, 0))
}

func protoStatus(r *state.Record) tapsealv1.TokenStatus {
	switch r.Status {
	case state.Active:
		return tapsealv1.TokenStatus_TOKEN_STATUS_ACTIVE
	case state.Suspended:
		return tapsealv1.TokenStatus_TOKEN_STATUS_SUSPENDED
	case state.Deleted:
		return tapsealv1.TokenStatus_TOKEN_STATUS_DELETED
	case state.Moved, state.Noted:
	}
	return tapsealv1.TokenStatus_TOKEN_STATUS_UNSPECIFIED
}

// stopState is what a standing stop says; nil is none.
func stopState(s *state.StandingStop) *tapsealv1.TokenState {
	if s == nil {
		return &tapsealv1.TokenState{Status: tapsealv1.TokenStatus_TOKEN_STATUS_ACTIVE}
	}
	out := &tapsealv1.TokenState{Status: tapsealv1.TokenStatus_TOKEN_STATUS_SUSPENDED}
	writeNote(out, state.Note{At: s.At, By: s.By, Why: s.Why})
	return out
}

// protoRestriction is nil for none. The device and the merchants are known as
// hashes only.
func protoRestriction(r *state.Restriction) *tapsealv1.Restriction {
	if r.IsZero() {
		return nil
	}
	out := &tapsealv1.Restriction{AmountCap: r.AmountCap, TerminalTypes: r.Terminals}
	if r.Device != (state.NameHash{}) {
		out.DeviceId = "bound"
	}
	for c := state.ContactlessPOS; c <= state.Transit; c++ {
		if r.Channels>>c&1 != 0 {
			out.Channels = append(out.Channels, tapsealv1.Channel(c))
		}
	}
	for _, v := range r.Currencies {
		out.Currencies = append(out.Currencies, fmt.Sprintf("%03x", v))
	}
	for _, v := range r.Categories {
		out.MerchantCategoryCodes = append(out.MerchantCategoryCodes, fmt.Sprintf("%04x", v))
	}
	for i := range r.Merchants {
		out.MerchantIds = append(out.MerchantIds, hex.EncodeToString(r.Merchants[i][:]))
	}
	return out
}

// readRestriction checks a restriction. A list that names a thing twice is taken
// for a slip, and refused.
func readRestriction(m *tapsealv1.Restriction) (r state.Restriction, err error) {
	if id := m.GetDeviceId(); id != "" {
		if err := checkName("restriction.device_id", id); err != nil {
			return r, err
		}
		r.Device = state.DeviceName(id)
	}
	for i, c := range m.GetChannels() {
		field := fmt.Sprintf("restriction.channels[%d]", i)
		switch {
		case c < tapsealv1.Channel(state.ContactlessPOS) || c > tapsealv1.Channel(state.Transit):
			return r, fmt.Errorf("%s: is not a known channel", field)
		case r.Channels>>c&1 != 0:
			return r, fmt.Errorf("%s: is there twice", field)
		}
		r.Channels |= 1 << c
	}
	if r.Currencies, err = readCodes("restriction.currencies", m.GetCurrencies(), 3); err != nil {
		return r, err
	}
	if r.Categories, err = readCodes("restriction.merchant_category_codes", m.GetMerchantCategoryCodes(), 4); err != nil {
		return r, err
	}
	for i, id := range m.GetMerchantIds() {
		if err := checkName(fmt.Sprintf("restriction.merchant_ids[%d]", i), id); err != nil {
			return r, err
		}
		r.Merchants = append(r.Merchants, state.MerchantName(id))
	}
	r.Terminals = m.GetTerminalTypes()
	if r.AmountCap = m.GetAmountCap(); r.AmountCap > maxCap {
		return r, fmt.Errorf("restriction.amount_cap: must be at most %d", int64(maxCap))
	}
	if err := checkList("restriction.merchant_ids", r.Merchants); err != nil {
		return r, err
	}
	return r, checkTerminals(r.Terminals)
}

func readCodes(field string, list []string, digits int) (codes []uint16, err error) {
	for i, text := range list {
		code, ok := state.ParseDigits(text, digits)
		if !ok || code == 0 {
			return nil, fmt.Errorf("%s[%d]: must be %d digits, not all zero", field, i, digits)
		}
		codes = append(codes, code)
	}
	return codes, checkList(field, codes)
}

func checkTerminals(types []byte) error {
	for i, v := range types {
		if v == 0 || v>>4 > 9 || v&0xF > 9 {
			return fmt.Errorf("restriction.terminal_types[%d]: must be two digits in one byte, not 00", i)
		}
	}
	return checkList("restriction.terminal_types", types)
}

func checkList[T comparable](field string, list []T) error {
	if len(list) > state.MaxListed {
		return fmt.Errorf("%s: at most %d are possible", field, state.MaxListed)
	}
	seen := make(map[T]bool, len(list))
	for i, v := range list {
		if seen[v] {
			return fmt.Errorf("%s[%d]: is there twice", field, i)
		}
		seen[v] = true
	}
	return nil
}
