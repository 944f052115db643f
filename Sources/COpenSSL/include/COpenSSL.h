#pragma once
// libcrypto for Swift: the headers that are used, and inline functions for what Swift cannot import (function-like macros)
// or must not split into several calls (one packet, one call).

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/dh.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/objects.h>
#include <openssl/ocsp.h>
#include <openssl/params.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "culvert_crl.h"
#include "culvert_gcm.h"
#include "culvert_issue.h"
#include "culvert_keys.h"
#include "culvert_tls.h"
#include "culvert_x509.h"

#ifndef MADV_DONTDUMP
#define MADV_DONTDUMP 16
#endif

/// Anonymous pages for secrets, left out of core dumps. Not touched yet, so that they can still be bound to a NUMA node.
/// Returns NULL when there is no memory or the pages cannot be left out of dumps.
static inline void *_Nullable culvert_secret_pages_map(size_t bytes) {
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return NULL;
    if (madvise(pages, bytes, MADV_DONTDUMP) != 0) {
        munmap(pages, bytes);
        return NULL;
    }
    return pages;
}

/// Locks the pages in memory. 1: locked; 0: RLIMIT_MEMLOCK does not allow it.
static inline int culvert_secret_pages_lock(const void *_Nonnull pages, size_t bytes) { return mlock(pages, bytes) == 0; }

/// Wipes and unmaps what culvert_secret_pages_map returned.
static inline void culvert_secret_pages_unmap(void *_Nonnull pages, size_t bytes) {
    OPENSSL_cleanse(pages, bytes);
    munmap(pages, bytes);
}

/// OpenSSL's secure heap; the macros that name the calling file are not importable.
static inline void *_Nullable culvert_secure_malloc(size_t bytes) { return CRYPTO_secure_malloc(bytes, "culvert", 0); }

static inline void culvert_secure_clear_free(void *_Nonnull memory, size_t bytes) {
    CRYPTO_secure_clear_free(memory, bytes, "culvert", 0);
}

/// Frees what libcrypto allocated for its caller, for example by EVP_PKEY_get1_encoded_public_key.
static inline void culvert_openssl_free(void *_Nullable memory) { CRYPTO_free(memory, "culvert", 0); }

/// A context of the fetched HMAC with its hash and a key set, or NULL. Made here because parameters keep pointers to their names,
/// which Swift's string literals do not outlive.
static inline EVP_MAC_CTX *_Nullable culvert_hmac_context(
    EVP_MAC *_Nonnull mac, const char *_Nonnull hash, const uint8_t *_Nonnull key, size_t keyLength) {
    EVP_MAC_CTX *context = EVP_MAC_CTX_new(mac);
    if (context == NULL) return NULL;
    OSSL_PARAM parameters[2] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)hash, 0), OSSL_PARAM_construct_end()};
    if (EVP_MAC_init(context, key, keyLength, parameters) != 1) {
        EVP_MAC_CTX_free(context);
        return NULL;
    }
    return context;
}

/// An ML-KEM key pair from its seed d || z (FIPS 203 §7.1), or NULL; the provider has it from OpenSSL 3.5 on, whose name of the
/// parameter older headers lack.
static inline EVP_PKEY *_Nullable culvert_mlkem_from_seed(
    const char *_Nonnull name, const uint8_t *_Nonnull seed, size_t seedLength) {
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, name, NULL);
    if (context == NULL) return NULL;
    OSSL_PARAM parameters[2] = {
        OSSL_PARAM_construct_octet_string("seed", (void *)seed, seedLength), OSSL_PARAM_construct_end()};
    EVP_PKEY *key = NULL;
    if (EVP_PKEY_fromdata_init(context) != 1 || EVP_PKEY_fromdata(context, &key, EVP_PKEY_KEYPAIR, parameters) != 1) key = NULL;
    EVP_PKEY_CTX_free(context);
    return key;
}
