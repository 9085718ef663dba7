package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/clientcert"
	"github.com/tapseal/tapseal/internal/observability"
)

// as verifies tap with another client certificate.
func (r *rig) as(t *testing.T, creds credentials.TransportCredentials, tap *tapsealv1.Tap) error {
	t.Helper()
	conn, err := grpc.NewClient(r.address.GRPC.String(), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = tapsealv1.NewCryptogramServiceClient(conn).VerifyCryptogram(context.Background(), &tapsealv1.VerifyCryptogramRequest{Tap: tap})
	return err
}

func TestWhoMayCallAndUnderWhichName(t *testing.T) {
	r := newRig(t, "visa")
	tap := visaCase().tap(t, "who")
	pair, err := tls.LoadX509KeyPair(r.path("client.crt"), r.path("client.key"))
	if err != nil {
		t.Fatal(err)
	}
	old := credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, //nolint:gosec // what must be refused
		Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, //nolint:gosec // only the server's side is looked at
	})
	for name, c := range map[string]struct {
		creds credentials.TransportCredentials
		want  codes.Code
	}{
		"no certificate":          {r.clientTLS(""), codes.Unavailable},
		"of another authority":    {r.clientTLS("stranger"), codes.Unavailable},
		"server's own as client":  {r.clientTLS("server"), codes.Unavailable},
		"TLS 1.2":                 {old, codes.Unavailable},
		"certificate with nobody": {r.clientTLS("nameless"), codes.Unavailable},
		"common name only":        {r.clientTLS("named"), codes.Unavailable},
		"in no policy":            {r.clientTLS("nobody"), codes.Unavailable},
		"a person":                {r.clientTLS("operator"), codes.PermissionDenied},
		"URI name":                {r.clientTLS("client"), codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			if err := r.as(t, c.creds, tap); status.Code(err) != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	exchange(t, r, tap)
	req, _, _ := visaCase().respondRequest(t, tap)
	if err := r.respondError(req); err != nil {
		t.Error(err)
	}
	r.stopQuietly(t)
	callers, methods := map[string]int{}, map[audit.Method]int{}
	for _, rec := range r.records() {
		callers[rec.Caller]++
		methods[rec.Method]++
		if rec.RequestID != "who" || rec.Assignment != "test" || rec.KeySet != "test" || rec.KeyVersion != 1 ||
			rec.Verdict != 1 || rec.Reasons != [audit.MaxReasons]uint8{} || rec.Purpose != 1 || rec.Profile == 0 || rec.Attempts != 1 {
			t.Errorf("record %+v", rec)
		}
	}
	if callers[callerURI] != 3 || len(callers) != 1 {
		t.Errorf("callers on record: %v", callers)
	}
	if methods[audit.MethodVerify] != 1 || methods[audit.MethodStream] != 1 || methods[audit.MethodRespond] != 1 {
		t.Errorf("methods on record: %v", methods)
	}
}

func TestACertificateHasOneURIName(t *testing.T) {
	p := &pki{t: t}
	root := p.authority("root", nil, nil)
	cert := func(names ...string) *x509.Certificate {
		return p.client(root, nil, func(c *x509.Certificate) {
			c.Subject, c.URIs = pkix.Name{CommonName: "spiffe://test/common-name"}, nil
			for _, name := range names {
				c.URIs = append(c.URIs, parseURI(t, name))
			}
		}).Leaf
	}
	// spelled has the names in its extension as they are.
	spelled := func(names ...string) *x509.Certificate {
		return p.client(root, nil, func(c *x509.Certificate) { c.URIs, c.ExtraExtensions = nil, alternativeNames(t, names...) }).Leaf
	}
	for _, c := range []struct {
		cert *x509.Certificate
		want string
	}{
		{cert("spiffe://a/b"), "spiffe://a/b"},
		{cert(), ""}, // not the common name instead
		{cert("spiffe://a/b", "spiffe://a/c"), ""},
		{cert("spiffe://a/b", "spiffe://a/b"), ""},
		{cert("spiffe://a/" + strings.Repeat("x", authz.MaxIdentityBytes)), ""},
		{cert("spiffe://a/b%20c"), ""},
		{cert("spiffe://a"), ""},
		{cert("//a/b"), ""},
		{spelled("spiffe://a/b"), "spiffe://a/b"},
		{spelled("SPIFFE://a/b"), ""}, // read and written again, these are spiffe://a/b
		{spelled("Spiffe://a/b"), ""},
		{spelled("spiffe://a/b#"), ""},
		{spelled("spiffe://@a/b"), ""},
		{spelled("spiffe://a/b", "SPIFFE://a/b"), ""},
	} {
		if got, err := clientcert.URIName(c.cert); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("caller %q, %v, want %q", got, err, c.want)
		}
	}
}

// alternativeNames is the extension with URI names, byte by byte.
func alternativeNames(t *testing.T, names ...string) []pkix.Extension {
	t.Helper()
	var raw []asn1.RawValue
	for _, name := range names {
		raw = append(raw, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(name)})
	}
	der, err := asn1.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: der}}
}

func TestReflectionAndMessageSize(t *testing.T) {
	r := newRig(t, "visa")
	s, err := reflectionpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(resp.String(), tapsealv1.CryptogramService_ServiceDesc.ServiceName) {
		t.Errorf("reflection lists %v", resp)
	}
	_ = s.CloseSend()
	_, _ = s.Recv()
	big := visaCase().tap(t, "big")
	big.Profile = strings.Repeat("x", r.cfg.Limits.MessageBytes+2<<20)
	if _, err := r.verify(big); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a request over the limit: %v", status.Code(err))
	}
}

// TestPanicShowsOnlyWhere checks that neither value nor arguments of a panic
// reach the log or the caller.
func TestPanicShowsOnlyWhere(t *testing.T) {
	r := newRig(t, "visa")
	secret := "4111111111111111"
	e := &engine{metrics: observability.NewMetrics("test"), log: observability.NewLog(r.log)}
	_, err := e.recoverUnary(context.Background(), nil, nil, func(context.Context, any) (any, error) { return explode(secret) })
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), secret) {
		t.Errorf("error %v", err)
	}
	if log := r.log.String(); strings.Contains(log, secret) || !strings.Contains(log, "explode") {
		t.Errorf("the log must name the function and not the value")
	}
}

func explode(secret string) (any, error) { panic("card " + secret) }
