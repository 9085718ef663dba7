package supervisor

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// Status is the answer of the status socket.
type Status struct {
	Login   string            `json:"login"`                // "ok" or "stopped"
	Latch   *LatchRecord      `json:"latch,omitempty"`      // why logins are stopped
	Hint    string            `json:"what_to_do,omitempty"` // for an operator
	Logins  map[string]uint64 `json:"logins"`               // by result: ok, refused, failed, unknown
	PIN     PINStatus         `json:"pin"`
	Uptime  int64             `json:"uptime_seconds"`
	Workers []WorkerStatus    `json:"workers"`
}

// Values of Status.Login.
const (
	LoginOK      = "ok"
	LoginStopped = "stopped"
)

// WorkerStatus is one slot.
type WorkerStatus struct {
	Slot          int    `json:"slot"`
	State         string `json:"state"`         // starting, serving, draining, stopped
	PID           int    `json:"pid,omitempty"` // of the serving process
	Socket        string `json:"socket"`
	Served        uint64 `json:"served"`            // verifications of this process
	ServedTotal   uint64 `json:"served_total"`      // of all processes of the slot
	GuessRefused  uint64 `json:"guess_refused"`     // answers of the guess limiter, all processes
	ResidentBytes uint64 `json:"resident_bytes"`    // of this process
	BusyMS        int64  `json:"busy_ms"`           // age of the call into the module under way
	Connections   int    `json:"connections"`       // open now
	AgeSeconds    int64  `json:"age_seconds"`       // since this process serves
	Restarts      uint64 `json:"restarts"`          // after a death
	Recycles      uint64 `json:"recycles"`          // by count or request
	Overdue       bool   `json:"overdue,omitempty"` // served over 4 × recycle_after: replacements fail
	LastError     string `json:"last_error,omitempty"`
	LastErrorAt   string `json:"last_error_at,omitempty"` // RFC 3339
}

// Status says how things are now.
func (s *Supervisor) Status() Status {
	latched, counts := s.logins.state()
	st := Status{Login: LoginOK, Latch: latched, Logins: counts, PIN: s.logins.keeper.source.Status(), Uptime: int64(time.Since(s.started).Seconds())}
	if latched != nil {
		st.Login, st.Hint = LoginStopped, latchHint
	}
	for _, sl := range s.slots {
		st.Workers = append(st.Workers, sl.status())
	}
	return st
}

func (sl *slot) status() WorkerStatus {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	w := WorkerStatus{
		Slot: sl.n, State: sl.state, Socket: sl.s.c.workerSocket(sl.n), ServedTotal: sl.served,
		GuessRefused: sl.refused, Restarts: sl.restarts, Recycles: sl.recycles, LastError: sl.lastError,
	}
	if sl.lastError != "" {
		w.LastErrorAt = sl.lastAt.UTC().Format(time.RFC3339)
	}
	if p := sl.current; p != nil {
		b, _ := p.lastBeat()
		w.PID, w.Served, w.Connections = p.pid, b.Served, b.Connections
		w.ServedTotal += b.Served
		w.GuessRefused += b.Refused
		w.BusyMS = b.BusyNS / int64(time.Millisecond)
		w.ResidentBytes = residentBytes(p.pid)
		w.AgeSeconds = int64(time.Since(sl.since).Seconds())
		w.Overdue = b.Served >= overdueFactor*sl.s.c.RecycleAfter
	}
	return w
}

// residentBytes reads the resident set of a process, 0 if it is gone.
func residentBytes(pid int) uint64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize()) //nolint:gosec // a page size is never negative
}
