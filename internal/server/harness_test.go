package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/observability"
	"github.com/tapseal/tapseal/internal/workertest"
	"github.com/tapseal/tapseal/keys"
)

const (
	callerURI   = "spiffe://test/terminal-gateway"
	operatorURI = "spiffe://test/people/operator"
	officerURI  = "spiffe://test/people/security-officer"
	auditorURI  = "spiffe://test/people/auditor"
	monitorURI  = "spiffe://test/monitor"
)

func testPeople() authz.Development {
	return authz.Development{
		Caller: callerURI, Operator: operatorURI, SecurityOfficer: officerURI, Auditor: auditorURI, Monitor: monitorURI,
	}
}

// writePolicy replaces the policy file in one step, with changes to its text:
// pairs of what is replaced and by what.
func (r *rig) writePolicy(people authz.Development, changes ...string) {
	r.tb.Helper()
	data, err := authz.DevelopmentPolicy(people)
	if err != nil {
		r.tb.Fatal(err)
	}
	text := string(data)
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			r.tb.Fatalf("the policy has no %q", changes[i])
		}
		text = strings.ReplaceAll(text, changes[i], changes[i+1])
	}
	r.write("policy.new", text)
	if err := os.Rename(r.path("policy.new"), r.path("policy.yaml")); err != nil {
		r.tb.Fatal(err)
	}
}

// softToken is a token in memory: the real worker and pool with the software
// executor where the PKCS#11 module would be.
type softToken struct {
	keys  map[keys.ID][16]byte
	delay func() // before each crossing; nil is none

	each time.Duration // that a tap takes; 0 is no time
	free time.Time     // when the token is, if each is set
}

func (s *softToken) Execute(jobs []*worker.Job) {
	if s.delay != nil {
		s.delay()
	}
	if s.each > 0 { // as fast on average as it says, however coarsely the machine sleeps
		if now := time.Now(); s.free.Before(now) {
			s.free = now
		}
		s.free = s.free.Add(time.Duration(len(jobs)) * s.each)
		time.Sleep(time.Until(s.free))
	}
	for _, j := range jobs {
		key, ok := s.keys[j.Key]
		if !ok {
			j.Err = worker.ErrKeyUnknown
			continue
		}
		j.Err = software.Execute(key, &j.Plan, &j.Outcome)
		j.Subjects = [2]keys.Subject{workertest.OldSubjectKey.Subject(1, &j.Subject)}
	}
}

func (s *softToken) Hash(in *keys.SubjectInput) ([2]keys.Subject, error) {
	return [2]keys.Subject{workertest.OldSubjectKey.Subject(1, in)}, nil
}

func (s *softToken) Prove(id keys.ID) error {
	if _, ok := s.keys[id]; !ok && id != workertest.OldSubjectKey.ID() {
		return worker.ErrKeyUnknown
	}
	return nil
}

// An issuer is one assignment with one key, of which version 1 is active,
// version 2 suspended, and version 3 is nowhere.
type issuer struct {
	scheme   string
	profiles string // YAML list
	option   string // YAML line, empty where the profiles fix it
	dki      string // of version 1
	bins     string
	key      string // hexadecimal
}

// testIssuers are the issuers of the published vectors. Three schemes use the
// same PAN, so each has a deployment of its own.
func testIssuers() map[string]issuer {
	const pyemvKey, pyemvBIN = "0123456789ABCDEFFEDCBA9876543210", "12345678901"
	return map[string]issuer{
		"visa":       {"visa", "[visa-cvn10, visa-cvn18, visa-cvn22]", "icc_key_option: A", "01", pyemvBIN, pyemvKey},
		"mastercard": {"mastercard", "[mastercard-cvn16, mastercard-cvn17, mastercard-cvn20, mastercard-cvn21]", "", "01", pyemvBIN, pyemvKey},
		"interac":    {"interac", "[interac-cvn133]", "", "any", pyemvBIN, pyemvKey},
		"emv-ccd":    {"emv-ccd", "[emv-ccd]", "icc_key_option: A", "00", "54133390000", "9E15204313F7318ACB79B90BD986AD29"},
		"pboc":       {"pboc", "[pboc-tdes]", "", "any", "62102201100", "C4D689158AD9FB9D23105B91CE046D0E"},
	}
}

func (i issuer) assignments() string {
	y := fmt.Sprintf("assignments:\n  - name: test\n    bins: [%q]\n    scheme: %s\n    profiles: %s\n", i.bins, i.scheme, i.profiles)
	if i.option != "" {
		y += "    " + i.option + "\n"
	}
	// Most tests send the one published tap many times. What becomes of a replay
	// is the business of replay_test.go.
	y += "    replay: {mode: observe}\n    limits: {token_failures: 0, caller_failures: 0, bin_failures: 0}\n"
	if i.scheme == "pboc" {
		y += "    pan_digits: [19]\n" // of the published vector
	}
	y += "    keys:\n"
	y += fmt.Sprintf("      - {dki: %q, key_set: test, version: 1}\n", i.dki)
	if i.dki != "any" {
		y += "      - {dki: \"E2\", key_set: test, version: 2}\n"
		y += "      - {dki: \"E3\", key_set: test, version: 3}\n"
	}
	return y
}

