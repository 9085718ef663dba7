package pkcs11

/*
#cgo CFLAGS: -std=c11 -O2 -Wall -Wextra
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "plan.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"unsafe"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/keys"
)

// chunkJobs is how many plans go through one crossing at most. More would only
// hold back the answers of the first ones.
const chunkJobs = 16

// The structures in plan.h mirror cryptogram.Plan; these fail to compile when
// a limit changes on one side only.
var (
	_ [cryptogram.MaxDerivations]struct{} = [C.TS_MAX_DERIVATIONS]struct{}{}
	_ [cryptogram.MaxSteps]struct{}       = [C.TS_MAX_STEPS]struct{}{}
	_ [cryptogram.MaxStepBytes]struct{}   = [C.TS_MAX_STEP_BYTES]struct{}{}
	_ [cryptogram.BlockBytes]struct{}     = [C.TS_BLOCK_BYTES]struct{}{}
	_ [len(keys.ID{})]struct{}            = [C.TS_ID_BYTES]struct{}{}
	_ [keys.MaxSubjectInputBytes]struct{} = [C.TS_MAX_SUBJECT_BYTES]struct{}{}
	_ [keys.SubjectBytes]struct{}         = [C.TS_SUBJECT_BYTES]struct{}{}
	_ [len(subjectHandles{})]struct{}     = [C.TS_SUBJECTS]struct{}{}
)

var (
	errBadPlan = errors.New("the plan is not sound")
	errNotRun  = errors.New("the plan was not run")
)

// rootHandles are the faces of the key that a plan starts from. A data worker
// has only the first.
type rootHandles struct {
	deriving  p11.ObjectHandle
	computing p11.ObjectHandle
	left      p11.ObjectHandle // KL‖KL
}

// subjectHandles are the keys that hash a subject, current first, 0 for none.
type subjectHandles [2]p11.ObjectHandle

// An engine carries plans into the module, a chunk at a time. All its memory
// is C memory, allocated once. It is not safe for concurrent use.
type engine struct {
	c    *C.ts_engine
	jobs []C.ts_job
}

// functionList is the module's CK_FUNCTION_LIST.
type functionList struct{ c *C.CK_FUNCTION_LIST }

func loadFunctions(path string) (functionList, error) {
	c := C.CString(path)
	defer C.free(unsafe.Pointer(c))
	f := C.ts_functions(c)
	if f == nil {
		return functionList{}, fmt.Errorf("%w: %s has no function list", ErrModule, path)
	}
	return functionList{c: f}, nil
}

// login gives the PIN to the module straight from the caller's slice, so that
// no copy of it stays behind in memory that nobody can wipe.
func (f functionList) login(s p11.SessionHandle, user uint, pin []byte) error {
	var p *C.CK_BYTE
	if len(pin) > 0 {
		p = (*C.CK_BYTE)(unsafe.Pointer(&pin[0]))
	}
	rv := C.ts_login(f.c, C.CK_SESSION_HANDLE(s), C.CK_ULONG(user), p, C.CK_ULONG(len(pin)))
	if rv != C.CKR_OK {
		return &callError{call: "C_Login", rv: p11.Error(rv)}
	}
	return nil
}

func newEngine(f functionList, measureCPU bool) *engine {
	c := (*C.ts_engine)(C.calloc(1, C.sizeof_ts_engine))
	c.functions = f.c
	c.deriving, c.num_deriving = copyTemplate(cardKeyForDeriving())
	c.computing, c.num_computing = copyTemplate(keyForComputing())
	if measureCPU {
		c.measure_cpu = 1
	}
	jobs := (*C.ts_job)(C.calloc(chunkJobs, C.sizeof_ts_job))
	return &engine{c: c, jobs: unsafe.Slice(jobs, chunkJobs)}
}

// copyTemplate copies a template to C memory: attributes first, values behind
// them, one allocation.
func copyTemplate(t template) (*C.CK_ATTRIBUTE, C.CK_ULONG) {
	size := len(t) * C.sizeof_CK_ATTRIBUTE
	for _, a := range t {
		size += len(a.value)
	}
	block := C.calloc(1, C.size_t(size))
	list := unsafe.Slice((*C.CK_ATTRIBUTE)(block), len(t))
	values := unsafe.Slice((*byte)(unsafe.Add(block, len(t)*C.sizeof_CK_ATTRIBUTE)), size-len(t)*C.sizeof_CK_ATTRIBUTE)
	for i, a := range t {
		copy(values, a.value)
		list[i]._type = C.CK_ULONG(a.typ)
		list[i].pValue = unsafe.Pointer(&values[0])
		list[i].ulValueLen = C.CK_ULONG(len(a.value))
		values = values[len(a.value):]
	}
	return &list[0], C.CK_ULONG(len(t))
}

// close wipes and frees the memory; the engine must not be used after it.
func (e *engine) close() {
	C.ts_wipe(unsafe.Pointer(&e.jobs[0]), chunkJobs*C.sizeof_ts_job)
	C.free(unsafe.Pointer(&e.jobs[0]))
	C.free(unsafe.Pointer(e.c.deriving))
	C.free(unsafe.Pointer(e.c.computing))
	C.free(unsafe.Pointer(e.c))
	e.jobs, e.c = nil, nil
}

// use sets the session of the next crossings.
func (e *engine) use(s p11.SessionHandle) { e.c.session = C.CK_SESSION_HANDLE(s) }

// load copies a plan, already validated, to job i, which hashes nothing.
func (e *engine) load(i int, root rootHandles, p *cryptogram.Plan) {
	j := &e.jobs[i]
	j.root_deriving = C.CK_OBJECT_HANDLE(root.deriving)
	j.root_computing = C.CK_OBJECT_HANDLE(root.computing)
	j.root_left = C.CK_OBJECT_HANDLE(root.left)
	j.num_derivations, j.num_steps = C.uint8_t(p.NumDerivations), C.uint8_t(p.NumSteps)
	j.state = C.TS_JOB_NOT_RUN
	j.subject_bytes = 0
	for k := range p.Derivations[:p.NumDerivations] {
		from, to := &p.Derivations[k], &j.derivations[k]
		to.parent, to.purpose = C.uint8_t(from.Parent), C.uint8_t(from.Purpose)
		copy(bytesOf(&to.input[0], len(to.input)), from.Input[:])
	}
	for k := range p.Steps[:p.NumSteps] {
		from, to := &p.Steps[k], &j.steps[k]
		to.op, to.key, to.left = C.uint8_t(from.Op), C.uint8_t(from.Key), C.uint8_t(from.Left)
		to.requires = C.uint8_t(from.Requires)
		to.compare_bytes, to.produce_bytes = C.uint8_t(from.CompareBytes), C.uint8_t(from.ProduceBytes)
		to.data_bytes = C.uint16_t(from.DataBytes)
		copy(bytesOf(&to.expected[0], len(to.expected)), from.Expected[:])
		copy(bytesOf(&to.data[0], len(to.data)), from.Data[:from.DataBytes])
	}
}

// loadSubject lets job i, already loaded, also hash input.
func (e *engine) loadSubject(i int, under subjectHandles, input []byte) {
	j := &e.jobs[i]
	for k, h := range under {
		j.subject_keys[k] = C.CK_OBJECT_HANDLE(h)
	}
	j.subject_bytes = C.uint8_t(copy(bytesOf(&j.subject[0], len(j.subject)), input))
}

// loadHash lets job i hash input and nothing else.
func (e *engine) loadHash(i int, under subjectHandles, input []byte) {
	j := &e.jobs[i]
	j.num_derivations, j.num_steps, j.state = 0, 0, C.TS_JOB_NOT_RUN
	e.loadSubject(i, under, input)
}

func bytesOf(p *C.uint8_t, n int) []byte { return unsafe.Slice((*byte)(p), n) }

// hasID reports whether an object has this CKA_ID.
func (e *engine) hasID(h p11.ObjectHandle, id keys.ID) (bool, error) {
	copy(bytesOf(&e.c.id[0], len(e.c.id)), id[:])
	if rv := C.ts_has_id(e.c, C.CK_OBJECT_HANDLE(h)); rv != C.CKR_OK {
		return false, &callError{call: "C_GetAttributeValue", rv: p11.Error(rv)}
	}
	return e.c.id_same != 0, nil
}

// run executes the jobs from first up to n, stopping behind the first that
// fails, and gives the number of jobs that were run, the failed one included.
func (e *engine) run(first, n int) int {
	return int(C.ts_run(e.c, &e.jobs[0], C.size_t(first), C.size_t(n)))
}

// failed reports whether job i failed in the module, so that its session must
// not be used again. It is false for a plan that was refused before a call.
func (e *engine) failed(i int) bool {
	j := &e.jobs[i]
	return j.state == C.TS_JOB_FAILED && j.failed_call != C.TS_BAD_PLAN
}

// rootGone reports whether job i failed because its root key is not there.
func (e *engine) rootGone(i int) bool {
	j := &e.jobs[i]
	return j.state == C.TS_JOB_FAILED && j.failed_on_root != 0 && isGone(p11.Error(j.rv))
}

// subjectGone gives the subject key that job i failed for because it is not
// there, 0 for the current one and 1 for the previous one.
func (e *engine) subjectGone(i int) (which int, gone bool) {
	j := &e.jobs[i]
	gone = j.state == C.TS_JOB_FAILED && j.failed_on_subject != 0 && isGone(p11.Error(j.rv))
	return int(j.failed_on_subject) - 1, gone
}

// code is the return code that job i failed with, CKR_OK if none.
func (e *engine) code(i int) p11.Error { return p11.Error(e.jobs[i].rv) }

// take copies the outcome of job i and wipes what the plan produced.
func (e *engine) take(i int, o *cryptogram.Outcome) error {
	j := &e.jobs[i]
	*o = cryptogram.Outcome{}
	if err := e.done(i); err != nil {
		return err
	}
	for k := range o.Steps[:j.num_steps] {
		o.Steps[k].Status = cryptogram.StepStatus(j.status[k])
		result := bytesOf(&j.bytes[k][0], cryptogram.BlockBytes)
		copy(o.Steps[k].Bytes[:], result)
		clear(result)
	}
	return nil
}

// done is the error of job i if it was not done.
func (e *engine) done(i int) error {
	if e.jobs[i].state != C.TS_JOB_DONE {
		return e.failure(i)
	}
	return nil
}

// takeHashes copies the hashes of job i, which is done, and wipes them.
func (e *engine) takeHashes(i int) (hashes [len(subjectHandles{})][keys.SubjectBytes]byte) {
	j := &e.jobs[i]
	for k := range hashes {
		from := bytesOf(&j.hashes[k][0], keys.SubjectBytes)
		copy(hashes[k][:], from)
		clear(from)
	}
	return hashes
}

func (e *engine) failure(i int) error {
	j := &e.jobs[i]
	if j.state != C.TS_JOB_FAILED {
		return errNotRun
	}
	switch j.failed_call {
	case C.TS_CALL_DERIVE:
		return &callError{call: "C_DeriveKey", rv: p11.Error(j.rv)}
	case C.TS_CALL_ENCRYPT_INIT:
		return &callError{call: "C_EncryptInit", rv: p11.Error(j.rv)}
	case C.TS_CALL_ENCRYPT:
		return &callError{call: "C_Encrypt", rv: p11.Error(j.rv)}
	case C.TS_CALL_ENCRYPT_LENGTH:
		return fmt.Errorf("%w: C_Encrypt gave another length than it was given", ErrModule)
	case C.TS_CALL_DESTROY:
		return &callError{call: "C_DestroyObject", rv: p11.Error(j.rv)}
	case C.TS_CALL_SIGN_INIT:
		return &callError{call: "C_SignInit", rv: p11.Error(j.rv)}
	case C.TS_CALL_SIGN:
		return &callError{call: "C_Sign", rv: p11.Error(j.rv)}
	case C.TS_CALL_SIGN_LENGTH:
		return fmt.Errorf("%w: C_Sign gave another length than that of the hash", ErrModule)
	}
	return errBadPlan
}

// wallNS and cpuNS are the time spent inside run so far.
func (e *engine) wallNS() uint64 { return uint64(e.c.wall_ns) }
func (e *engine) cpuNS() uint64  { return uint64(e.c.cpu_ns) }
