package server

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// A pki makes certificates of every kind, good and bad.
type pki struct {
	t      *testing.T
	serial int64
}

// An authority is one of its own.
type authority struct {
	cert  *x509.Certificate
	key   crypto.Signer
	above []*x509.Certificate // to be sent with what it issues
}

func ecdsaKey(t *testing.T, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (p *pki) base() *x509.Certificate {
	p.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(p.serial), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
}

// authority makes one, under parent or its own root.
func (p *pki) authority(name string, parent *authority, change func(*x509.Certificate)) *authority {
	p.t.Helper()
	c := p.base()
	c.Subject.CommonName, c.IsCA = name, true
	c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	if change != nil {
		change(c)
	}
	key := ecdsaKey(p.t, elliptic.P256())
	if parent == nil {
		return &authority{cert: p.sign(c, c, key.Public(), key), key: key}
	}
	made := p.sign(c, parent.cert, key.Public(), parent.key)
	return &authority{cert: made, key: key, above: append([]*x509.Certificate{made}, parent.above...)}
}

func (p *pki) sign(c, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	p.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, key)
	if err != nil {
		p.t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return made
}

// client makes a client certificate with one fault or none.
func (p *pki) client(by *authority, key crypto.Signer, change func(*x509.Certificate)) tls.Certificate {
	p.t.Helper()
	c := p.base()
	c.URIs = []*url.URL{parseURI(p.t, callerURI)}
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if change != nil {
		change(c)
	}
	if key == nil {
		key = ecdsaKey(p.t, elliptic.P256())
	}
	made := p.sign(c, by.cert, key.Public(), by.key)
	out := tls.Certificate{Certificate: [][]byte{made.Raw}, PrivateKey: key, Leaf: made}
	for _, a := range by.above {
		out.Certificate = append(out.Certificate, a.Raw)
	}
	return out
}

func pemOf(kind string, ders ...[]byte) string {
	var b strings.Builder
	for _, der := range ders {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return b.String()
}

// list makes an authority's revocation list.
func (p *pki) list(a *authority, number int64, revoked ...*x509.Certificate) []byte {
	p.t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return der
}

// weaklySigned is a certificate whose signature says another hash.
func weaklySigned(t *testing.T, c tls.Certificate, oid asn1.ObjectIdentifier) tls.Certificate {
	t.Helper()
	sha256WithECDSA, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2})
	if err != nil {
		t.Fatal(err)
	}
	weak, err := asn1.Marshal(oid)
	if err != nil {
		t.Fatal(err)
	}
	var outer struct{ TBS, Algorithm, Signature asn1.RawValue }
	if _, err := asn1.Unmarshal(c.Certificate[0], &outer); err != nil {
		t.Fatal(err)
	}
	replace := func(b []byte) []byte {
		// Of another length: rebuilt rather than patched.
		var parts []asn1.RawValue
		for rest := b; len(rest) > 0; {
			var v asn1.RawValue
			if rest, err = asn1.Unmarshal(rest, &v); err != nil {
				t.Fatal(err)
			}
			if v.Tag == asn1.TagSequence && v.Class == asn1.ClassUniversal && string(v.Bytes) == string(sha256WithECDSA) {
				v = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: weak}
			}
			v.FullBytes = nil
			parts = append(parts, v)
		}
		var out []byte
		for _, v := range parts {
			der, err := asn1.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, der...)
		}
		return out
	}
	outer.TBS = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: replace(outer.TBS.Bytes)}
	outer.Algorithm = asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: weak}
	der, err := asn1.Marshal(outer)
	if err != nil {
		t.Fatal(err)
	}
	c.Certificate = append([][]byte{der}, c.Certificate[1:]...)
	return c
}

// A presented is what a client shows, and what must come of it: refused in the
// handshake (UNAVAILABLE) or before the call is read.
type presented struct {
	creds credentials.TransportCredentials
	want  codes.Code
}

