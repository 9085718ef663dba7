/*
 * A PKCS#11 module in front of a real one, for what the real one cannot be
 * made to show: it counts logins and fails a chosen call. Everything else goes
 * to the real module.
 *
 *   PROXY_MODULE  path of the real module
 *   PROXY_LOG     file that gets one line for each C_Login
 *   PROXY_PAUSE   milliseconds between that line and the login
 *   PROXY_FAIL    "CALL N CODE": the N-th such call from now answers CODE
 *                 (hexadecimal) without being made; CODE 0 makes C_Encrypt
 *                 and C_Sign answer CKR_OK with a length one byte short
 */
#define _DEFAULT_SOURCE
#include "../cryptoki.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static CK_FUNCTION_LIST *real, proxy;
static char spec[64];
static unsigned long seen;

/* Whether this call is the one to fail, and with what. */
static int fails(const char *name, CK_RV *rv)
{
	const char *now = getenv("PROXY_FAIL");
	char call[32];
	unsigned long n, code;

	if (now == NULL || sscanf(now, "%31s %lu %lx", call, &n, &code) != 3)
		return 0;
	if (strcmp(now, spec) != 0) {
		snprintf(spec, sizeof spec, "%s", now);
		seen = 0;
	}
	if (strcmp(call, name) != 0 || ++seen != n)
		return 0;
	*rv = code;
	return 1;
}

static CK_RV login(CK_SESSION_HANDLE s, CK_ULONG user, CK_BYTE *pin, CK_ULONG n)
{
	FILE *log = fopen(getenv("PROXY_LOG"), "a");
	const char *pause = getenv("PROXY_PAUSE");
	CK_RV rv;

	if (log != NULL) {
		fputs("C_Login\n", log);
		fclose(log);
	}
	if (pause != NULL)
		usleep(1000 * (useconds_t)atoi(pause));
	return fails("C_Login", &rv) ? rv : real->C_Login(s, user, pin, n);
}

static CK_RV derive(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE k, CK_ATTRIBUTE *a, CK_ULONG n,
		    CK_OBJECT_HANDLE *out)
{
	CK_RV rv;

	return fails("C_DeriveKey", &rv) ? rv : real->C_DeriveKey(s, m, k, a, n, out);
}

static CK_RV copy(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *a, CK_ULONG n, CK_OBJECT_HANDLE *out)
{
	CK_RV rv;

	return fails("C_CopyObject", &rv) ? rv : real->C_CopyObject(s, o, a, n, out);
}

static CK_RV get_attribute(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE *a, CK_ULONG n)
{
	CK_RV rv;

	return fails("C_GetAttributeValue", &rv) ? rv : real->C_GetAttributeValue(s, o, a, n);
}

static CK_RV find_init(CK_SESSION_HANDLE s, CK_ATTRIBUTE *a, CK_ULONG n)
{
	CK_RV rv;

	return fails("C_FindObjectsInit", &rv) ? rv : real->C_FindObjectsInit(s, a, n);
}

static CK_RV encrypt_init(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE k)
{
	CK_RV rv;

	return fails("C_EncryptInit", &rv) ? rv : real->C_EncryptInit(s, m, k);
}

static CK_RV encrypt(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_BYTE *out, CK_ULONG *got)
{
	CK_RV rv, answer;
	int fail = fails("C_Encrypt", &rv);

	if (fail && rv != CKR_OK)
		return rv;
	answer = real->C_Encrypt(s, in, n, out, got);
	if (fail)
		--*got;
	return answer;
}

static CK_RV sign_init(CK_SESSION_HANDLE s, CK_MECHANISM *m, CK_OBJECT_HANDLE k)
{
	CK_RV rv;

	return fails("C_SignInit", &rv) ? rv : real->C_SignInit(s, m, k);
}

static CK_RV sign(CK_SESSION_HANDLE s, CK_BYTE *in, CK_ULONG n, CK_BYTE *out, CK_ULONG *got)
{
	CK_RV rv, answer;
	int fail = fails("C_Sign", &rv);

	if (fail && rv != CKR_OK)
		return rv;
	answer = real->C_Sign(s, in, n, out, got);
	if (fail)
		--*got;
	return answer;
}

static CK_RV destroy(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o)
{
	CK_RV rv;

	return fails("C_DestroyObject", &rv) ? rv : real->C_DestroyObject(s, o);
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **out)
{
	CK_RV (*get)(CK_FUNCTION_LIST **);
	void *module = dlopen(getenv("PROXY_MODULE"), RTLD_NOW | RTLD_LOCAL);

	if (module == NULL)
		return 5;
	*(void **)&get = dlsym(module, "C_GetFunctionList");
	if (get == NULL || get(&real) != CKR_OK)
		return 5;
	proxy = *real;
	proxy.C_Login = login;
	proxy.C_DeriveKey = derive;
	proxy.C_CopyObject = copy;
	proxy.C_GetAttributeValue = get_attribute;
	proxy.C_FindObjectsInit = find_init;
	proxy.C_EncryptInit = encrypt_init;
	proxy.C_Encrypt = encrypt;
	proxy.C_SignInit = sign_init;
	proxy.C_Sign = sign;
	proxy.C_DestroyObject = destroy;
	*out = &proxy;
	return CKR_OK;
}
