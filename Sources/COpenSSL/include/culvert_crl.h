#pragma once
// Revocation lists, RFC 5280 §5 and §6.3: what a list may be asked, and what it says of one certificate.

#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdint.h>

/// Why a list cannot be used at all.
typedef enum {
    culvert_list_good = 0,
    /// An extension cannot be read.
    culvert_list_malformed,
    /// "If a CRL contains a critical extension that the application cannot process, then the application MUST NOT use that CRL".
    culvert_list_unknown_extension,
    /// The same of an entry.
    culvert_list_unknown_entry_extension,
} culvert_list_fault;

culvert_list_fault culvert_list_check(const X509_CRL *_Nonnull list);

/// It says only what has changed since another list. RFC 5280 §5.2.4.
int culvert_list_is_delta(const X509_CRL *_Nonnull list);

/// cRLNumber, or with `isBase` the number of the list that a delta list needs; -1 in `count` when there is none. Big-endian, to
/// be freed with culvert_openssl_free.
uint8_t *_Nullable culvert_list_number(const X509_CRL *_Nonnull list, int isBase, int *_Nonnull count);

/// Whose certificates it is about, DER: the issuing distribution point and what it says, without the list's number and date.
/// To be freed with culvert_openssl_free; NULL when it has no such extension.
uint8_t *_Nullable culvert_list_scope(const X509_CRL *_Nonnull list, int *_Nonnull count);

/// Its authority key identifier, DER; as above.
uint8_t *_Nullable culvert_list_authority(const X509_CRL *_Nonnull list, int *_Nonnull count);

/// It is of the issuer of the certificate, or of one that the certificate names for its revocation (cRLIssuer).
int culvert_list_concerns(const X509_CRL *_Nonnull list, const X509 *_Nonnull certificate);

enum { culvert_all_reasons = 0x1FE };

/// The reasons for which this list would name the certificate, a bit each as in ReasonFlags; 0: the certificate is not in its
/// scope. RFC 5280 §6.3.3 (b) and (d).
uint32_t culvert_list_reasons(const X509_CRL *_Nonnull list, const X509 *_Nonnull certificate);

/// The certificate may have signed the list, by name, key identifier and key usage; the signature is not looked at.
int culvert_list_may_be_signed(const X509_CRL *_Nonnull list, const X509 *_Nonnull signer);

/// 1: the list names the certificate, with CRLReason (or -1) and when (seconds since 1970); 2: as removed from the list;
/// 0: it does not name it.
int culvert_list_entry(
    X509_CRL *_Nonnull list, X509 *_Nonnull certificate, int *_Nonnull reason, int64_t *_Nonnull revokedAt);

/// CRLReason of an entry; -1 when it has none.
int culvert_crl_reason(const X509_REVOKED *_Nonnull entry);
