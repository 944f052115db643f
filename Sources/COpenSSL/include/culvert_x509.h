#pragma once
// Certificates: the one call that judges a chain, and what Swift cannot import (typed stacks, unions, times).

#include <openssl/ocsp.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdint.h>

/// What became of a chain. Depth 0 is the end entity.
typedef struct {
    /// X509_V_OK, or the first error.
    int error;
    /// Where in the chain.
    int errorDepth;
    /// For the callbacks; NULL afterwards.
    OPENSSL_STACK *_Nullable anchors;
} culvert_verdict;

/// An X509_STORE for `culvert_verify_chain`.
X509_STORE *_Nullable culvert_store_new(void);

/// Builds and checks the chain of `leaf` from `untrusted` (OPENSSL_STACK of X509 or NULL) to a certificate of `store`, at `now`
/// (seconds since 1970), with at least 112 bits of security in every key and signature, certificate policies included. The first
/// signature that is verified is one by a trust anchor: a chain that does not lead to one costs none. Revocation is left out.
/// `anchors`: the certificates of `store`.
/// Returns the chain as it was built (OPENSSL_STACK of X509, free with culvert_certificates_free), NULL when memory is short.
OPENSSL_STACK *_Nullable culvert_verify_chain(
    X509_STORE *_Nonnull store, OPENSSL_STACK *_Nullable anchors, X509 *_Nonnull leaf, OPENSSL_STACK *_Nullable untrusted,
    int64_t now, culvert_verdict *_Nonnull verdict);

/// Verifying with its key takes far longer than with any that is in use: a huge RSA modulus or public exponent, an elliptic curve
/// with parameters of its own.
int culvert_key_is_costly(X509 *_Nonnull certificate);

/// Frees a stack of X509 with one reference to each of its certificates.
void culvert_certificates_free(OPENSSL_STACK *_Nullable certificates);

/// Seconds since 1970; INT64_MIN when the time is absent or malformed.
int64_t culvert_time(const ASN1_TIME *_Nullable time);

/// One name of a GENERAL_NAMES (an OPENSSL_STACK): GEN_EMAIL, GEN_DNS, GEN_URI and GEN_IPADD have octets inside the name,
/// GEN_DIRNAME its X509_NAME in `directory`, other types neither.
int culvert_general_name(
    const OPENSSL_STACK *_Nonnull names, int index, const uint8_t *_Nullable *_Nonnull octets, int *_Nonnull count,
    const X509_NAME *_Nullable *_Nonnull directory);

/// The name as `C=DE, O=Example, CN=west` into `bio`, everything but printable ASCII escaped.
int culvert_print_name(BIO *_Nonnull bio, const X509_NAME *_Nonnull name);

/// Octets and length of an ASN1_STRING, also as OCTET STRING and INTEGER.
static inline const uint8_t *_Nullable culvert_string(const ASN1_STRING *_Nullable string, int *_Nonnull count) {
    *count = string == NULL ? 0 : ASN1_STRING_length(string);
    return string == NULL ? NULL : ASN1_STRING_get0_data(string);
}

/// The hash of an OCSP response's signature is one that collisions are known for.
int culvert_ocsp_signature_is_weak(const OCSP_BASICRESP *_Nonnull response);

/// The responder that signed is `issuer` itself, or a certificate that `issuer` issued for this purpose (RFC 6960 §4.2.2.2),
/// valid at `now`; and its signature is good. 1: yes; 0: no.
int culvert_ocsp_is_authorized(OCSP_BASICRESP *_Nonnull response, X509 *_Nonnull issuer, int64_t now);

/// The single response about `certificate`: V_OCSP_CERTSTATUS_…, or -1 when there is none. Times as culvert_time.
int culvert_ocsp_status(
    OCSP_BASICRESP *_Nonnull response, X509 *_Nonnull certificate, X509 *_Nonnull issuer, int *_Nonnull reason,
    int64_t *_Nonnull revokedAt, int64_t *_Nonnull thisUpdate, int64_t *_Nonnull nextUpdate);

/// An OCSPRequest about `certificate` with this nonce, or NULL.
OCSP_REQUEST *_Nullable culvert_ocsp_request(
    X509 *_Nonnull certificate, X509 *_Nonnull issuer, const uint8_t *_Nonnull nonce, int nonceBytes);

/// The nonce of a response, without its own tag and length. NULL when there is none (count 0) or it is malformed (count -1).
const uint8_t *_Nullable culvert_ocsp_nonce(OCSP_BASICRESP *_Nonnull response, int *_Nonnull count);

/// Frees what X509_get_ext_d2i gave for extendedKeyUsage.
void culvert_objects_free(OPENSSL_STACK *_Nullable objects);
