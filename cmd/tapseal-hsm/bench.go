package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strconv"
	"syscall"
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/pkcs11"
	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/keys"
)

// BenchCmd runs plans in a bare loop: what the token gives when nothing is
// around it. Standard input has one line of JSON taps and then an empty line
// that starts the clock. The environment must be that of the workers.
type BenchCmd struct {
	Config string        `help:"Configuration file of the supervisor." required:"" type:"path"`
	KeySet string        `help:"Key set of all taps." required:""`
	Length time.Duration `help:"How long." default:"5s"`
}

// benchTap is one tap of a visa card.
type benchTap struct {
	PAN     string `json:"pan"`
	PSN     string `json:"psn"`
	Field55 string `json:"field55"`
}

// benchResult is what one loop did. Worker processes write the same.
type benchResult struct {
	Jobs        uint64 `json:"jobs"`
	ElapsedNS   int64  `json:"elapsed_ns"`
	InsideCPUNS uint64 `json:"inside_cpu_ns"`
	CPUNS       int64  `json:"cpu_ns"`
	Objects     uint64 `json:"heap_objects"` // allocated so far
}

// Run opens the token with a login of its own.
func (c *BenchCmd) Run(out stdout) error {
	if err := worker.HardenProcess(); err != nil {
		return err
	}
	cfg, err := supervisor.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	token, id, err := c.open(cfg)
	if err != nil {
		return err
	}
	defer func() { _ = token.Close() }()
	jobs, err := readJobs(in, id)
	if err != nil {
		return err
	}
	if err := runAll(token, jobs); err != nil { // warm, and every key proved
		return err
	}
	_, _ = fmt.Fprintln(out, "ready")
	if _, err := in.ReadString('\n'); err != nil {
		return fmt.Errorf("waiting for the start: %w", err)
	}
	result, err := loop(token, jobs, c.Length)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

func (c *BenchCmd) open(cfg *supervisor.Config) (*pkcs11.Token, keys.ID, error) {
	m, err := keys.LoadManifest(cfg.Manifest)
	if err != nil {
		return nil, keys.ID{}, err
	}
	var id keys.ID
	for _, set := range m.Sets {
		if set.Name == c.KeySet && len(set.Versions) > 0 {
			id = set.Versions[0].ID
		}
	}
	kept, err := secret.ReadPIN(cfg.PINFile)
	if err != nil {
		return nil, keys.ID{}, fmt.Errorf("pin_file: %w", err)
	}
	defer kept.Wipe()
	var pin []byte
	kept.Use(func(p []byte) { pin = bytes.Clone(p) }) // Open wipes it
	token, err := pkcs11.Open(pkcs11.Config{
		Module: cfg.Module, ModuleArgs: cfg.ModuleArgs,
		TokenLabel: cfg.TokenLabel, TokenSerial: cfg.TokenSerial,
		ResidentKeys: cfg.ResidentKeys, MeasureCPU: true,
	}, pin, m)
	return token, id, err
}

func readJobs(in *bufio.Reader, id keys.ID) ([]*worker.Job, error) {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("reading taps: %w", err)
	}
	var taps []benchTap
	if err := json.Unmarshal(line, &taps); err != nil {
		return nil, fmt.Errorf("reading taps: %w", err)
	}
	jobs := make([]*worker.Job, len(taps))
	for i, tap := range taps {
		if jobs[i], err = tap.job(id); err != nil {
			return nil, fmt.Errorf("tap %d: %w", i, err)
		}
	}
	return jobs, nil
}

func (t benchTap) job(id keys.ID) (*worker.Job, error) {
	field55, err := hex.DecodeString(t.Field55)
	if err != nil {
		return nil, errors.New("field 55 is not hexadecimal")
	}
	card, err := cryptogram.ParseField55(field55)
	if err != nil {
		return nil, err
	}
	pan, err := cryptogram.ParsePAN(t.PAN)
	if err != nil {
		return nil, err
	}
	psn, err := cryptogram.ParsePSN(t.PSN)
	if err != nil {
		return nil, err
	}
	profile, _, err := cryptogram.SelectProfile(cryptogram.SchemeVisa, card.IAD())
	if err != nil {
		return nil, err
	}
	var req cryptogram.Request
	if err := cryptogram.NewRequest(&card, pan, psn, true, profile, cryptogram.OptionA, &req); err != nil {
		return nil, err
	}
	job := &worker.Job{Key: id, Subject: keys.NewSubjectInput(&pan, psn)}
	return job, cryptogram.BuildPlan(&req, &job.Plan)
}

// crossingJobs is how many plans a worker runs in one crossing under load.
const crossingJobs = 8

func runAll(token *pkcs11.Token, jobs []*worker.Job) error {
	for first := 0; first < len(jobs); first += crossingJobs {
		chunk := jobs[first:min(first+crossingJobs, len(jobs))]
		token.Execute(chunk)
		for _, j := range chunk {
			if j.Err != nil {
				return j.Err
			}
			if j.Outcome.Steps[0].Status != cryptogram.Matched {
				return errors.New("a right cryptogram did not match")
			}
		}
	}
	return nil
}

func loop(token *pkcs11.Token, jobs []*worker.Job, d time.Duration) (benchResult, error) {
	before, start, cpu := token.Stats(), time.Now(), processCPU()
	for time.Since(start) < d {
		if err := runAll(token, jobs); err != nil {
			return benchResult{}, err
		}
	}
	elapsed, after := time.Since(start), token.Stats()
	return benchResult{
		Jobs: after.Jobs - before.Jobs, ElapsedNS: int64(elapsed),
		InsideCPUNS: after.InsideCPUNanos - before.InsideCPUNanos,
		CPUNS:       processCPU() - cpu, Objects: heapObjects(),
	}, nil
}

func processCPU() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func heapObjects() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// measureDirEnv names the directory in which workers leave their counters. It
// comes from the key "environment" of the supervisor's configuration and is
// for measurements: it costs two system calls a crossing.
const measureDirEnv = "TAPSEAL_HSM_MEASURE_DIR"

const measureEvery = 100 * time.Millisecond

func measuring() bool { return os.Getenv(measureDirEnv) != "" }

// leaveCounters writes the counters of a worker to a file with its process
// number, again and again, until the process ends.
func leaveCounters(token *pkcs11.Token) {
	path := filepath.Join(os.Getenv(measureDirEnv), strconv.Itoa(os.Getpid()))
	for {
		s := token.Stats()
		data, err := json.Marshal(benchResult{Jobs: s.Jobs, InsideCPUNS: s.InsideCPUNanos, CPUNS: processCPU(), Objects: heapObjects()})
		if err == nil {
			err = os.WriteFile(path+".new", data, 0o600)
		}
		if err == nil {
			err = os.Rename(path+".new", path)
		}
		if err != nil {
			slog.Warn("leaving counters", "error", err)
			return
		}
		time.Sleep(measureEvery)
	}
}
