package secrets

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/hashicorp/vault/api"
)

// What callers branch on. The zero of these is an error that is none of them:
// nothing may be concluded from it.
var (
	// ErrAway means that there was no answer: not reachable, sealed, too
	// slow, in trouble. What was read before is still good.
	ErrAway = errors.New("vault is away")
	// ErrUntrusted means that whoever answered is not the Vault that ca_file
	// vouches for. Nothing was sent to it.
	ErrUntrusted = errors.New("vault is not trusted")
	// ErrDenied means that the identity is good and may not do this.
	ErrDenied = errors.New("vault denied it")
	// ErrNeedsSecretID means that the identity is gone, and that only an
	// operator can give a new one.
	ErrNeedsSecretID = errors.New("needs a new secret_id")
	// ErrNotFound means that there is no such thing, or no more.
	ErrNotFound = errors.New("vault has no such thing")
	// ErrRefused means that the request is wrong, here or in the set-up.
	ErrRefused = errors.New("vault refused the request")
)

// maxMessageBytes bounds what of an answer's explanation goes into an error.
const maxMessageBytes = 200

// classify turns the client library's errors into ours. Of the server's words
// it keeps the explanations; of the request nothing.
func classify(err error) error {
	if err == nil {
		return nil
	}
	var response *api.ResponseError
	if errors.As(err, &response) {
		return classifyStatus(response)
	}
	var urlErr *url.Error // holds the address and path: the caller says these
	if errors.As(err, &urlErr) {
		err = urlErr.Err
	}
	if untrusted(err) {
		return fmt.Errorf("%w: its certificate is not accepted: %w", ErrUntrusted, err)
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	var netErr net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout() {
		return fmt.Errorf("%w: no answer in time", ErrAway)
	}
	return fmt.Errorf("%w: %w", ErrAway, err)
}

func untrusted(err error) bool {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
	)
	return errors.As(err, &verify) || errors.As(err, &unknown) || errors.As(err, &hostname) || errors.As(err, &invalid)
}

func classifyStatus(r *api.ResponseError) error {
	kind := ErrRefused
	switch {
	case r.StatusCode == 403 || r.StatusCode == 401:
		kind = ErrDenied
	case r.StatusCode == 404:
		kind = ErrNotFound
	case r.StatusCode == 429 || r.StatusCode == 472 || r.StatusCode == 473 || r.StatusCode >= 500:
		kind = ErrAway
	}
	if r.StatusCode == 503 && strings.Contains(strings.ToLower(strings.Join(r.Errors, " ")), "sealed") {
		return fmt.Errorf("%w: it is sealed", kind)
	}
	return fmt.Errorf("%w: status %d%s", kind, r.StatusCode, explanation(r.Errors))
}

// explanation is one line of printable text.
func explanation(messages []string) string {
	text := strings.Join(messages, "; ")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if text == "" {
		return ""
	}
	if len(text) > maxMessageBytes {
		text = text[:maxMessageBytes] + "…"
	}
	return ": " + text
}

// answered reports whether Vault itself said no, as opposed to not being there.
func answered(err error) bool {
	return errors.Is(err, ErrDenied) || errors.Is(err, ErrRefused) || errors.Is(err, ErrNotFound)
}
