package state_test

import (
	"testing"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/internal/state"
)

// Numbers of reasons and freshness leave the service as they are: they are those
// of the API.
func TestNumbersOfTheAPI(t *testing.T) {
	t.Parallel()
	for ours, theirs := range map[state.Reason]tapsealv1.Reason{
		state.CryptogramMismatch: tapsealv1.Reason_REASON_CRYPTOGRAM_MISMATCH,
		state.AttemptsLimited:    tapsealv1.Reason_REASON_ATTEMPTS_LIMITED,
		state.CryptogramReplayed: tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED,
		state.ATCLate:            tapsealv1.Reason_REASON_ATC_LATE,
		state.ATCUnderWindow:     tapsealv1.Reason_REASON_ATC_UNDER_WINDOW,
		state.ATCUnderFloor:      tapsealv1.Reason_REASON_ATC_UNDER_FLOOR,
		state.ATCJump:            tapsealv1.Reason_REASON_ATC_JUMP,
		state.UNReused:           tapsealv1.Reason_REASON_UNPREDICTABLE_NUMBER_REUSED,
		state.TokenSuspended:     tapsealv1.Reason_REASON_TOKEN_SUSPENDED,
		state.TokenDeleted:       tapsealv1.Reason_REASON_TOKEN_DELETED,
		state.TokenUnknown:       tapsealv1.Reason_REASON_TOKEN_UNKNOWN,
		state.DeviceStopped:      tapsealv1.Reason_REASON_DEVICE_STOPPED,
		state.BINStopped:         tapsealv1.Reason_REASON_BIN_STOPPED,
		state.KeyStopped:         tapsealv1.Reason_REASON_KEY_STOPPED,
		state.DeviceMismatch:     tapsealv1.Reason_REASON_DEVICE_MISMATCH,
		state.ChannelRestricted:  tapsealv1.Reason_REASON_CHANNEL_RESTRICTED,
		state.MerchantRestricted: tapsealv1.Reason_REASON_MERCHANT_RESTRICTED,
		state.CurrencyRestricted: tapsealv1.Reason_REASON_CURRENCY_RESTRICTED,
		state.AmountOverCap:      tapsealv1.Reason_REASON_AMOUNT_OVER_CAP,
		state.VelocityCount:      tapsealv1.Reason_REASON_VELOCITY_COUNT,
		state.VelocityAmount:     tapsealv1.Reason_REASON_VELOCITY_AMOUNT,
		state.NotAccepted:        tapsealv1.Reason_REASON_NOT_ACCEPTED,
		state.AlreadyResponded:   tapsealv1.Reason_REASON_ALREADY_RESPONDED,
	} {
		if int32(ours) != int32(theirs) {
			t.Errorf("%v is %d here", theirs, ours)
		}
	}
	for ours, theirs := range map[state.Freshness]tapsealv1.Freshness{
		state.FreshnessUnset: tapsealv1.Freshness_FRESHNESS_UNSPECIFIED,
		state.NotChecked:     tapsealv1.Freshness_FRESHNESS_NOT_CHECKED,
		state.Fresh:          tapsealv1.Freshness_FRESHNESS_FRESH,
		state.Late:           tapsealv1.Freshness_FRESHNESS_LATE,
		state.Repeated:       tapsealv1.Freshness_FRESHNESS_REPEATED,
		state.Replayed:       tapsealv1.Freshness_FRESHNESS_REPLAYED,
		state.CannotTell:     tapsealv1.Freshness_FRESHNESS_CANNOT_TELL,
	} {
		if int32(ours) != int32(theirs) {
			t.Errorf("%v is %d here", theirs, ours)
		}
	}
	for ours, theirs := range map[state.Channel]tapsealv1.Channel{
		state.ContactlessPOS: tapsealv1.Channel_CHANNEL_CONTACTLESS_POS,
		state.ContactPOS:     tapsealv1.Channel_CHANNEL_CONTACT_POS,
		state.ATM:            tapsealv1.Channel_CHANNEL_ATM,
		state.Ecommerce:      tapsealv1.Channel_CHANNEL_ECOMMERCE,
		state.Transit:        tapsealv1.Channel_CHANNEL_TRANSIT,
	} {
		if int32(ours) != int32(theirs) {
			t.Errorf("%v is %d here", theirs, ours)
		}
	}
}
