// Command cmd is make cluster: three daemons, PostgreSQL and a synchronous
// standby on this machine, and load while one part after the other breaks.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/tapseal/tapseal/internal/cluster"
)

func main() {
	bin := flag.String("bin", "bin", "directory of the programs")
	calm := flag.Duration("calm", 8*time.Second, "load between two faults")
	flag.Parse()
	c := &console{}
	ok := false
	c.run(func() {
		ok = cluster.Drill(c, cluster.DrillOptions{Bin: *bin, Out: os.Stdout, Calm: *calm})
	})
	if !ok || c.Failed() {
		fmt.Fprintln(os.Stderr, "cluster: failed")
		os.Exit(1)
	}
}