func keyID(n byte) keys.ID { return keys.ID{0: 0xD0, 15: n} }

func (i issuer) manifest(tb testing.TB) *keys.Manifest {
	tb.Helper()
	scheme, ok := cryptogram.ParseScheme(i.scheme)
	if !ok {
		tb.Fatalf("scheme %q", i.scheme)
	}
	set := keys.Set{Name: "test", Use: keys.UseIssuerAC, Versions: []keys.Version{
		{Number: 1, ID: keyID(1), State: keys.Active},
		{Number: 2, ID: keyID(2), State: keys.Suspended},
	}}
	for _, p := range cryptogram.Profiles() {
		if p.Scheme == scheme {
			set.Profiles = append(set.Profiles, p.ID)
		}
	}
	return workertest.WithSubjects(&keys.Manifest{Deployment: "test", Sets: []keys.Set{set}}, false)
}

// A rig is a daemon with its workers and a client, all real, in this process.
type rig struct {
	tb      testing.TB
	dir     string
	cfg     config.Daemon
	issuer  issuer
	token   *softToken
	log     *lockedBuffer
	address Addresses
	reload  chan struct{}

	stopDaemon context.CancelFunc
	ended      chan error
	endOnce    sync.Once
	endErr     error

	listener *net.UnixListener
	worker   *worker.Server

	conn   *grpc.ClientConn
	client tapsealv1.CryptogramServiceClient
}

// lockedBuffer collects everything that is logged.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newRig starts a worker and a daemon and waits until it serves.
func newRig(tb testing.TB, scheme string, change ...func(*rig)) *rig {
	tb.Helper()
	// Socket paths are short, so not below tb.TempDir.
	dir, err := os.MkdirTemp("", "srv")
	if err != nil {
		tb.Fatal(err)
	}
	r := &rig{tb: tb, dir: dir, issuer: testIssuers()[scheme], log: &lockedBuffer{}, ended: make(chan error, 1), reload: make(chan struct{})}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	key, err := hex.DecodeString(r.issuer.key)
	if err != nil {
		tb.Fatal(err)
	}
	r.token = &softToken{keys: map[keys.ID][16]byte{keyID(1): [16]byte(key), keyID(2): [16]byte(key)}}
	writeCertificates(tb, dir)
	r.writePolicy(testPeople())
	r.write("assignments.yaml", r.issuer.assignments())
	if err := os.Mkdir(r.path("run"), 0o700); err != nil {
		tb.Fatal(err)
	}
	r.cfg = config.Daemon{
		Listen:      "127.0.0.1:0",
		TLS:         config.TLS{Certificate: r.path("server.crt"), Key: r.path("server.key"), ClientCA: r.path("ca.crt"), RefreshSec: 1},
		Policy:      r.path("policy.yaml"),
		Admin:       config.Listener{Listen: "127.0.0.1:0", ClientCA: r.path("ca.crt")},
		Metrics:     config.Listener{Listen: "127.0.0.1:0", ClientCA: r.path("ca.crt")},
		Assignments: r.path("assignments.yaml"),
		HSM:         config.HSM{SocketDir: r.path("run")},
		Journal:     config.Journal{Dir: r.path("journal")},
		State:       config.State{Dir: r.path("state")},
		// A loaded machine must not turn a right answer into UNKNOWN.
		DefaultTimeoutMS: 5000, DrainTimeoutMS: 4000,
	}
	for _, c := range change {
		c(r)
	}
	r.startWorker()
	r.startDaemon()
	r.dial()
	tb.Cleanup(r.stop)
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name, content string) {
	r.tb.Helper()
	if err := os.WriteFile(r.path(name), []byte(content), 0o600); err != nil {
		r.tb.Fatal(err)
	}
}

func (r *rig) startWorker() {
	r.tb.Helper()
	socket := r.path("run/worker-0.sock")
	_ = os.Remove(socket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		r.tb.Fatal(err)
	}
	w, err := worker.NewServer(worker.Options{
		Manifest: r.issuer.manifest(r.tb), Token: r.token,
		AllowedUIDs: []uint32{uint32(os.Getuid())}, //nolint:gosec // a user id
		Log:         slog.New(slog.NewJSONHandler(r.log, nil)),
	})
	if err != nil {
		r.tb.Fatal(err)
	}
	r.listener, r.worker = l, w
	go func() { _ = w.Serve(l) }()
}

func (r *rig) stopWorker() { r.worker.Drain(5 * time.Second) }

