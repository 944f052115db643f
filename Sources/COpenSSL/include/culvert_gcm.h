#pragma once
// AES-GCM for packets: one call per packet, in place, nothing allocated. The key is set once per context; a packet sets only
// its 12-octet nonce. Contexts belong to one thread.

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdint.h>

// EVP_…Init_ex2 and parameters built here take 4 to 9 % fewer clocks per packet than EVP_…Init_ex and EVP_CIPHER_CTX_ctrl, which
// look for engines and build the same parameters; EVP_Cipher in place of …Update and …Final gained nothing (OpenSSL 3.0, Zen 4).

/// Encrypts `length` octets at `data` in place and writes the 16-octet tag. 1: done, 0: the library failed.
static inline int culvert_gcm_seal(
    EVP_CIPHER_CTX *_Nonnull context, const uint8_t *_Nonnull nonce, const uint8_t *_Nonnull aad, int aadLength,
    uint8_t *_Nonnull data, int length, uint8_t *_Nonnull tag) {
    OSSL_PARAM parameters[2] = {{OSSL_CIPHER_PARAM_AEAD_TAG, OSSL_PARAM_OCTET_STRING, tag, 16, 0}, {0}};
    int written;
    return EVP_EncryptInit_ex2(context, NULL, NULL, nonce, NULL) == 1 &&
           EVP_EncryptUpdate(context, NULL, &written, aad, aadLength) == 1 &&
           EVP_EncryptUpdate(context, data, &written, data, length) == 1 &&
           EVP_EncryptFinal_ex(context, data, &written) == 1 &&
           EVP_CIPHER_CTX_get_params(context, parameters) == 1;
}

/// Decrypts in place and verifies the 16-octet tag. 1: authentic; 0: not, and `data` is worthless.
static inline int culvert_gcm_open(
    EVP_CIPHER_CTX *_Nonnull context, const uint8_t *_Nonnull nonce, const uint8_t *_Nonnull aad, int aadLength,
    uint8_t *_Nonnull data, int length, uint8_t *_Nonnull tag) {
    OSSL_PARAM parameters[2] = {{OSSL_CIPHER_PARAM_AEAD_TAG, OSSL_PARAM_OCTET_STRING, tag, 16, 0}, {0}};
    int written;
    return EVP_DecryptInit_ex2(context, NULL, NULL, nonce, NULL) == 1 &&
           EVP_DecryptUpdate(context, NULL, &written, aad, aadLength) == 1 &&
           EVP_DecryptUpdate(context, data, &written, data, length) == 1 &&
           EVP_CIPHER_CTX_set_params(context, parameters) == 1 &&
           EVP_DecryptFinal_ex(context, data, &written) == 1;
}

/// A keyed context, or NULL. `cipher` is fetched once per process.
static inline EVP_CIPHER_CTX *_Nullable culvert_gcm_context(
    const EVP_CIPHER *_Nonnull cipher, const uint8_t *_Nonnull key, int encrypt) {
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (context == NULL) return NULL;
    if (EVP_CipherInit_ex(context, cipher, NULL, key, NULL, encrypt) != 1) {
        EVP_CIPHER_CTX_free(context);
        return NULL;
    }
    return context;
}
