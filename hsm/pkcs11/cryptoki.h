/*
 * The declarations of PKCS#11 v2.40 that one plan needs. Facts (order of
 * CK_FUNCTION_LIST, types, numbers) are those of the OASIS header files
 * pkcs11f.h and pkcs11t.h, as carried by miekg/pkcs11 v1.1.2. Only what plan.c
 * and the proxy of the tests call has a prototype; the other entries are there
 * to keep the order.
 *
 * Structures have the platform's natural alignment, as modules on Linux are
 * built; this file is for LP64 (amd64, arm64), where CK_ULONG is 64 bits.
 */
#ifndef TAPSEAL_CRYPTOKI_H
#define TAPSEAL_CRYPTOKI_H

typedef unsigned char CK_BYTE;
typedef unsigned long CK_ULONG;
typedef CK_ULONG CK_RV;
typedef CK_ULONG CK_SESSION_HANDLE;
typedef CK_ULONG CK_OBJECT_HANDLE;

_Static_assert(sizeof(CK_ULONG) == 8 && sizeof(void *) == 8, "PKCS#11 declarations are for LP64");

#define CKR_OK 0UL
#define CKU_USER 1UL
#define CK_INVALID_HANDLE 0UL
#define CKR_BUFFER_TOO_SMALL 0x150UL
#define CKA_ID 0x102UL
#define CKM_DES3_ECB 0x132UL
#define CKM_DES3_CBC 0x133UL
#define CKM_SHA256_HMAC 0x251UL
#define CKM_DES3_ECB_ENCRYPT_DATA 0x1102UL

typedef struct {
	CK_BYTE major, minor;
} CK_VERSION;

typedef struct {
	CK_ULONG type;
	void *pValue;
	CK_ULONG ulValueLen;
} CK_ATTRIBUTE;

typedef struct {
	CK_ULONG mechanism;
	void *pParameter;
	CK_ULONG ulParameterLen;
} CK_MECHANISM;

/* Parameter of the *_ECB_ENCRYPT_DATA mechanisms. */
typedef struct {
	CK_BYTE *pData;
	CK_ULONG ulLen;
} CK_KEY_DERIVATION_STRING_DATA;

typedef struct {
	CK_VERSION version;
	void *C_Initialize, *C_Finalize, *C_GetInfo, *C_GetFunctionList;
	void *C_GetSlotList, *C_GetSlotInfo, *C_GetTokenInfo, *C_GetMechanismList;
	void *C_GetMechanismInfo, *C_InitToken, *C_InitPIN, *C_SetPIN;
	void *C_OpenSession, *C_CloseSession, *C_CloseAllSessions, *C_GetSessionInfo;
	void *C_GetOperationState, *C_SetOperationState;
	CK_RV (*C_Login)(CK_SESSION_HANDLE, CK_ULONG, CK_BYTE *, CK_ULONG);
	void *C_Logout, *C_CreateObject;
	CK_RV (*C_CopyObject)(CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *);
	CK_RV (*C_DestroyObject)(CK_SESSION_HANDLE, CK_OBJECT_HANDLE);
	void *C_GetObjectSize;
	CK_RV (*C_GetAttributeValue)(CK_SESSION_HANDLE, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG);
	void *C_SetAttributeValue;
	CK_RV (*C_FindObjectsInit)(CK_SESSION_HANDLE, CK_ATTRIBUTE *, CK_ULONG);
	void *C_FindObjects, *C_FindObjectsFinal;
	CK_RV (*C_EncryptInit)(CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE);
	CK_RV (*C_Encrypt)(CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *);
	void *C_EncryptUpdate, *C_EncryptFinal, *C_DecryptInit, *C_Decrypt;
	void *C_DecryptUpdate, *C_DecryptFinal, *C_DigestInit, *C_Digest;
	void *C_DigestUpdate, *C_DigestKey, *C_DigestFinal;
	CK_RV (*C_SignInit)(CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE);
	CK_RV (*C_Sign)(CK_SESSION_HANDLE, CK_BYTE *, CK_ULONG, CK_BYTE *, CK_ULONG *);
	void *C_SignUpdate, *C_SignFinal, *C_SignRecoverInit;
	void *C_SignRecover, *C_VerifyInit, *C_Verify, *C_VerifyUpdate;
	void *C_VerifyFinal, *C_VerifyRecoverInit, *C_VerifyRecover, *C_DigestEncryptUpdate;
	void *C_DecryptDigestUpdate, *C_SignEncryptUpdate, *C_DecryptVerifyUpdate, *C_GenerateKey;
	void *C_GenerateKeyPair, *C_WrapKey, *C_UnwrapKey;
	CK_RV (*C_DeriveKey)(CK_SESSION_HANDLE, CK_MECHANISM *, CK_OBJECT_HANDLE, CK_ATTRIBUTE *, CK_ULONG, CK_OBJECT_HANDLE *);
	void *C_SeedRandom, *C_GenerateRandom, *C_GetFunctionStatus, *C_CancelFunction;
	void *C_WaitForSlotEvent;
} CK_FUNCTION_LIST;

#endif
