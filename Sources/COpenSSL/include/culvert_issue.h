#pragma once
// Making certificates and revocation lists.

#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdint.h>

/// Adds an extension in the syntax of x509v3_config(5). `issuer` is the certificate itself when it signs itself. 1: done.
int culvert_add_extension(X509 *_Nonnull certificate, X509 *_Nonnull issuer, int nid, const char *_Nonnull value);

/// Appends a name to a GENERAL_NAMES: GEN_EMAIL, GEN_DNS, GEN_URI with text, GEN_IPADD with 4 or 16 octets, GEN_DIRNAME with an
/// X.501 Name in DER. 1: done.
int culvert_add_general_name(
    GENERAL_NAMES *_Nonnull names, int type, const uint8_t *_Nonnull octets, int count);

/// Adds subjectAltName. 1: done.
int culvert_set_alternative_names(X509 *_Nonnull certificate, const GENERAL_NAMES *_Nonnull names, int critical);

/// Sets a certificate's serial number, or an entry's, from octets in network order. NULL: no memory.
ASN1_INTEGER *_Nullable culvert_integer(const uint8_t *_Nonnull octets, int count);

/// Adds an entry; `reason` -1: none. 1: done.
int culvert_add_revoked(X509_CRL *_Nonnull list, const uint8_t *_Nonnull serial, int count, int64_t revokedAt, int reason);

/// Adds cRLNumber and authorityKeyIdentifier. 1: done.
int culvert_finish_list(X509_CRL *_Nonnull list, X509 *_Nonnull issuer, uint64_t number);

/// UTCTime or GeneralizedTime, as RFC 5280 §4.1.2.5 wants it. 1: done.
int culvert_set_validity(X509 *_Nonnull certificate, int64_t notBefore, int64_t notAfter);
int culvert_set_updates(X509_CRL *_Nonnull list, int64_t thisUpdate, int64_t nextUpdate);
