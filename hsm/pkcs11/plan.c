/* explicit_bzero and clock_gettime */
#define _DEFAULT_SOURCE
#include "plan.h"

#include <dlfcn.h>
#include <string.h>
#include <time.h>

typedef CK_RV (*get_function_list)(CK_FUNCTION_LIST **);

const CK_FUNCTION_LIST *ts_functions(const char *path)
{
	CK_FUNCTION_LIST *list = NULL;
	get_function_list get;
	void *module = dlopen(path, RTLD_LAZY);

	if (module == NULL)
		return NULL;
	*(void **)&get = dlsym(module, "C_GetFunctionList");
	if (get == NULL || get(&list) != CKR_OK)
		return NULL;
	return list;
}

CK_RV ts_login(const CK_FUNCTION_LIST *f, CK_SESSION_HANDLE session, CK_ULONG user, CK_BYTE *pin, CK_ULONG pin_bytes)
{
	return f->C_Login(session, user, pin, pin_bytes);
}

void ts_wipe(void *p, size_t n) { explicit_bzero(p, n); }

static uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	if (clock_gettime(clock, &t) != 0)
		return 0;
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int fail(ts_job *j, uint8_t call, CK_RV rv)
{
	j->state = TS_JOB_FAILED;
	j->failed_call = call;
	j->rv = rv;
	return 0;
}

/* node 0 is the root, which may be missing in the face that is asked for. */
static CK_OBJECT_HANDLE node(const CK_OBJECT_HANDLE *made, CK_OBJECT_HANDLE root, uint8_t n)
{
	return n == 0 ? root : made[n - 1];
}

static int derive(const ts_engine *e, ts_job *j, CK_OBJECT_HANDLE *made, unsigned i)
{
	ts_derivation *d = &j->derivations[i];
	CK_KEY_DERIVATION_STRING_DATA data = {d->input, sizeof d->input};
	CK_MECHANISM mechanism = {CKM_DES3_ECB_ENCRYPT_DATA, &data, sizeof data};
	CK_ATTRIBUTE *template = e->computing;
	CK_ULONG attributes = e->num_computing;
	CK_RV rv;

	if (d->parent > i)
		return fail(j, TS_BAD_PLAN, 0);
	if (d->purpose == TS_FOR_DERIVING) {
		template = e->deriving;
		attributes = e->num_deriving;
	} else if (d->purpose != TS_FOR_COMPUTING) {
		return fail(j, TS_BAD_PLAN, 0);
	}
	rv = e->functions->C_DeriveKey(e->session, &mechanism, node(made, j->root_deriving, d->parent),
				       template, attributes, &made[i]);
	if (rv != CKR_OK) {
		made[i] = CK_INVALID_HANDLE;
		j->failed_on_root = d->parent == 0;
		return fail(j, TS_CALL_DERIVE, rv);
	}
	return 1;
}

/* Encipher n bytes of in to exactly n bytes of out, which has room for a block more. */
static int encrypt(const ts_engine *e, ts_job *j, CK_ULONG type, CK_BYTE *iv, CK_OBJECT_HANDLE key,
		   CK_BYTE *in, CK_ULONG n, CK_BYTE *out)
{
	CK_MECHANISM mechanism = {type, iv, iv == NULL ? 0 : TS_BLOCK_BYTES};
	CK_ULONG got = n + TS_BLOCK_BYTES;
	CK_RV rv = e->functions->C_EncryptInit(e->session, &mechanism, key);

	if (rv != CKR_OK)
		return fail(j, TS_CALL_ENCRYPT_INIT, rv);
	rv = e->functions->C_Encrypt(e->session, in, n, out, &got);
	if (rv != CKR_OK)
		return fail(j, TS_CALL_ENCRYPT, rv);
	if (got != n)
		return fail(j, TS_CALL_ENCRYPT_LENGTH, CKR_OK);
	return 1;
}

/*
 * ISO/IEC 9797-1 MAC algorithm 3 over whole blocks. Two-key TDES under KL||KL
 * is single DES, which tokens do not offer: all blocks but the last go through
 * it in CBC mode, the last one through the full key.
 */
