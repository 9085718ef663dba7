package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// TestCertificateRotationUnderLoad gives the daemon new certificates, half
// written ones among them, while streams run and new connections come. No call
// fails, and new connections see the new certificate.
func TestCertificateRotationUnderLoad(t *testing.T) {
	length, rate := 4*time.Second, 2000
	if os.Getenv("TAPSEAL_LONG") != "" {
		length, rate = 20*time.Second, 5000
	}
	r := newRig(t, "visa")
	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	var wg sync.WaitGroup
	var verified, connected atomic.Int64
	wg.Go(func() { verified.Add(int64(r.pacedStream(ctx, t, rate))) })
	good := visaCase().tap(t, "rotation")
	serials := map[string]bool{}
	wg.Go(func() { // a new connection for each call
		for ctx.Err() == nil {
			serial, err := r.callAnew(good)
			if err != nil {
				t.Errorf("a new connection: %v", err)
				return
			}
			serials[serial] = true
			connected.Add(1)
			time.Sleep(5 * time.Millisecond)
		}
	})
	for i := 0; ctx.Err() == nil; i++ {
		r.newServerCertificate(t)
		if i%2 == 1 { // the files do not fit together for a while
			key, err := os.ReadFile(r.path("server.key"))
			if err != nil {
				t.Fatal(err)
			}
			r.write("server.key", "half a fi")
			time.Sleep(300 * time.Millisecond)
			r.write("server.key", string(key))
		}
		time.Sleep(400 * time.Millisecond)
	}
	wg.Wait()
	if n := verified.Load(); n < int64(rate)*int64(length/time.Second)/2 {
		t.Errorf("only %d verified", n)
	}
	if len(serials) < 2 || connected.Load() < 20 {
		t.Errorf("%d certificates seen on %d connections", len(serials), connected.Load())
	}
	t.Logf("%d verified on one stream, %d connections, %d certificates", verified.Load(), connected.Load(), len(serials))
}

// newServerCertificate is one more of the rig's own authority.
func (r *rig) newServerCertificate(t *testing.T) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(r.path("ca.crt"), r.path("ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	key := ecdsaKeyOf(t, pair)
	makeCertificate(t, r.dir, "server", &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, pair.Leaf, key)
}

// callAnew makes one call on a connection of its own, and tells the serial
// number of the server's certificate.
func (r *rig) callAnew(tap *tapsealv1.Tap) (string, error) {
	config := r.clientConfig("client")
	var serial string
	config.VerifyConnection = func(s tls.ConnectionState) error {
		serial = s.PeerCertificates[0].SerialNumber.String()
		return nil
	}
	conn, err := grpc.NewClient(r.address.GRPC.String(), grpc.WithTransportCredentials(newTLS(config)))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	resp, err := tapsealv1.NewCryptogramServiceClient(conn).VerifyCryptogram(context.Background(), &tapsealv1.VerifyCryptogramRequest{Tap: tap})
	if err == nil {
		err = checkAnswer(resp.GetVerification(), tapsealv1.Verdict_VERDICT_VALID, 0)
	}
	return serial, err
}

// pacedStream sends at a rate until ctx ends, and counts VALID; anything else
// is an error.
func (r *rig) pacedStream(ctx context.Context, t *testing.T, rate int) (valid int) {
	stream, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Error(err)
		return 0
	}
	template := visaCase().tap(t, "")
	go func() {
		const each = 20
		tick := time.NewTicker(time.Second * each / time.Duration(rate))
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			var m tapsealv1.VerifyCryptogramsRequest
			for j := range each {
				m.Taps = append(m.Taps, &tapsealv1.Tap{
					RequestId: fmt.Sprintf("p-%d-%d", i, j), Purpose: template.GetPurpose(), Pan: template.GetPan(), ChipData: template.GetChipData(),
				})
			}
			if stream.Send(&m) != nil {
				break
			}
			<-tick.C
		}
		_ = stream.CloseSend()
	}()
	for {
		m, err := stream.Recv()
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("stream: %v", err)
			}
			return valid
		}
		for _, res := range m.GetResults() {
			if err := checkAnswer(res.GetVerification(), tapsealv1.Verdict_VERDICT_VALID, 0); err != nil {
				t.Error(err)
			}
			valid++
		}
	}
}

