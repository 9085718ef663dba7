// Command bench prints the table of make bench.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tapseal/tapseal/internal/bench"
	"github.com/tapseal/tapseal/internal/timerslack"
)

func main() {
	// The load generator is in the figures: what it spends on polling is no
	// property of the service. The bare loops inherit it.
	if err := timerslack.Ensure(timerslack.Daemon); err != nil {
		fmt.Fprintln(os.Stderr, "bench: timers stay fine:", err)
	}
	o := bench.Options{Out: os.Stdout}
	flag.StringVar(&o.BinDir, "bin", "bin", "directory of tapseald and tapseal-hsm")
	flag.DurationVar(&o.Length, "length", 8*time.Second, "length of one measurement")
	flag.IntVar(&o.Rounds, "rounds", 2, "times that bare loop and service take turns")
	flag.IntVar(&o.Total, "n", 1_000_000, "verifications before the daemon's memory is read")
	flag.StringVar(&o.Profile, "profile", "", "file for a CPU profile of the daemon under streamed load")
	flag.Parse()
	// SIGPIPE too: without it "bench | head" would leave the service behind.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	if err := bench.Run(ctx, o); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // stop was called
	}
}
