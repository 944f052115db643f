#pragma once
// Keys that sign: what Swift cannot import from libcrypto's headers (macros of macros) and two questions about a key.

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdint.h>

static const int culvert_pkey_rsa_pss = EVP_PKEY_RSA_PSS;
static const int culvert_pkey_ec = EVP_PKEY_EC;
static const int culvert_pkey_ed25519 = EVP_PKEY_ED25519;
static const int culvert_pkey_ed448 = EVP_PKEY_ED448;

/// The octets that were written to a memory BIO; they stay the BIO's.
static inline long culvert_bio_memory(BIO *_Nonnull bio, char *_Nullable *_Nonnull start) {
    long count = BIO_get_mem_data(bio, start);
    return count > 0 ? count : 0;
}

/// The error says that a password was asked for.
static inline int culvert_is_password_error(unsigned long code) {
    return ERR_GET_LIB(code) == ERR_LIB_PEM &&
           (ERR_GET_REASON(code) == PEM_R_BAD_PASSWORD_READ || ERR_GET_REASON(code) == PEM_R_BAD_DECRYPT);
}

/// The public exponent is odd and not 1: with 1 anybody signs.
static inline int culvert_rsa_exponent_is_sound(const EVP_PKEY *_Nonnull key) {
    BIGNUM *exponent = NULL;
    if (EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &exponent) != 1) return 0;
    int sound = BN_is_odd(exponent) && !BN_is_one(exponent);
    BN_free(exponent);
    return sound;
}

/// The curve was given by its numbers instead of its name. RFC 5480 §2.1.1: only namedCurve may be used.
static inline int culvert_ec_is_explicit(const EVP_PKEY *_Nonnull key) {
    int isExplicit = 0;
    if (EVP_PKEY_get_int_param(key, OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS, &isExplicit) != 1) return 0;
    return isExplicit;
}
