package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/workertest"
	"github.com/tapseal/tapseal/keys"
)

// The test binary is the worker as well: with keys in software, and told by
// its environment, which the supervisor passes on, how to misbehave.
const (
	envLogins = "TEST_LOGINS" // file that gets one line for each login
	envMode   = "TEST_MODE"   // file with one of the modes below, read at each login
	envStuck  = "TEST_STUCK"  // file: while it is there, crossings do not end
)

const (
	modeRefuse = "refuse" // the PIN is wrong
	modeAbsent = "absent" // the token is not there
	modeCrash  = "crash"  // die in the login
	modeLie    = "lie"    // break the control protocol
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == workerCommand {
		if mode, _ := os.ReadFile(os.Getenv(envMode)); string(mode) == modeLie {
			_, _ = os.NewFile(worker.ControlFD, "control").WriteString("{\"ready\":true}\n")
			time.Sleep(time.Hour)
		}
		if err := worker.Main(openTestToken, slog.New(slog.NewJSONHandler(os.Stderr, nil))); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func openTestToken(b *worker.Bootstrap, _ *keys.Manifest) (worker.DataToken, error) {
	f, err := os.OpenFile(os.Getenv(envLogins), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	b.PIN.Use(func(pin []byte) { _, err = fmt.Fprintf(f, "worker %d PIN %s\n", b.Slot, pin) })
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	mode, _ := os.ReadFile(os.Getenv(envMode))
	switch string(mode) {
	case modeRefuse:
		return nil, &worker.Failure{Kind: worker.FailurePINRefused, Err: errors.New("CKR_PIN_INCORRECT")}
	case modeAbsent:
		return nil, &worker.Failure{Kind: worker.FailureTokenNotFound, Err: errors.New("no such token")}
	case modeCrash:
		os.Exit(3)
	}
	return &stickyToken{Token: workertest.NewToken()}, nil
}

// A stickyToken hangs in its crossings while the file is there, as a vendor
// library does that lost its HSM.
type stickyToken struct {
	*workertest.Token
}

func (t *stickyToken) Execute(jobs []*worker.Job) {
	for {
		if _, err := os.Stat(os.Getenv(envStuck)); err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	t.Token.Execute(jobs)
}
