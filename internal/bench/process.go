package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is the unit of CPU times in /proc on Linux.
const clockTick = 10 * time.Millisecond

// procStat is what /proc/PID/stat tells (proc(5)).
type procStat struct {
	parent int
	cpu    time.Duration // own, and of children that ended and were waited for
}

func readStat(pid int) (procStat, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, false
	}
	// The name in parentheses may hold anything; fields count from behind it.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 15 {
		return procStat{}, false
	}
	var s procStat
	s.parent, _ = strconv.Atoi(f[1])
	for _, field := range f[11:15] { // utime, stime, cutime, cstime
		ticks, _ := strconv.ParseInt(field, 10, 64)
		s.cpu += time.Duration(ticks) * clockTick
	}
	return s, true
}

// tree gives the processes below root, root included.
func tree(root int) map[int]procStat {
	all := make(map[int]procStat)
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if s, ok := readStat(pid); ok {
				all[pid] = s
			}
		}
	}
	below := make(map[int]procStat)
	for pid := range all {
		for p := pid; p > 1; p = all[p].parent {
			if p == root {
				below[pid] = all[pid]
				break
			}
		}
	}
	return below
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident is the resident set of a process in bytes.
func resident(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(f[1], 10, 64)
	return pages * uint64(os.Getpagesize())
}

// counters of worker processes, as they leave them in a directory.
type counters struct {
	Jobs        uint64 `json:"jobs"`
	ElapsedNS   int64  `json:"elapsed_ns"`
	InsideCPUNS uint64 `json:"inside_cpu_ns"`
	CPUNS       int64  `json:"cpu_ns"`
	Objects     uint64 `json:"heap_objects"`
}

func (c *counters) add(o counters) {
	c.Jobs += o.Jobs
	c.InsideCPUNS += o.InsideCPUNS
	c.CPUNS += o.CPUNS
	c.Objects += o.Objects
}

// workerCounters adds up the counters of all workers, ended ones included.
func workerCounters(dir string) (sum counters, err error) {
	// Workers write every 100 ms.
	time.Sleep(250 * time.Millisecond)
	paths, err := filepath.Glob(filepath.Join(dir, "*[0-9]"))
	if err != nil {
		return sum, err
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return sum, err
		}
		var c counters
		if err := json.Unmarshal(b, &c); err != nil {
			return sum, err
		}
		sum.add(c)
	}
	return sum, nil
}

// scrape reads Prometheus metrics into a map from name with labels to value.
func scrape(s *service) (map[string]float64, error) {
	resp, err := s.get("/metrics", 5*time.Second)
	if err != nil {
		return nil, fmt.Errorf("reading metrics: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	m := make(map[string]float64)
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			m[name] = v
		}
	}
	return m, lines.Err()
}

// get asks the daemon's HTTP listener.
func (s *service) get(path string, within time.Duration) (*http.Response, error) {
	client := http.Client{
		Timeout:   within,
		Transport: &http.Transport{TLSClientConfig: s.monitor, DisableKeepAlives: true},
	}
	return client.Get("https://" + s.metrics + path)
}

// fetchProfile writes a CPU profile of the daemon to a file.
func fetchProfile(s *service, d time.Duration, path string) error {
	resp, err := s.get(fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(int(d.Seconds()), 1)), d+time.Minute)
	if err != nil {
		return fmt.Errorf("profiling: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("profiling: %s", resp.Status)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}

// histogramQuantile gives the upper bound of the bucket that holds the
// quantile of what a histogram took between two readings.
func histogramQuantile(before, after map[string]float64, name string, q float64) float64 {
	total := after[name+"_count"] - before[name+"_count"]
	best := 0.0
	for key, v := range after {
		bound, ok := strings.CutPrefix(key, name+`_bucket{le="`)
		if !ok {
			continue
		}
		le, err := strconv.ParseFloat(strings.TrimSuffix(bound, `"}`), 64)
		if err == nil && v-before[key] >= q*total && (best == 0 || le < best) {
			best = le
		}
	}
	return best
}
