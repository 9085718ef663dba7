package server

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/internal/listen"
)

// hold opens a connection and keeps it, as somebody would who wants to shut
// others out. The error says that the daemon did not keep it.
func (r *rig) hold(t *testing.T, name string) (*tls.Conn, error) {
	t.Helper()
	config := r.clientConfig(name)
	config.NextProtos = []string{"h2"}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", r.address.GRPC.String(), config)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	// A server that keeps the connection answers with its settings.
	_, _ = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err = conn.Read(make([]byte, 9))
	return conn, err
}

// TestNobodyShutsTheOthersOut fills a small listener with connections of
// strangers, and then with those of one principal.
func TestNobodyShutsTheOthersOut(t *testing.T) {
	r := newRig(t, "visa", func(r *rig) { r.cfg.Limits.Connections = 4 })
	good := visaCase().tap(t, "crowd")
	r.want(t, good, tapsealv1.Verdict_VERDICT_VALID, 0)
	for range 3 * r.cfg.Limits.Connections {
		for _, stranger := range []string{"nobody", "named", "nameless"} {
			if _, err := r.hold(t, stranger); err == nil {
				t.Fatalf("%s holds a connection", stranger)
			}
		}
	}
	var held []*tls.Conn
	for range 2 { // half of four
		c, err := r.hold(t, "monitor")
		if err != nil {
			t.Fatalf("positive control: %v", err)
		}
		held = append(held, c)
	}
	for range 3 {
		if _, err := r.hold(t, "monitor"); err == nil {
			t.Error("one principal holds more than half")
		}
	}
	if err := r.as(t, r.clientTLS("client"), good); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	_ = held[0].Close()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := r.hold(t, "monitor"); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a closed connection did not give its place back")
		}
	}
	log := r.log.String()
	for _, want := range []string{errNoRow.Error(), errCrowded.Error(), "has 0 URI names"} {
		if n := strings.Count(log, want); n < 1 || n > 3 {
			t.Errorf("%d lines of %q", n, want)
		}
	}
}

func TestAFullListenerSaysSo(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	full := make(chan struct{}, 1)
	l := limitListener(inner, 1, func() { full <- struct{}{} })
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	select {
	case <-full:
	case <-time.After(5 * time.Second):
		t.Fatal("not told")
	}
	_ = l.Close()
	if err := <-ended; err == nil {
		t.Error("accepted over the limit")
	}
	_ = first.Close()
	called := 0
	first.(*listen.Conn).WhenClosed(func() { called++ }) //nolint:errcheck // what Accept gives
	_ = first.Close()
	if called != 1 {
		t.Errorf("called %d times for a connection that was closed before", called)
	}
}

// TestRefusalsLeaveATrace asks as somebody who is known for what he may not do.
func TestRefusalsLeaveATrace(t *testing.T) {
	r := newRig(t, "visa")
	for range 20 {
		if _, err := r.admin(t, "client").GetStatus(context.Background(), &tapsealv1.GetStatusRequest{}); status.Code(err) != codes.PermissionDenied {
			t.Fatal(err)
		}
	}
	if err := r.conn.Invoke(context.Background(), "/a.b/4111111111111111", &tapsealv1.GetStatusRequest{}, &tapsealv1.GetStatusResponse{}); status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	r.want(t, visaCase().tap(t, "trace"), tapsealv1.Verdict_VERDICT_VALID, 0)
	lines := map[string]int{}
	for line := range strings.Lines(r.log.String()) {
		if !strings.Contains(line, "a call was refused") {
			continue
		}
		lines[line]++
		if !strings.Contains(line, callerURI) || !strings.Contains(line, "PermissionDenied") || strings.Contains(line, "4111") {
			t.Errorf("line %s", line)
		}
		if !strings.Contains(line, "AdminService/GetStatus") && !strings.Contains(line, `"method":"none"`) {
			t.Errorf("line %s", line)
		}
	}
	if len(lines) < 2 || len(lines) > 4 { // one of each kind in ten seconds
		t.Errorf("%d lines", len(lines))
	}
}
