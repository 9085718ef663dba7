package authz

import (
	"errors"
	"net/url"
	"strings"
)

// MaxIdentityBytes bounds the URI name of a certificate.
const MaxIdentityBytes = 256

// CheckIdentity reports what is wrong with a URI name. Names are compared byte
// by byte, so each must be in the one form that a certificate's URI has when it
// is read and written again: two spellings of one name could otherwise be two
// principals.
func CheckIdentity(uri string) error {
	switch {
	case uri == "":
		return errors.New("is empty")
	case len(uri) > MaxIdentityBytes:
		return errors.New("is longer than 256 bytes")
	case strings.ContainsAny(uri, "%*"):
		return errors.New("must not hold % or *: names are exact, without escapes and patterns")
	case strings.ContainsFunc(uri, func(r rune) bool { return !uriRune(r) }):
		return errors.New("must be letters, digits and -._~:/?#@+=,; only")
	}
	u, err := url.Parse(uri)
	if err != nil {
		return errors.New("is not a URI")
	}
	switch {
	case u.Scheme == "":
		return errors.New("must be a full URI, for example spiffe://example.org/service")
	case u.String() != uri || u.Host != strings.ToLower(u.Host):
		return errors.New("is not in normal form: scheme and host in lower case")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(uri, "#"):
		return errors.New("must not have a user, query or fragment")
	case u.Opaque != "" && u.Scheme != "spiffe":
		return nil // for example urn:uuid:…
	case u.Host == "":
		return errors.New("must name a host or trust domain")
	case u.Path == "" || u.Path == "/":
		return errors.New("must have a path: a whole trust domain is not a principal")
	}
	return checkSegments(u)
}

// checkSegments holds paths to one spelling, and SPIFFE ids to their
// specification (SPIFFE-ID, section 2).
func checkSegments(u *url.URL) error {
	for segment := range strings.SplitSeq(u.Path[1:], "/") {
		if segment == "" || segment == "." || segment == ".." {
			return errors.New("must not have empty or dot segments in its path")
		}
		if u.Scheme == "spiffe" && strings.ContainsFunc(segment, func(r rune) bool { return !spiffeRune(r) && (r < 'A' || r > 'Z') }) {
			return errors.New("is not a SPIFFE id: path segments are letters, digits, dots, hyphens and underscores")
		}
	}
	if u.Scheme == "spiffe" && strings.ContainsFunc(u.Host, func(r rune) bool { return !spiffeRune(r) }) {
		return errors.New("is not a SPIFFE id: a trust domain is lower-case letters, digits, dots, hyphens and underscores")
	}
	return nil
}

// uriRune leaves out what a journal, a shell or YAML would have to quote.
func uriRune(r rune) bool {
	return spiffeRune(r) || r >= 'A' && r <= 'Z' || strings.ContainsRune("~:/?#@+=,;", r)
}

func spiffeRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_'
}
