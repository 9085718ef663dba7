package postgrestest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Begin starts the server, again after Kill or Stop, at the same address.
func (c *Cluster) Begin() {
	c.t.Helper()
	cmd := c.command("postgres", "-D", c.data(), "-h", "127.0.0.1", "-p", strconv.Itoa(c.Port), "-k", c.dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	c.mu.Lock()
	c.server, c.exited = cmd, exited
	c.mu.Unlock()
	c.eventually("PostgreSQL answers", func() bool {
		select {
		case <-exited:
			c.t.Fatalf("PostgreSQL ended: %s", stderr.String())
		default:
		}
		_, err := c.Query("postgres", "SELECT 1")
		return err == nil
	})
}

// take is the process that runs; afterwards there is none.
func (c *Cluster) take() (pid int, exited chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil {
		return 0, nil
	}
	pid, exited = c.server.Process.Pid, c.exited
	c.server, c.exited = nil, nil
	return pid, exited
}

// Kill ends the postmaster and all its children at once, as a power failure of
// the process would.
func (c *Cluster) Kill() {
	pid, exited := c.take()
	if pid == 0 {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGSTOP) // no more children
	for _, child := range children(pid) {
		_ = syscall.Kill(child.pid, syscall.SIGKILL)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	<-exited
}

// Stop asks the server to end its connections and itself (a fast shutdown).
func (c *Cluster) Stop() {
	pid, exited := c.take()
	if pid == 0 {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGINT)
	<-exited
}

// Reload makes changed settings count for new connections.
func (c *Cluster) Reload() {
	c.t.Helper()
	const loaded = "SELECT pg_conf_load_time()"
	before := c.Value("postgres", loaded)
	c.Exec("postgres", "SELECT pg_reload_conf()")
	c.eventually("the settings are loaded", func() bool {
		rows, err := c.Query("postgres", loaded)
		return err == nil && len(rows) == 1 && rows[0][0] != before
	})
}

// Set changes settings while the server runs.
func (c *Cluster) Set(lines ...string) {
	c.t.Helper()
	c.Configure(lines...)
	c.Reload()
}

// Standby is a streaming standby of this cluster. A synchronous one holds up
// every commit of this cluster until it has it.
func (c *Cluster) Standby(synchronous bool) *Cluster {
	c.t.Helper()
	s := prepare(c.t)
	name := fmt.Sprintf("standby_%d", s.Port)
	s.run("pg_basebackup", "-D", s.data(), "-h", c.dir, "-p", strconv.Itoa(c.Port), "-U", Superuser,
		"-X", "stream", "--checkpoint=fast", "--no-sync")
	s.write("data/standby.signal", "", 0o600)
	s.Configure(
		fmt.Sprintf("primary_conninfo = 'host=%s port=%d user=%s application_name=%s'", c.dir, c.Port, Superuser, name),
		"synchronous_standby_names = ''")
	s.Begin()
	c.eventually("the standby streams", func() bool {
		rows, err := c.Query("postgres", "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND application_name = '"+name+"'")
		return err == nil && len(rows) == 1
	})
	if synchronous {
		c.Set("synchronous_standby_names = '" + name + "'")
		c.eventually("the standby is synchronous", func() bool {
			rows, err := c.Query("postgres", "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
			return err == nil && len(rows) == 1
		})
	}
	return s
}

// Promote makes a standby a primary.
func (c *Cluster) Promote() {
	c.t.Helper()
	c.Exec("postgres", "SELECT pg_promote()")
	c.eventually("the standby is promoted", func() bool {
		rows, err := c.Query("postgres", "SELECT pg_is_in_recovery()")
		return err == nil && len(rows) == 1 && rows[0][0] == "f"
	})
}

// CPU is the time that the server's processes have used since it began.
func (c *Cluster) CPU() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server == nil {
		return 0
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
	pid := c.server.Process.Pid
	own, _ := readProcess(pid)
	total := own.ticks + own.childTicks
	for _, child := range children(pid) {
		total += child.ticks
	}
	return time.Duration(total) * tick
}

type process struct {
	pid, parent       int
	ticks, childTicks int64 // of processor time; those of children that have ended
}

func children(parent int) []process {
	found, _ := filepath.Glob("/proc/[0-9]*/stat")
	var all []process
	for _, path := range found {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if p, ok := readProcess(pid); ok && p.parent == parent {
			all = append(all, p)
		}
	}
	return all
}

// readProcess parses /proc/PID/stat; proc(5).
func readProcess(pid int) (p process, ok bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 15 {
		return process{}, false
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(fields[i], 10, 64); return n }
	return process{pid: pid, parent: int(number(1)), ticks: number(11) + number(12), childTicks: number(13) + number(14)}, true
}

// Sessions are the server processes of clients of a database, sorted.
func (c *Cluster) Sessions(database string) []int {
	c.t.Helper()
	rows, err := c.Query("postgres", "SELECT pid FROM pg_stat_activity WHERE datname = '"+database+"'")
	if err != nil {
		c.t.Fatal(err)
	}
	var pids []int
	for _, row := range rows {
		pid, _ := strconv.Atoi(row[0])
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}
