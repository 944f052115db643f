#pragma once
// AES-GCM for packets: one call per packet, in place, nothing allocated. The key is set once per context; a packet sets only
// its 12-octet nonce. Contexts belong to one thread.

#include <openssl/evp.h>
#include <stdint.h>

/// Encrypts `length` octets at `data` in place and writes the 16-octet tag. 1: done, 0: the library failed.
static inline int culvert_gcm_seal(
    EVP_CIPHER_CTX *_Nonnull context, const uint8_t *_Nonnull nonce, const uint8_t *_Nonnull aad, int aadLength,
    uint8_t *_Nonnull data, int length, uint8_t *_Nonnull tag) {
    int written;
    return EVP_EncryptInit_ex(context, NULL, NULL, NULL, nonce) == 1 &&
           EVP_EncryptUpdate(context, NULL, &written, aad, aadLength) == 1 &&
           EVP_EncryptUpdate(context, data, &written, data, length) == 1 &&
           EVP_EncryptFinal_ex(context, data, &written) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, 16, tag) == 1;
}

/// Decrypts in place and verifies the 16-octet tag. 1: authentic; 0: not, and `data` is worthless.
static inline int culvert_gcm_open(
    EVP_CIPHER_CTX *_Nonnull context, const uint8_t *_Nonnull nonce, const uint8_t *_Nonnull aad, int aadLength,
    uint8_t *_Nonnull data, int length, uint8_t *_Nonnull tag) {
    int written;
    return EVP_DecryptInit_ex(context, NULL, NULL, NULL, nonce) == 1 &&
           EVP_DecryptUpdate(context, NULL, &written, aad, aadLength) == 1 &&
           EVP_DecryptUpdate(context, data, &written, data, length) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, 16, tag) == 1 &&
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
