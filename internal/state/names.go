package state

import "crypto/sha256"

// Domains of the hashes of names: a device and a merchant of one name must not be
// the same thing.
const (
	deviceDomain   = "tapseal device v1\x00"
	merchantDomain = "tapseal merchant v1\x00"
)

// DeviceKey names the record of a device, under its id as taps name it.
//
// Unlike that of a token it needs no key: a device id is not cardholder data, and
// says nothing of the card.
func DeviceKey(id string) Key {
	sum := sha256.Sum256([]byte(deviceDomain + id))
	return Key(sum[:KeyBytes])
}

// DeviceName stands for a device in a restriction. It is the beginning of its key.
func DeviceName(id string) NameHash { return nameHash(deviceDomain, id) }

// MerchantName stands for a merchant in a restriction.
func MerchantName(id string) NameHash { return nameHash(merchantDomain, id) }

func nameHash(domain, id string) NameHash {
	sum := sha256.Sum256([]byte(domain + id))
	return NameHash(sum[:NameHashBytes])
}
