package state_test

import (
	"crypto/sha256"
	"testing"

	"github.com/tapseal/tapseal/internal/state"
)

// What is on disk depends on these hashes, so they never change.
func TestNames(t *testing.T) {
	device := sha256.Sum256([]byte("tapseal device v1\x00phone-1"))
	merchant := sha256.Sum256([]byte("tapseal merchant v1\x00phone-1"))
	if got := state.DeviceKey("phone-1"); got != state.Key(device[:16]) {
		t.Errorf("device key %x", got)
	}
	if got := state.DeviceName("phone-1"); got != state.NameHash(device[:8]) {
		t.Errorf("device name %x", got)
	}
	if got := state.MerchantName("phone-1"); got != state.NameHash(merchant[:8]) {
		t.Errorf("merchant name %x", got)
	}
	if state.DeviceName("phone-1") == state.MerchantName("phone-1") {
		t.Error("a device and a merchant of one name are the same thing")
	}
}