func (r *rig) startDaemon() {
	r.tb.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r.stopDaemon, r.endOnce = stop, sync.Once{}
	serving := make(chan struct{})
	go func() {
		r.ended <- Run(ctx, r.cfg, Deps{
			Log:     observability.NewLog(r.log),
			Version: "test",
			Ready:   func(a Addresses) { r.address = a },
			Serving: func() { close(serving) },
			Reload:  r.reload,
		})
	}()
	select {
	case <-serving:
	case err := <-r.ended:
		r.tb.Fatalf("daemon ended: %v", err)
	case <-time.After(20 * time.Second):
		r.tb.Fatalf("daemon is not serving; log:\n%s", r.log)
	}
}

func (r *rig) dial() {
	r.tb.Helper()
	if r.conn != nil {
		_ = r.conn.Close()
	}
	conn, err := grpc.NewClient(r.address.GRPC.String(), grpc.WithTransportCredentials(r.clientTLS("client")))
	if err != nil {
		r.tb.Fatal(err)
	}
	r.conn, r.client = conn, tapsealv1.NewCryptogramServiceClient(conn)
}

func (r *rig) clientTLS(name string) credentials.TransportCredentials {
	return credentials.NewTLS(r.clientConfig(name))
}

func (r *rig) clientConfig(name string) *tls.Config {
	r.tb.Helper()
	ca, err := os.ReadFile(r.path("ca.crt"))
	if err != nil {
		r.tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	c := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}
	if name != "" {
		pair, err := tls.LoadX509KeyPair(r.path(name+".crt"), r.path(name+".key"))
		if err != nil {
			r.tb.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// end stops the daemon and returns what Run did.
func (r *rig) end() error {
	r.endOnce.Do(func() {
		r.stopDaemon()
		select {
		case r.endErr = <-r.ended:
		case <-time.After(30 * time.Second):
			r.endErr = fmt.Errorf("daemon did not stop")
		}
	})
	return r.endErr
}

func (r *rig) stop() {
	_ = r.conn.Close()
	if err := r.end(); err != nil {
		r.tb.Errorf("daemon: %v", err)
	}
	r.stopWorker()
}

// records reads the journal of the stopped daemon.
func (r *rig) records() []audit.Record {
	r.tb.Helper()
	var all []audit.Record
	for rec, err := range audit.ReadDir(r.cfg.Journal.Dir) {
		if err != nil {
			r.tb.Fatalf("reading journal: %v", err)
		}
		if rec.Kind == audit.KindDecision {
			all = append(all, rec)
		}
	}
	return all
}

func writeCertificates(tb testing.TB, dir string) {
	tb.Helper()
	caKey, ca := makeCertificate(tb, dir, "ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}, nil, nil)
	makeCertificate(tb, dir, "server", &x509.Certificate{
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, caKey)
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	uri := parseURI(tb, callerURI)
	for name, uri := range map[string]string{
		"client": callerURI, "operator": operatorURI, "officer": officerURI, "auditor": auditorURI, "monitor": monitorURI,
		"nobody": "spiffe://test/nobody",
	} {
		makeCertificate(tb, dir, name, &x509.Certificate{URIs: []*url.URL{parseURI(tb, uri)}, ExtKeyUsage: client}, ca, caKey)
	}
	makeCertificate(tb, dir, "named", &x509.Certificate{Subject: pkix.Name{CommonName: "gateway-2"}, ExtKeyUsage: client}, ca, caKey)
	makeCertificate(tb, dir, "nameless", &x509.Certificate{Subject: pkix.Name{Organization: []string{"x"}}, ExtKeyUsage: client}, ca, caKey)
	otherKey, other := makeCertificate(tb, dir, "otherca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, nil)
	makeCertificate(tb, dir, "stranger", &x509.Certificate{URIs: []*url.URL{uri}, ExtKeyUsage: client}, other, otherKey)
}

func parseURI(tb testing.TB, s string) *url.URL {
	tb.Helper()
	u, err := url.Parse(s)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

func makeCertificate(tb testing.TB, dir, name string, c, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	if parent == nil {
		parent, parentKey = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
	if err != nil {
		tb.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".crt": {Type: "CERTIFICATE", Bytes: der},
		name + ".key": {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return key, made
}

// vectorFields are the fields of a published vector that these tests use.
type vectorFields struct {
	ID       string            `json:"id"`
	Data     string            `json:"arqc_data"`
	PAN      string            `json:"pan"`
	PSN      string            `json:"psn"`
	ARC      string            `json:"arc"`
	CSU      string            `json:"csu"`
	Expected map[string]string `json:"expected"`
}

func vector(tb testing.TB, file, id string) vectorFields {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "vectors", file))
	if err != nil {
		tb.Fatal(err)
	}
	var f struct {
		Vectors []json.RawMessage `json:"vectors"`
	}
	if err := json.Unmarshal(data, &f); err != nil {
		tb.Fatal(err)
	}
	for _, raw := range f.Vectors {
		var v vectorFields
		if json.Unmarshal(raw, &v) == nil && v.ID == id {
			return v
		}
	}
	tb.Fatalf("no vector %s in %s", id, file)
	return vectorFields{}
}

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}
