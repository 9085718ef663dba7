package devmode

import (
	"log/slog"
	"time"

	softhsmconfig "github.com/tapseal/tapseal/softhsm-config"
)

// healEvery is how often the token is looked at. With SoftHSM's copy back,
// service returns with the supervisor's next try: both together within 2 s.
const healEvery = 200 * time.Millisecond

// keepToken mends what a worker that was killed in its login left of SoftHSM's
// token, until stop is called.
func keepToken(dir string, log *slog.Logger) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(healEvery)
		defer tick.Stop()
		said := ""
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if !softhsmconfig.Suspect(dir) {
				continue
			}
			restored, err := softhsmconfig.Heal(dir)
			if err != nil && err.Error() != said {
				said = err.Error()
				log.Error("the token cannot be mended", "error", said)
			}
			if restored {
				log.Warn("a worker was killed in its login: put the token's file back from its copy")
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}
