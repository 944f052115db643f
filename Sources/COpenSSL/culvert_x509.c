#include "COpenSSL.h"

#include <string.h>
#include <time.h>

enum { leastSecurityLevel = 2, mostIntermediates = 8 };
/// Of keys that a stranger sends: with an exponent as long as the modulus, a verification takes two hundred times as long.
enum { mostRSABits = 8192, mostExponentBits = 33, mostCurveBits = 521, mostDSABits = 3072 };

int64_t culvert_time(const ASN1_TIME *time) {
    struct tm parts;
    if (time == NULL || ASN1_TIME_to_tm(time, &parts) != 1) return INT64_MIN;
    return timegm(&parts);
}

/// Every finding of libcrypto's ends it; the first one is kept.
static int judge(int ok, X509_STORE_CTX *context) {
    if (ok) return 1;
    culvert_verdict *verdict = X509_STORE_CTX_get_app_data(context);
    verdict->error = X509_STORE_CTX_get_error(context);
    verdict->errorDepth = X509_STORE_CTX_get_error_depth(context);
    return 0;
}

/// libcrypto takes the first issuer whose name and key identifiers fit, and does not look for another when the signature does not
/// verify. Of two trust anchors with one name and no key identifiers it would never try the second.
static int isIssuedBy(X509_STORE_CTX *context, X509 *certificate, X509 *issuer) {
    int found = X509_check_issued(issuer, certificate);
    // What the issuer may not do is told by a later check, which says so.
    if (found != X509_V_OK && found != X509_V_ERR_KEYUSAGE_NO_CERTSIGN) return 0;
    const culvert_verdict *verdict = X509_STORE_CTX_get_app_data(context);
    if (certificate == issuer || verdict == NULL || OPENSSL_sk_find(verdict->anchors, issuer) < 0) return 1;
    EVP_PKEY *key = X509_get0_pubkey(issuer);
    return key != NULL && X509_verify(certificate, key) == 1;
}

X509_STORE *culvert_store_new(void) {
    X509_STORE *store = X509_STORE_new();
    if (store != NULL) X509_STORE_set_check_issued(store, isIssuedBy);
    return store;
}

OPENSSL_STACK *culvert_verify_chain(
    X509_STORE *store, OPENSSL_STACK *anchors, X509 *leaf, OPENSSL_STACK *untrusted, int64_t now, culvert_verdict *verdict) {
    *verdict = (culvert_verdict){.error = X509_V_OK, .anchors = anchors};
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    OPENSSL_STACK *chain = NULL;
    if (context != NULL && X509_STORE_CTX_init(context, store, leaf, (STACK_OF(X509) *)untrusted) == 1) {
        X509_VERIFY_PARAM *parameters = X509_STORE_CTX_get0_param(context);
        X509_VERIFY_PARAM_set_time(parameters, (time_t)now);
        X509_VERIFY_PARAM_set_depth(parameters, mostIntermediates);
        X509_VERIFY_PARAM_set_auth_level(parameters, leastSecurityLevel);
        // Whatever certificate the operator names is a trust anchor, also one that another CA issued. Policies are processed as
        // RFC 5280 §6.1 has it, any policy being acceptable to begin with.
        X509_VERIFY_PARAM_set_flags(
            parameters, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST | X509_V_FLAG_POLICY_CHECK);
        X509_VERIFY_PARAM_add0_policy(parameters, OBJ_nid2obj(NID_any_policy));
        X509_STORE_CTX_set_app_data(context, verdict);
        X509_STORE_CTX_set_verify_cb(context, judge);
        int good = X509_verify_cert(context);
        if (good != 1 && verdict->error == X509_V_OK) {
            verdict->error = X509_STORE_CTX_get_error(context);
            verdict->errorDepth = X509_STORE_CTX_get_error_depth(context);
            // An error of the library itself must not look like a good chain.
            if (verdict->error == X509_V_OK) verdict->error = X509_V_ERR_UNSPECIFIED;
        }
        chain = (OPENSSL_STACK *)X509_STORE_CTX_get1_chain(context);
    }
    verdict->anchors = NULL;
    X509_STORE_CTX_free(context);
    ERR_clear_error();
    return chain;
}