static int retail_mac(const ts_engine *e, ts_job *j, CK_OBJECT_HANDLE key, CK_OBJECT_HANDLE left,
		      ts_step *s, CK_BYTE out[2 * TS_BLOCK_BYTES])
{
	CK_BYTE iv[TS_BLOCK_BYTES] = {0};
	CK_BYTE chain[TS_MAX_STEP_BYTES + TS_BLOCK_BYTES];
	CK_BYTE last[TS_BLOCK_BYTES];
	CK_ULONG head = s->data_bytes - TS_BLOCK_BYTES;
	int ok = 1;

	memcpy(last, s->data + head, sizeof last);
	if (head > 0) {
		ok = encrypt(e, j, CKM_DES3_CBC, iv, left, s->data, head, chain);
		if (ok)
			for (unsigned i = 0; i < sizeof last; i++)
				last[i] ^= chain[head - TS_BLOCK_BYTES + i];
	}
	if (ok)
		ok = encrypt(e, j, CKM_DES3_ECB, NULL, key, last, sizeof last, out);
	/* Chaining values of a right MAC are as good as the MAC. */
	explicit_bzero(chain, sizeof chain);
	explicit_bzero(last, sizeof last);
	return ok;
}

/* Compare in a time that does not depend on where the first difference is. */
static int equal(const CK_BYTE *a, const CK_BYTE *b, unsigned n)
{
	volatile CK_BYTE difference = 0;

	for (unsigned i = 0; i < n; i++)
		difference |= a[i] ^ b[i];
	return difference == 0;
}

/*
 * The plan was validated in Go; what would read outside a buffer, or reveal a
 * value that must not leave, is checked once more, where it would happen.
 */
static int step_is_sound(const ts_job *j, unsigned i)
{
	const ts_step *s = &j->steps[i];

	if (s->key > j->num_derivations || s->left > j->num_derivations || s->requires > i)
		return 0;
	if ((s->compare_bytes == 0) == (s->produce_bytes == 0))
		return 0;
	if (s->compare_bytes > TS_BLOCK_BYTES || s->produce_bytes > TS_BLOCK_BYTES)
		return 0;
	if (s->data_bytes == 0 || s->data_bytes > TS_MAX_STEP_BYTES || s->data_bytes % TS_BLOCK_BYTES != 0)
		return 0;
	return s->op == TS_RETAIL_MAC || (s->op == TS_ENCRYPT_BLOCK && s->data_bytes == TS_BLOCK_BYTES);
}

static int run_step(const ts_engine *e, ts_job *j, const CK_OBJECT_HANDLE *made, unsigned i)
{
	ts_step *s = &j->steps[i];
	CK_BYTE mac[2 * TS_BLOCK_BYTES];
	CK_OBJECT_HANDLE key;
	int ok;

	if (!step_is_sound(j, i))
		return fail(j, TS_BAD_PLAN, 0);
	/* The gate: nothing is computed that a failed comparison forbids. */
	if (s->requires > 0 && j->status[s->requires - 1] != TS_MATCHED)
		return 1;
	key = node(made, j->root_computing, s->key);
	if (s->op == TS_RETAIL_MAC)
		ok = retail_mac(e, j, key, node(made, j->root_left, s->left), s, mac);
	else
		ok = encrypt(e, j, CKM_DES3_ECB, NULL, key, s->data, TS_BLOCK_BYTES, mac);
	if (ok && s->compare_bytes > 0) {
		j->status[i] = equal(mac, s->expected, s->compare_bytes) ? TS_MATCHED : TS_MISMATCHED;
	} else if (ok) {
		memcpy(j->bytes[i], mac, s->produce_bytes);
		j->status[i] = TS_PRODUCED;
	}
	explicit_bzero(mac, sizeof mac);
	return ok;
}

/*
 * Hash the subject under the current key and, during a rotation, the previous
 * one. This comes behind the comparison: a plan that fails costs no hash.
 */
