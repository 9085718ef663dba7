/*
 * One crossing: a chunk of plans, executed on one session, each followed by the
 * hash of its subject. The structures mirror cryptogram.Plan and live in C memory, so that nothing here points
 * into memory of the Go runtime.
 */
#ifndef TAPSEAL_PLAN_H
#define TAPSEAL_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "cryptoki.h"

enum {
	TS_MAX_DERIVATIONS = 8, /* cryptogram.MaxDerivations */
	TS_MAX_STEPS = 4,       /* cryptogram.MaxSteps */
	TS_MAX_STEP_BYTES = 256, /* cryptogram.MaxStepBytes */
	TS_BLOCK_BYTES = 8,
	TS_ID_BYTES = 16, /* keys.ID */
	TS_MAX_SUBJECT_BYTES = 40, /* keys.MaxSubjectInputBytes */
	TS_SUBJECT_BYTES = 32, /* keys.SubjectBytes: HMAC-SHA-256 */
	TS_SUBJECTS = 2 /* under the current and the previous key */
};

/* cryptogram.Purpose */
enum { TS_FOR_DERIVING = 1, TS_FOR_COMPUTING = 2 };
/* cryptogram.Op */
enum { TS_RETAIL_MAC = 1, TS_ENCRYPT_BLOCK = 2 };
/* cryptogram.StepStatus */
enum { TS_NOT_RUN = 0, TS_MATCHED = 1, TS_MISMATCHED = 2, TS_PRODUCED = 3 };
/* What became of a job. */
enum { TS_JOB_NOT_RUN = 0, TS_JOB_DONE = 1, TS_JOB_FAILED = 2 };
/* Which call failed; TS_BAD_PLAN is ours, and rv is 0 then. */
enum {
	TS_CALL_NONE = 0,
	TS_CALL_DERIVE = 1,
	TS_CALL_ENCRYPT_INIT = 2,
	TS_CALL_ENCRYPT = 3,
	TS_CALL_ENCRYPT_LENGTH = 4, /* CKR_OK, but not as many bytes as went in */
	TS_CALL_DESTROY = 5,
	TS_BAD_PLAN = 6,
	TS_CALL_SIGN_INIT = 7,
	TS_CALL_SIGN = 8,
	TS_CALL_SIGN_LENGTH = 9 /* CKR_OK, but not the length of the hash */
};

typedef struct {
	uint8_t parent;
	uint8_t purpose;
	uint8_t input[16];
} ts_derivation;

typedef struct {
	uint8_t op;
	uint8_t key;
	uint8_t left;
	uint8_t requires;
	uint8_t compare_bytes;
	uint8_t produce_bytes;
	uint16_t data_bytes;
	uint8_t expected[TS_BLOCK_BYTES];
	uint8_t data[TS_MAX_STEP_BYTES];
} ts_step;

typedef struct {
	/* The three faces of the root key; only the scratch role has the last two. */
	CK_OBJECT_HANDLE root_deriving;
	CK_OBJECT_HANDLE root_computing;
	CK_OBJECT_HANDLE root_left; /* KL||KL */
	uint8_t num_derivations;
	uint8_t num_steps;
	ts_derivation derivations[TS_MAX_DERIVATIONS];
	ts_step steps[TS_MAX_STEPS];
	/* Hashed behind the steps under each key that there is; 0 bytes: nothing is. */
	CK_OBJECT_HANDLE subject_keys[TS_SUBJECTS];
	uint8_t subject_bytes;
	uint8_t subject[TS_MAX_SUBJECT_BYTES];

	/* Results. */
	uint8_t state;
	uint8_t failed_call;
	uint8_t failed_on_root;    /* the failing call used the root key itself */
	uint8_t failed_on_subject; /* the failing call used this subject key, counted from 1 */
	CK_RV rv;
	uint8_t status[TS_MAX_STEPS];
	uint8_t bytes[TS_MAX_STEPS][TS_BLOCK_BYTES];
	uint8_t hashes[TS_SUBJECTS][TS_SUBJECT_BYTES];
} ts_job;

/* What a crossing works with. Owned by one Go engine, used by one thread at a time. */
typedef struct {
	const CK_FUNCTION_LIST *functions;
	CK_SESSION_HANDLE session;
	CK_ATTRIBUTE *deriving; /* template of a ForDeriving key */
	CK_ULONG num_deriving;
	CK_ATTRIBUTE *computing; /* template of a ForComputing key */
	CK_ULONG num_computing;
	int measure_cpu;

	/* For ts_has_id. */
	uint8_t id[TS_ID_BYTES]; /* the one that is expected */
	int id_same;

	/* Time inside ts_run, added up. */
	uint64_t wall_ns;
	uint64_t cpu_ns; /* of the calling thread; only with measure_cpu */
} ts_engine;

/*
 * Load the module and get its function list. dlopen of a path that is loaded
 * already gives the same module, so sessions opened elsewhere are valid here.
 */
const CK_FUNCTION_LIST *ts_functions(const char *path);

/* Log in without a copy of the PIN in memory of the Go runtime. */
CK_RV ts_login(const CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, CK_ULONG user, CK_BYTE *pin, CK_ULONG pin_bytes);

/*
 * Sets id_same: 1 if the object's CKA_ID is id, 0 if it is another one. One
 * call into the module, where reading an attribute the general way takes two.
 */
CK_RV ts_has_id(ts_engine *e, CK_OBJECT_HANDLE object);

/*
 * Run jobs[first] to jobs[n-1], up to the first that fails: after an error
 * the session must not be used again. Gives the number of jobs that were run,
 * the failed one included. Every derived object is destroyed before it returns.
 */
size_t ts_run(ts_engine *e, ts_job *jobs, size_t first, size_t n);

/* Overwrite memory in a way that the compiler must keep. */
void ts_wipe(void *p, size_t n);

#endif