int culvert_key_is_costly(X509 *certificate) {
    EVP_PKEY *key = X509_get0_pubkey(certificate);
    int isCostly = 0;
    // One that libcrypto does not know is not computed with.
    if (key != NULL && EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA) {
        BIGNUM *exponent = NULL;
        isCostly = EVP_PKEY_get_bits(key) > mostRSABits || EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &exponent) != 1 ||
                   BN_num_bits(exponent) > mostExponentBits;
        BN_free(exponent);
    } else if (key != NULL && EVP_PKEY_get_base_id(key) == EVP_PKEY_EC) {
        isCostly = EVP_PKEY_get_bits(key) > mostCurveBits || culvert_ec_is_explicit(key);
    } else if (key != NULL && EVP_PKEY_get_base_id(key) == EVP_PKEY_DSA) {
        isCostly = EVP_PKEY_get_bits(key) > mostDSABits;
    }
    ERR_clear_error();
    return isCostly;
}

void culvert_certificates_free(OPENSSL_STACK *certificates) {
    OPENSSL_sk_pop_free(certificates, (OPENSSL_sk_freefunc)X509_free);
}

int culvert_general_name(
    const OPENSSL_STACK *names, int index, const uint8_t **octets, int *count, const X509_NAME **directory) {
    int type = -1;
    const GENERAL_NAME *name = OPENSSL_sk_value(names, index);
    *octets = NULL, *count = 0, *directory = NULL;
    if (name == NULL) return type;
    void *value = GENERAL_NAME_get0_value(name, &type);
    switch (type) {
    case GEN_EMAIL:
    case GEN_DNS:
    case GEN_URI:
    case GEN_IPADD:
        *octets = culvert_string(value, count);
        break;
    case GEN_DIRNAME:
        *directory = value;
        break;
    default:
        break;
    }
    return type;
}

int culvert_print_name(BIO *bio, const X509_NAME *name) {
    return X509_NAME_print_ex(bio, name, 0, ASN1_STRFLGS_RFC2253 | XN_FLAG_SEP_CPLUS_SPC | XN_FLAG_FN_SN);
}

int culvert_ocsp_signature_is_weak(const OCSP_BASICRESP *response) {
    const ASN1_OBJECT *algorithm = NULL;
    int digest = NID_undef, key = NID_undef;
    X509_ALGOR_get0(&algorithm, NULL, NULL, OCSP_resp_get0_tbs_sigalg(response));
    if (OBJ_find_sigid_algs(OBJ_obj2nid(algorithm), &digest, &key) != 1) return 1;
    return digest == NID_sha1 || digest == NID_md5 || digest == NID_md4 || digest == NID_md2;
}

/// RFC 6960 §4.2.2.2: "Systems or applications that rely on OCSP responses … MUST reject the response if the certificate required
/// to validate the signature on the response does not meet at least one of the following criteria: …"
static int mayAnswer(X509 *signer, X509 *issuer, int64_t now) {
    if (X509_cmp(signer, issuer) == 0) return 1;
    int bits = 0;
    int64_t from = culvert_time(X509_get0_notBefore(signer)), until = culvert_time(X509_get0_notAfter(signer));
    EVP_PKEY *key = X509_get0_pubkey(issuer);
    return key != NULL && X509_check_issued(issuer, signer) == X509_V_OK && X509_verify(signer, key) == 1 &&
           (X509_get_extension_flags(signer) & (EXFLAG_XKUSAGE | EXFLAG_INVALID)) == EXFLAG_XKUSAGE &&
           (X509_get_extended_key_usage(signer) & XKU_OCSP_SIGN) != 0 &&
           X509_get_signature_info(signer, NULL, NULL, &bits, NULL) == 1 && bits >= 112 &&
           from != INT64_MIN && from <= now && now <= until;
}