// badClients is every way to be refused that we could think of.
func badClients(t *testing.T, r *rig, p *pki, root, other, revoking *authority) map[string]presented {
	t.Helper()
	show := func(c ...tls.Certificate) credentials.TransportCredentials {
		config := r.clientConfig("")
		// Also what the server did not ask for.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(c) == 0 {
				return &tls.Certificate{}, nil
			}
			return &c[0], nil
		}
		return credentials.NewTLS(config)
	}
	oldTLS := func(version uint16) credentials.TransportCredentials {
		config := r.clientConfig("client")
		config.MinVersion, config.MaxVersion = version, version
		return credentials.NewTLS(config)
	}
	change := func(f func(*x509.Certificate)) credentials.TransportCredentials { return show(p.client(root, nil, f)) }
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // what must be refused
	if err != nil {
		t.Fatal(err)
	}
	good := p.client(root, nil, nil)
	wrongKey, noCert, garbage := good, tls.Certificate{}, good
	wrongKey.PrivateKey = ecdsaKey(t, elliptic.P256())
	garbage.Certificate = [][]byte{[]byte("not a certificate")}
	flipped := good
	flipped.Certificate = [][]byte{append([]byte(nil), good.Certificate[0]...)}
	flipped.Certificate[0][len(flipped.Certificate[0])-1] ^= 1
	inter := func(f func(*x509.Certificate)) *authority { return p.authority("intermediate", root, f) }
	without := p.client(inter(nil), nil, nil)
	without.Certificate = without.Certificate[:1]
	short := p.authority("short", root, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true })
	limited := inter(func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"elsewhere"}, true
	})
	excluded := inter(func(c *x509.Certificate) {
		c.ExcludedURIDomains, c.PermittedDNSDomainsCritical = []string{"test"}, true
	})
	leafAsIssuer := p.client(root, nil, nil)
	leafKey, _ := leafAsIssuer.PrivateKey.(crypto.Signer)
	byLeaf := p.client(&authority{cert: leafAsIssuer.Leaf, key: leafKey, above: []*x509.Certificate{leafAsIssuer.Leaf}}, nil, nil)
	uris := func(names ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, n := range names {
				c.URIs = append(c.URIs, parseURI(t, n))
			}
		}
	}
	critical := func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	}
	const handshake = codes.Unavailable
	return map[string]presented{
		"no certificate":      {show(noCert), handshake},
		"garbage":             {show(garbage), handshake},
		"expired":             {change(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), handshake},
		"not yet valid":       {change(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), handshake},
		"for servers only":    {change(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), handshake},
		"for signing code":    {change(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), handshake},
		"for anything":        {change(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), handshake},
		"for nothing said":    {change(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), handshake},
		"key usage":           {change(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), handshake},
		"self-signed":         {show(p.client(p.selfSigned(), nil, nil)), handshake},
		"of another CA":       {show(p.client(other, nil, nil)), handshake},
		"CA of the same name": {show(p.client(p.authority(root.cert.Subject.CommonName, nil, nil), nil, nil)), handshake},
		"the CA itself":       {show(tls.Certificate{Certificate: [][]byte{root.cert.Raw}, PrivateKey: root.key}), handshake},
		"leaf that is a CA": {change(func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
		}), handshake},
		"issued by a leaf":          {show(byLeaf), handshake},
		"signature of another":      {show(flipped), handshake},
		"key of another":            {show(wrongKey), handshake},
		"RSA 1024":                  {show(p.client(root, rsa1024, nil)), handshake},
		"P-224":                     {show(p.client(root, ecdsaKey(t, elliptic.P224()), nil)), handshake},
		"SHA-1":                     {show(weaklySigned(t, good, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1})), handshake},
		"MD5":                       {show(weaklySigned(t, good, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 4})), handshake},
		"unknown critical":          {change(critical), handshake},
		"intermediate missing":      {show(without), handshake},
		"intermediate expired":      {show(p.client(inter(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), nil, nil)), handshake},
		"intermediate is none":      {show(p.client(inter(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }), nil, nil)), handshake},
		"intermediate may not sign": {show(p.client(inter(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), nil, nil)), handshake},
		"intermediate for servers":  {show(p.client(inter(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), nil, nil)), handshake},
		"path too long":             {show(p.client(p.authority("below", short, nil), nil, nil)), handshake},
		"name not permitted":        {show(p.client(limited, nil, nil)), handshake},
		"name excluded":             {show(p.client(excluded, nil, nil)), handshake},
		"revoked":                   {show(p.revoked(r, revoking)), handshake},
		"TLS 1.2":                   {oldTLS(tls.VersionTLS12), handshake},
		"TLS 1.1":                   {oldTLS(tls.VersionTLS11), handshake},
		"TLS 1.0":                   {oldTLS(tls.VersionTLS10), handshake},
		"no TLS":                    {insecure.NewCredentials(), handshake},
		"no URI name":               {change(uris()), handshake},
		"DNS name only":             {change(func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"gateway.test"} }), handshake},
		"common name only":          {change(func(c *x509.Certificate) { c.URIs, c.Subject.CommonName = nil, callerURI }), handshake},
		"two URI names":             {change(uris(callerURI, operatorURI)), handshake},
		"one URI name twice":        {change(uris(callerURI, callerURI)), handshake},
		"unknown principal":         {change(uris("spiffe://test/nobody")), handshake},
		"other case":                {change(uris("spiffe://test/Terminal-Gateway")), handshake},
		"escaped spelling":          {change(uris("spiffe://test/terminal%2Dgateway")), handshake},
		"longer name":               {change(uris(callerURI + "/x")), handshake},
		"only the trust domain":     {change(uris("spiffe://test")), handshake},
		"scheme in capitals": {change(func(c *x509.Certificate) {
			c.URIs, c.ExtraExtensions = nil, alternativeNames(t, "SPIFFE"+callerURI[len("spiffe"):])
		}), handshake},
		"a person": {change(uris(operatorURI)), codes.PermissionDenied},
	}
}

func (p *pki) selfSigned() *authority {
	return &authority{cert: p.base(), key: ecdsaKey(p.t, elliptic.P256())}
}

// revoked is a certificate that its authority revoked before the daemon began.
func (p *pki) revoked(r *rig, a *authority) tls.Certificate {
	c := p.client(a, nil, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(revokedSerial) })
	return c
}

