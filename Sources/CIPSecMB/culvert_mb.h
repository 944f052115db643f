#pragma once
// Intel multi-buffer crypto, AES-GCM only: its own functions are reached through macros that Swift cannot import.

#include <intel-ipsec-mb.h>
#include <stdint.h>

/// Octets and alignment of an expanded key.
enum { CULVERT_MB_KEY_BYTES = sizeof(struct gcm_key_data), CULVERT_MB_KEY_ALIGNMENT = 64 };

/// A manager: the functions that suit this processor. One per thread; NULL when there is no memory or no suitable function.
static inline IMB_MGR *culvert_mb_manager(void) {
    IMB_MGR *manager = alloc_mb_mgr(0);
    if (manager == NULL) return NULL;
    init_mb_mgr_auto(manager, NULL);
    if (imb_get_errno(manager) == 0) return manager;
    free_mb_mgr(manager);
    return NULL;
}

static inline void culvert_mb_manager_free(IMB_MGR *manager) { free_mb_mgr(manager); }

/// Expands a 16- or 32-octet key.
static inline void culvert_mb_expand(IMB_MGR *manager, const void *key, int is256, struct gcm_key_data *expanded) {
    if (is256) IMB_AES256_GCM_PRE(manager, key, expanded);
    else IMB_AES128_GCM_PRE(manager, key, expanded);
}

/// Encrypts `length` octets at `data` in place and writes the 16-octet tag.
static inline void culvert_mb_seal(
    IMB_MGR *manager, const struct gcm_key_data *key, int is256, const uint8_t *nonce, const uint8_t *aad, uint64_t aadLength,
    uint8_t *data, uint64_t length, uint8_t *tag) {
    struct gcm_context_data context;
    if (is256) IMB_AES256_GCM_ENC(manager, key, &context, data, data, length, nonce, aad, aadLength, tag, 16);
    else IMB_AES128_GCM_ENC(manager, key, &context, data, data, length, nonce, aad, aadLength, tag, 16);
}

/// Decrypts in place and compares the tag in constant time. 1: authentic; 0: not, and `data` is worthless.
static inline int culvert_mb_open(
    IMB_MGR *manager, const struct gcm_key_data *key, int is256, const uint8_t *nonce, const uint8_t *aad, uint64_t aadLength,
    uint8_t *data, uint64_t length, const uint8_t *tag) {
    struct gcm_context_data context;
    uint64_t computed[2], received[2];
    if (is256)
        IMB_AES256_GCM_DEC(manager, key, &context, data, data, length, nonce, aad, aadLength, (uint8_t *)computed, 16);
    else
        IMB_AES128_GCM_DEC(manager, key, &context, data, data, length, nonce, aad, aadLength, (uint8_t *)computed, 16);
    __builtin_memcpy(received, tag, 16);
    return ((computed[0] ^ received[0]) | (computed[1] ^ received[1])) == 0;
}