int culvert_ocsp_is_authorized(OCSP_BASICRESP *response, X509 *issuer, int64_t now) {
    STACK_OF(X509) *known = sk_X509_new_null();
    X509 *signer = NULL;
    int good = 0;
    if (known != NULL && sk_X509_push(known, issuer) > 0 && OCSP_resp_get0_signer(response, &signer, known) == 1 &&
        mayAnswer(signer, issuer, now)) {
        (void)sk_X509_pop(known);
        // The signer was judged above; what remains is the signature.
        good = sk_X509_push(known, signer) > 0 && OCSP_basic_verify(response, known, NULL, OCSP_TRUSTOTHER) == 1;
    }
    sk_X509_free(known);
    ERR_clear_error();
    return good;
}

int culvert_ocsp_status(
    OCSP_BASICRESP *response, X509 *certificate, X509 *issuer, int *reason, int64_t *revokedAt, int64_t *thisUpdate,
    int64_t *nextUpdate) {
    int status = -1;
    for (int index = 0; index < OCSP_resp_count(response) && status < 0; index++) {
        OCSP_SINGLERESP *single = OCSP_resp_get0(response, index);
        OCSP_CERTID *theirs = (OCSP_CERTID *)OCSP_SINGLERESP_get0_id(single);
        ASN1_OBJECT *hash = NULL;
        if (OCSP_id_get0_info(NULL, &hash, NULL, NULL, theirs) != 1) continue;
        const EVP_MD *digest = EVP_get_digestbyobj(hash);
        OCSP_CERTID *ours = digest == NULL ? NULL : OCSP_cert_to_id(digest, certificate, issuer);
        if (ours != NULL && OCSP_id_cmp(ours, theirs) == 0) {
            ASN1_GENERALIZEDTIME *revoked = NULL, *this = NULL, *next = NULL;
            status = OCSP_single_get0_status(single, reason, &revoked, &this, &next);
            *revokedAt = culvert_time(revoked), *thisUpdate = culvert_time(this), *nextUpdate = culvert_time(next);
        }
        OCSP_CERTID_free(ours);
    }
    ERR_clear_error();
    return status;
}

OCSP_REQUEST *culvert_ocsp_request(X509 *certificate, X509 *issuer, const uint8_t *nonce, int nonceBytes) {
    OCSP_REQUEST *request = OCSP_REQUEST_new();
    // RFC 5019 §2.1.1: responders that prepare their answers beforehand know certificates by SHA-1 only.
    OCSP_CERTID *identifier = OCSP_cert_to_id(EVP_sha1(), certificate, issuer);
    if (request == NULL || identifier == NULL || OCSP_request_add0_id(request, identifier) == NULL) {
        OCSP_CERTID_free(identifier);
        OCSP_REQUEST_free(request);
        return NULL;
    }
    if (nonceBytes > 0 && OCSP_request_add1_nonce(request, (unsigned char *)nonce, nonceBytes) != 1) {
        OCSP_REQUEST_free(request);
        return NULL;
    }
    return request;
}

const uint8_t *culvert_ocsp_nonce(OCSP_BASICRESP *response, int *count) {
    int place = OCSP_BASICRESP_get_ext_by_NID(response, NID_id_pkix_OCSP_Nonce, -1);
    *count = 0;
    if (place < 0) return NULL;
    const ASN1_OCTET_STRING *value = X509_EXTENSION_get_data(OCSP_BASICRESP_get_ext(response, place));
    int length = 0;
    const uint8_t *octets = culvert_string(value, &length);
    // An OCTET STRING of at most 127 octets inside the extension's own. RFC 8954 §2.1: "between 1 and 32 octets".
    if (octets == NULL || length < 2 || octets[0] != V_ASN1_OCTET_STRING || octets[1] != length - 2) {
        *count = -1;
        return NULL;
    }
    *count = length - 2;
    return octets + 2;
}

void culvert_objects_free(OPENSSL_STACK *objects) { EXTENDED_KEY_USAGE_free((EXTENDED_KEY_USAGE *)objects); }
