package server

import (
	"context"
	"crypto/x509"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// maxCallerBytes bounds a caller's name, in the journal and in memory.
const maxCallerBytes = 256

// callerOf is the identity that the caller's certificate proves.
func callerOf(ctx context.Context) (string, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", errNoCaller()
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
		return "", errNoCaller()
	}
	name := callerName(info.State.VerifiedChains[0][0])
	if name == "" {
		return "", errNoCaller()
	}
	return name, nil
}

// callerName is the certificate's first URI name, or else the subject's common
// name; empty if it has neither in a form that can stand in a journal.
func callerName(c *x509.Certificate) string {
	name := c.Subject.CommonName
	if len(c.URIs) > 0 {
		name = c.URIs[0].String()
	}
	if len(name) > maxCallerBytes || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7F || r == '\uFFFD' }) {
		return ""
	}
	return name
}

func errNoCaller() error {
	return status.Error(codes.Unauthenticated, "the client certificate has neither a URI name nor a common name of at most 256 printable bytes")
}
