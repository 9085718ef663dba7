package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tapseal/tapseal/keys"
)

// BeatInterval is how often a worker reports to its supervisor.
const BeatInterval = 100 * time.Millisecond

// Limits of the end of a worker.
const (
	// DrainLimit is how long a worker may take to finish after a drain order.
	DrainLimit = 10 * time.Second
	// orphanLimit is the same when the supervisor is gone: a worker without a
	// supervisor has a PIN's rights and nobody who watches it.
	orphanLimit = time.Second
)

// maxUnprovenReported bounds the list in Ready.
const maxUnprovenReported = 16

// An OpenFunc loads the module, logs in once and resolves the manifest's
// keys. Its error should be a *Failure; any other is FailureInternal.
type OpenFunc func(b *Bootstrap, m *keys.Manifest) (DataToken, error)

// Main is the life of a worker process: harden, read the bootstrap, log in,
// prove, report, serve until told to stop. The descriptors are BootstrapFD,
// ControlFD and ListenerFD. The module is never finalised: the process ends.
func Main(open OpenFunc, log *slog.Logger) error {
	if err := HardenProcess(); err != nil {
		return err
	}
	for fd := BootstrapFD; fd <= ListenerFD; fd++ {
		unix.CloseOnExec(fd)
	}
	link, err := openControl()
	if err != nil {
		return err
	}
	pipe := os.NewFile(BootstrapFD, "bootstrap")
	b, err := ReadBootstrap(pipe)
	_ = pipe.Close()
	if err != nil {
		return err
	}
	log = log.With("worker", b.Slot)
	token, m, err := login(b, open)
	if err != nil {
		f := failureOf(err)
		return errors.Join(f, link.reports.fail(f))
	}
	if b.Mode == ModeCheck {
		return check(token, m, &link.reports)
	}
	ready, err := proveOne(token, m)
	if err != nil {
		f := failureOf(err)
		return errors.Join(f, link.reports.fail(f))
	}
	s, err := NewServer(Options{Manifest: m, Token: token, AllowedUIDs: b.AllowedUIDs, Guess: b.Guess, Log: log})
	if err != nil {
		return err
	}
	if err := link.reports.send(&Report{Ready: ready}); err != nil {
		return err
	}
	return attend(s, link, log)
}

func login(b *Bootstrap, open OpenFunc) (DataToken, *keys.Manifest, error) {
	defer b.PIN.Wipe()
	m, err := keys.ParseManifest(b.Manifest)
	if err != nil {
		return nil, nil, fmt.Errorf("key manifest: %w", err)
	}
	if err := CheckModule(b.Module, b.ModuleHash); err != nil {
		return nil, nil, &Failure{Kind: FailureModuleRefused, Err: err}
	}
	token, err := open(b, m)
	if err != nil {
		return nil, nil, err
	}
	return token, m, nil
}

// proveOne proves the first active key that can be proved: a token with the
// wrong keys must not serve, a token with one bad key among many must. Each
// other key is proved before its first use. The subject keys must all be right,
// because every answer needs them.
func proveOne(token KeyProof, m *keys.Manifest) (*Ready, error) {
	r := &Ready{}
	t := newKeyTable(m)
	for i := range t.subjects {
		if v := &t.subjects[i]; v.Number != 0 {
			if err := token.Prove(v.ID); err != nil {
				return nil, &Failure{Kind: FailureKeys, Err: fmt.Errorf("proving the subject keys: %w", err)}
			}
		}
	}
	var firstErr error
	for _, id := range t.active {
		err := token.Prove(id)
		if err == nil {
			r.Proved = id.String()
			return r, nil
		}
		if firstErr == nil {
			firstErr = err
		}
		if len(r.Unproven) < maxUnprovenReported {
			r.Unproven = append(r.Unproven, id.String())
		}
	}
	if firstErr == nil {
		firstErr = errors.New("the manifest has no active key")
	}
	return nil, &Failure{Kind: FailureKeys, Err: fmt.Errorf("proving the active keys: %w", firstErr)}
}

// attend serves until the supervisor, or a signal, says that it is enough.
func attend(s *Server, link *controlLink, log *slog.Logger) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	defer signal.Stop(stop)
	beat := time.NewTicker(BeatInterval)
	defer beat.Stop()
	serving := make(chan error, 1)
	for {
		select {
		case <-beat.C:
			b := s.Beat()
			if err := link.reports.send(&Report{Beat: &b}); err != nil {
				log.Warn("the supervisor does not listen", "error", err)
			}
		case err := <-serving:
			return err
		case err := <-s.dead:
			return errors.Join(fmt.Errorf("the token is lost: %w", err), finish(s, link))
		case <-link.gone:
			log.Warn("the supervisor is gone: stopping")
			s.Drain(orphanLimit)
			return nil
		case <-stop:
			return finish(s, link)
		case o := <-link.orders:
			if o == OrderDrain {
				return finish(s, link)
			}
			if err := start(s, serving); err != nil {
				return err
			}
		}
	}
}

// start serves the inherited listener.
func start(s *Server, serving chan<- error) error {
	f := os.NewFile(ListenerFD, "listener")
	l, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("using the inherited listener: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return errors.New("the inherited listener is not a Unix socket")
	}
	go func() { serving <- s.Serve(ul) }()
	return nil
}

// finish drains, with beats going on so that a stuck crossing is still seen.
func finish(s *Server, link *controlLink) error {
	drained := make(chan bool, 1)
	go func() { drained <- s.Drain(DrainLimit) }()
	beat := time.NewTicker(BeatInterval)
	defer beat.Stop()
	for {
		select {
		case whole := <-drained:
			b := s.Beat()
			_ = link.reports.send(&Report{Beat: &b}) // the last count
			if !whole {
				return errors.New("draining took too long: connections were cut")
			}
			return nil
		case <-link.gone:
			return nil
		case <-beat.C:
			b := s.Beat()
			_ = link.reports.send(&Report{Beat: &b}) // the end of the link says all
		}
	}
}

// A controlLink is the worker's end of the control socket.
type controlLink struct {
	reports reporter
	orders  chan Order
	gone    chan struct{}
}

// openControl starts reading orders at once, so that a supervisor that dies
// while the module hangs in a login still takes the worker with it.
func openControl() (*controlLink, error) {
	f := os.NewFile(ControlFD, "control")
	nc, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, fmt.Errorf("using the control socket: %w", err)
	}
	link := &controlLink{reports: reporter{w: nc}, orders: make(chan Order, 4), gone: make(chan struct{})}
	go func() {
		for lines := NewLineScanner(nc); lines.Scan(); {
			o, err := ParseOrder(lines.Bytes())
			if err != nil {
				break // not our supervisor, or its end
			}
			link.orders <- o
		}
		close(link.gone)
		time.Sleep(2 * orphanLimit)
		os.Exit(1) // the ordinary way out is blocked in the module
	}()
	return link, nil
}

// check proves every key that should be there and reports each.
func check(token KeyProof, m *keys.Manifest, reports *reporter) error {
	var sum CheckResult
	for i := range m.Sets {
		for _, v := range m.Sets[i].Versions {
			if v.State == keys.Destroyed {
				continue
			}
			sum.Keys++
			found := KeyFinding{Set: m.Sets[i].Name, Version: v.Number, Proved: true}
			if err := token.Prove(v.ID); err != nil {
				text := err.Error()
				found.Proved, found.Problem = false, text[:min(len(text), maxDetailBytes)]
				sum.Unproven++
			}
			if err := reports.send(&Report{Key: &found}); err != nil {
				return err
			}
		}
	}
	return reports.send(&Report{Done: &sum})
}