// TestRevocationReachesOpenConnections revokes a client that is connected.
func TestRevocationReachesOpenConnections(t *testing.T) {
	p := &pki{t: t}
	root := p.authority("clients root", nil, nil)
	r := newRig(t, "visa", func(r *rig) {
		own, err := tls.LoadX509KeyPair(r.path("ca.crt"), r.path("ca.key"))
		if err != nil {
			t.Fatal(err)
		}
		rigs := &authority{cert: own.Leaf, key: ecdsaKeyOf(t, own)}
		r.write("clients.crt", pemOf("CERTIFICATE", own.Leaf.Raw, root.cert.Raw))
		r.write("clients.crl", pemOf("X509 CRL", p.list(rigs, 1), p.list(root, 1)))
		r.write("rig.crl", pemOf("X509 CRL", p.list(rigs, 1)))
		r.cfg.TLS.ClientCA, r.cfg.TLS.CRL = r.path("clients.crt"), r.path("clients.crl")
	})
	own := p.client(root, nil, nil)
	conn, err := grpc.NewClient(r.address.GRPC.String(), grpc.WithTransportCredentials(clientShowing(r, own)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client, good := tapsealv1.NewCryptogramServiceClient(conn), visaCase().tap(t, "r")
	idle, err := client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if one(t, idle, good).GetVerification().GetVerdict() != tapsealv1.Verdict_VERDICT_VALID {
		t.Fatal("not VALID before")
	}
	others, err := os.ReadFile(r.path("rig.crl"))
	if err != nil {
		t.Fatal(err)
	}
	r.write("next.crl", string(others)+pemOf("X509 CRL", p.list(root, 2, own.Leaf)))
	if err := os.Rename(r.path("next.crl"), r.path("clients.crl")); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := idle.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the stream ended with %v", err)
	}
	if took := time.Since(start); took > 3*time.Second { // one refresh a second, and a look at the stream
		t.Errorf("the stream went on for %v", took)
	}
	if _, err := client.VerifyCryptogram(context.Background(), &tapsealv1.VerifyCryptogramRequest{Tap: good}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a call on the open connection: %v", err)
	}
	if err := r.as(t, clientShowing(r, own), good); status.Code(err) != codes.Unavailable {
		t.Errorf("a new connection: %v", err)
	}
	again := p.client(root, nil, func(c *x509.Certificate) { c.SerialNumber = big.NewInt(99_999) })
	if err := r.as(t, clientShowing(r, again), good); err != nil {
		t.Errorf("another certificate of the same caller: %v", err)
	}
	r.want(t, good, tapsealv1.Verdict_VERDICT_VALID, 0)
}

// TestRemovedAuthorityReachesOpenConnections takes an authority away without any
// revocation list: its clients that are connected are refused as well, and one
// with an intermediate of an authority that stayed is not.
func TestRemovedAuthorityReachesOpenConnections(t *testing.T) {
	p := &pki{t: t}
	leaving, staying := p.authority("leaving root", nil, nil), p.authority("staying root", nil, nil)
	issuing := p.authority("issuing", staying, nil)
	r := newRig(t, "visa", func(r *rig) {
		own, err := os.ReadFile(r.path("ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		rest := string(own) + pemOf("CERTIFICATE", staying.cert.Raw)
		r.write("rest.crt", rest)
		r.write("clients.crt", rest+pemOf("CERTIFICATE", leaving.cert.Raw))
		r.cfg.TLS.ClientCA = r.path("clients.crt")
	})
	good := visaCase().tap(t, "a")
	connect := func(c tls.Certificate) (tapsealv1.CryptogramServiceClient, tapsealv1.CryptogramService_VerifyCryptogramsClient) {
		conn, err := grpc.NewClient(r.address.GRPC.String(), grpc.WithTransportCredentials(clientShowing(r, c)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		client := tapsealv1.NewCryptogramServiceClient(conn)
		stream, err := client.VerifyCryptograms(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if one(t, stream, good).GetVerification().GetVerdict() != tapsealv1.Verdict_VERDICT_VALID {
			t.Fatal("not VALID before")
		}
		return client, stream
	}
	gone, idle := connect(p.client(leaving, nil, nil))
	_, stays := connect(p.client(issuing, nil, nil))
	if err := os.Rename(r.path("rest.crt"), r.path("clients.crt")); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := idle.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the stream ended with %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("the stream went on for %v", took)
	}
	if _, err := gone.VerifyCryptogram(context.Background(), &tapsealv1.VerifyCryptogramRequest{Tap: good}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a call on the open connection: %v", err)
	}
	if one(t, stays, good).GetVerification().GetVerdict() != tapsealv1.Verdict_VERDICT_VALID {
		t.Error("the one of the authority that stayed is not served")
	}
}

// TestExpiredCertificateOnAnOpenConnection lets a certificate end.
func TestExpiredCertificateOnAnOpenConnection(t *testing.T) {
	p := &pki{t: t}
	root := p.authority("clients root", nil, nil)
	r := newRig(t, "visa", func(r *rig) {
		own, err := os.ReadFile(r.path("ca.crt"))
		if err != nil {
			t.Fatal(err)
		}
		r.write("clients.crt", string(own)+pemOf("CERTIFICATE", root.cert.Raw))
		r.cfg.TLS.ClientCA = r.path("clients.crt")
	})
	short := p.client(root, nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(2 * time.Second) })
	conn, err := grpc.NewClient(r.address.GRPC.String(), grpc.WithTransportCredentials(clientShowing(r, short)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	client, good := tapsealv1.NewCryptogramServiceClient(conn), visaCase().tap(t, "e")
	if _, err := client.VerifyCryptogram(context.Background(), &tapsealv1.VerifyCryptogramRequest{Tap: good}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(short.Leaf.NotAfter.Add(1100 * time.Millisecond)))
	if _, err := client.VerifyCryptogram(context.Background(), &tapsealv1.VerifyCryptogramRequest{Tap: good}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("after its end: %v", err)
	}
}
