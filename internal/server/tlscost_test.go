package server

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"testing"

	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// BenchmarkTransport moves the bytes of streamed taps, 64 to a message, over
// loopback: with TLS 1.3 and certificates on both sides, and without. The
// difference of the two is what mutual TLS costs for one tap, both ends
// together; the handshake is before the measurement, as a stream has one.
func BenchmarkTransport(b *testing.B) {
	r := newRig(b, "visa")
	client := r.clientConfig("client")
	b.Run("plain", func(b *testing.B) { benchmarkTransport(b, nil, nil) })
	b.Run("mtls", func(b *testing.B) { benchmarkTransport(b, r.serverConfig(b), client) })
}

// serverConfig is the daemon's side with the rig's files.
func (r *rig) serverConfig(b *testing.B) *tls.Config {
	b.Helper()
	pair, err := tls.LoadX509KeyPair(r.path("server.crt"), r.path("server.key"))
	if err != nil {
		b.Fatal(err)
	}
	ca, err := os.ReadFile(r.path("ca.crt"))
	if err != nil {
		b.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
}

func benchmarkTransport(b *testing.B, server, client *tls.Config) {
	const taps = 64
	request, result := &tapsealv1.VerifyCryptogramsRequest{}, &tapsealv1.VerifyCryptogramsResponse{}
	good := field55(visaCase().tap(b, "transport-cost"))
	for range taps {
		request.Taps = append(request.Taps, good)
		result.Results = append(result.Results, &tapsealv1.TapResult{
			RequestId: good.GetRequestId(),
			Outcome: &tapsealv1.TapResult_Verification{Verification: &tapsealv1.Verification{
				Verdict: tapsealv1.Verdict_VERDICT_VALID, Profile: "visa-cvn18", KeySet: "visa-test", KeyVersion: 1,
				Freshness: tapsealv1.Freshness_FRESHNESS_FRESH,
			}},
		})
	}
	up, down := mustMarshal(b, request), mustMarshal(b, result)
	near, far := connected(b, server, client)
	go echo(far, len(up), down)
	in := make([]byte, len(down))
	exchange := func() {
		if _, err := near.Write(up); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(near, in); err != nil {
			b.Fatal(err)
		}
	}
	exchange() // with the handshake
	before := cpuTime(b)
	b.ResetTimer()
	for i := 0; i < b.N; i += taps {
		exchange()
	}
	b.StopTimer()
	n := (b.N + taps - 1) / taps * taps
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(n)/1000, "cpu-µs/tap")
	b.ReportMetric(float64(len(up)+len(down))/taps, "bytes/tap")
}

// echo answers each request of n bytes with reply.
func echo(c net.Conn, n int, reply []byte) {
	buf := make([]byte, n)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return
		}
		if _, err := c.Write(reply); err != nil {
			return
		}
	}
}

// connected is both ends of one connection over loopback.
func connected(b *testing.B, server, client *tls.Config) (near, far net.Conn) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			close(accepted)
			return
		}
		accepted <- c
	}()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	far, ok := <-accepted
	if !ok {
		b.Fatal("nothing was accepted")
	}
	b.Cleanup(func() { _, _ = near.Close(), far.Close() })
	if server == nil {
		return near, far
	}
	client = client.Clone()
	if client.ServerName == "" {
		client.ServerName = "127.0.0.1"
	}
	return tls.Client(near, client), tls.Server(far, server)
}

func mustMarshal(b *testing.B, m proto.Message) []byte {
	b.Helper()
	out, err := proto.Marshal(m)
	if err != nil {
		b.Fatal(err)
	}
	return out
}