const revokedSerial = 1 << 40

// TestBadClientsReachNoHandler shows every bad certificate to a daemon whose
// every authority has a revocation list, and to its other listeners.
func TestBadClientsReachNoHandler(t *testing.T) {
	p := &pki{t: t}
	root, other := p.authority("clients root", nil, nil), p.authority("others", nil, nil)
	issuing := p.authority("issuing", root, nil)
	r := newRig(t, "visa", func(r *rig) {
		own, err := os.ReadFile(r.path("ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		// Beside the rig's own authority, which has no list, so without lists;
		// the listener of administration has the lists.
		r.write("clients.crt", string(own)+pemOf("CERTIFICATE", root.cert.Raw))
		r.write("listed.crt", pemOf("CERTIFICATE", root.cert.Raw))
		r.write("listed.crl", pemOf("X509 CRL", p.list(root, 1, &x509.Certificate{SerialNumber: big.NewInt(revokedSerial)})))
		r.cfg.TLS.ClientCA = r.path("clients.crt")
		r.cfg.Admin.ClientCA, r.cfg.Admin.CRL = r.path("listed.crt"), r.path("listed.crl")
		r.cfg.Metrics.ClientCA = r.path("clients.crt")
	})
	good := visaCase().tap(t, "bad")
	r.want(t, good, tapsealv1.Verdict_VERDICT_VALID, 0) // the rig's own client
	for name, key := range map[string]crypto.Signer{"P-256": nil, "P-384": ecdsaKey(t, elliptic.P384()), "Ed25519": ed25519Key(t)} {
		if err := r.as(t, clientShowing(r, p.client(root, key, nil)), good); err != nil {
			t.Errorf("positive control, %s: %v", name, err)
		}
	}
	if err := r.as(t, clientShowing(r, p.client(issuing, nil, nil)), good); err != nil {
		t.Errorf("positive control, with an intermediate: %v", err)
	}
	goodCalls := 5
	bad := badClients(t, r, p, root, other, root)
	if len(bad) < 30 {
		t.Fatalf("%d kinds", len(bad))
	}
	for name, c := range bad {
		t.Run(name, func(t *testing.T) {
			if name == "revoked" { // on the listener that has the list
				if err := r.status(t, c.creds); status.Code(err) != c.want {
					t.Errorf("got %v, want %v", err, c.want)
				}
				return
			}
			if err := r.as(t, c.creds, good); status.Code(err) != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if err := r.status(t, c.creds); name != "a person" && status.Code(err) == codes.OK {
				t.Error("administration let it in")
			}
		})
	}
	operator := p.client(root, nil, func(c *x509.Certificate) { c.URIs = []*url.URL{parseURI(t, operatorURI)} })
	if err := r.status(t, clientShowing(r, operator)); err != nil {
		t.Errorf("positive control, administration with a list: %v", err)
	}
	r.stopQuietly(t)
	if n := len(r.records()); n != goodCalls {
		t.Errorf("%d decisions on record, want those of the %d good calls", n, goodCalls)
	}
}

func ed25519Key(t *testing.T) crypto.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func clientShowing(r *rig, c tls.Certificate) credentials.TransportCredentials {
	config := r.clientConfig("")
	config.Certificates = []tls.Certificate{c}
	return credentials.NewTLS(config)
}

// status asks the administration for its status.
func (r *rig) status(t *testing.T, creds credentials.TransportCredentials) error {
	t.Helper()
	conn, err := grpc.NewClient(r.address.Admin.String(), grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = tapsealv1.NewAdminServiceClient(conn).GetStatus(ctx, &tapsealv1.GetStatusRequest{})
	return err
}

// TestMetricsAreForWhomThePolicyNames asks the HTTP listener.
func TestMetricsAreForWhomThePolicyNames(t *testing.T) {
	r := newRig(t, "visa")
	for name, want := range map[string]int{
		"monitor": http.StatusOK, "operator": http.StatusOK, "auditor": http.StatusOK,
		"client": http.StatusForbidden, "officer": http.StatusForbidden,
		"nobody": http.StatusUnauthorized, "named": http.StatusUnauthorized, "stranger": 0, "": 0,
	} {
		client := http.Client{Transport: &http.Transport{TLSClientConfig: r.clientConfig(name), DisableKeepAlives: true}}
		resp, err := client.Get("https://" + r.address.Metrics.String() + "/metrics")
		got := 0
		if err == nil {
			got = resp.StatusCode
			_ = resp.Body.Close()
		}
		if got != want {
			t.Errorf("%q: status %d, %v, want %d", name, got, err, want)
		}
	}
	if conn, err := net.Dial("tcp", r.address.Metrics.String()); err == nil {
		_, _ = conn.Write([]byte("GET /metrics HTTP/1.0\r\n\r\n"))
		answer := make([]byte, 512)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, _ := conn.Read(answer)
		if strings.Contains(string(answer[:n]), "tapseal_") {
			t.Error("metrics in clear")
		}
		_ = conn.Close()
	}
}