static int hash_subject(const ts_engine *e, ts_job *j)
{
	if (j->subject_bytes > TS_MAX_SUBJECT_BYTES)
		return fail(j, TS_BAD_PLAN, 0);
	if (j->subject_bytes == 0)
		return 1;
	for (unsigned i = 0; i < TS_SUBJECTS; i++) {
		CK_MECHANISM mechanism = {CKM_SHA256_HMAC, NULL, 0};
		CK_ULONG got = TS_SUBJECT_BYTES;
		CK_RV rv;

		if (j->subject_keys[i] == CK_INVALID_HANDLE)
			continue;
		j->failed_on_subject = (uint8_t)(i + 1);
		rv = e->functions->C_SignInit(e->session, &mechanism, j->subject_keys[i]);
		if (rv != CKR_OK)
			return fail(j, TS_CALL_SIGN_INIT, rv);
		rv = e->functions->C_Sign(e->session, j->subject, j->subject_bytes, j->hashes[i], &got);
		if (rv != CKR_OK)
			return fail(j, TS_CALL_SIGN, rv);
		if (got != TS_SUBJECT_BYTES)
			return fail(j, TS_CALL_SIGN_LENGTH, CKR_OK);
		j->failed_on_subject = 0;
	}
	return 1;
}

/* Destroy what was derived, in every case: an object that stays is a readable child for whoever comes next. */
static int destroy(const ts_engine *e, ts_job *j, const CK_OBJECT_HANDLE *made)
{
	int ok = 1;

	for (unsigned i = TS_MAX_DERIVATIONS; i-- > 0;) {
		CK_RV rv;

		if (made[i] == CK_INVALID_HANDLE)
			continue;
		rv = e->functions->C_DestroyObject(e->session, made[i]);
		if (rv != CKR_OK && ok && j->state != TS_JOB_FAILED)
			ok = fail(j, TS_CALL_DESTROY, rv);
	}
	return ok;
}

static int run_job(const ts_engine *e, ts_job *j)
{
	CK_OBJECT_HANDLE made[TS_MAX_DERIVATIONS] = {CK_INVALID_HANDLE};
	int ok = 1;

	j->state = TS_JOB_NOT_RUN;
	j->failed_call = TS_CALL_NONE;
	j->failed_on_root = 0;
	j->failed_on_subject = 0;
	j->rv = CKR_OK;
	memset(j->status, TS_NOT_RUN, sizeof j->status);
	memset(j->bytes, 0, sizeof j->bytes);
	memset(j->hashes, 0, sizeof j->hashes);
	if (j->num_derivations > TS_MAX_DERIVATIONS || j->num_steps > TS_MAX_STEPS)
		return fail(j, TS_BAD_PLAN, 0);
	for (unsigned i = 0; ok && i < j->num_derivations; i++)
		ok = derive(e, j, made, i);
	for (unsigned i = 0; ok && i < j->num_steps; i++)
		ok = run_step(e, j, made, i);
	ok = ok && hash_subject(e, j);
	ok = destroy(e, j, made) && ok;
	if (ok) {
		j->state = TS_JOB_DONE;
		return 1;
	}
	/* No partial result: a job that failed says nothing about its cryptogram. */
	memset(j->status, TS_NOT_RUN, sizeof j->status);
	explicit_bzero(j->bytes, sizeof j->bytes);
	explicit_bzero(j->hashes, sizeof j->hashes);
	return 0;
}

CK_RV ts_has_id(ts_engine *e, CK_OBJECT_HANDLE object)
{
	CK_BYTE id[TS_ID_BYTES];
	CK_ATTRIBUTE attribute = {CKA_ID, id, sizeof id};
	CK_RV rv = e->functions->C_GetAttributeValue(e->session, object, &attribute, 1);

	e->id_same = rv == CKR_OK && attribute.ulValueLen == sizeof id && memcmp(id, e->id, sizeof id) == 0;
	return rv == CKR_BUFFER_TOO_SMALL ? CKR_OK : rv; /* a longer one is another one */
}

size_t ts_run(ts_engine *e, ts_job *jobs, size_t first, size_t n)
{
	uint64_t wall = now_ns(CLOCK_MONOTONIC);
	uint64_t cpu = e->measure_cpu ? now_ns(CLOCK_THREAD_CPUTIME_ID) : 0;
	size_t i = first;

	while (i < n && run_job(e, &jobs[i++]))
		;
	e->wall_ns += now_ns(CLOCK_MONOTONIC) - wall;
	if (e->measure_cpu)
		e->cpu_ns += now_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
	return i - first;
}
