#include "COpenSSL.h"

#include <string.h>

int culvert_crl_reason(const X509_REVOKED *entry) {
    ASN1_ENUMERATED *value = X509_REVOKED_get_ext_d2i(entry, NID_crl_reason, NULL, NULL);
    long reason = value == NULL ? -1 : ASN1_ENUMERATED_get(value);
    ASN1_ENUMERATED_free(value);
    return reason >= 0 && reason <= 10 ? (int)reason : -1;
}

// MARK: What a list is

static int isKnown(const X509_EXTENSION *extension, const int *known, int count) {
    int nid = OBJ_obj2nid(X509_EXTENSION_get_object((X509_EXTENSION *)extension));
    for (int index = 0; index < count; index++) {
        if (nid == known[index]) return 1;
    }
    return 0;
}

static int isReadable(const X509_CRL *list, int nid) {
    int critical = -1;
    void *value = X509_CRL_get_ext_d2i(list, nid, &critical, NULL);
    if (value == NULL) return critical == -1;
    const X509V3_EXT_METHOD *method = X509V3_EXT_get_nid(nid);
    if (method != NULL && method->it != NULL) ASN1_item_free(value, ASN1_ITEM_ptr(method->it));
    return 1;
}

culvert_list_fault culvert_list_check(const X509_CRL *list) {
    static const int lists[] = {
        NID_issuing_distribution_point, NID_delta_crl, NID_crl_number, NID_authority_key_identifier, NID_freshest_crl};
    static const int entries[] = {NID_crl_reason, NID_certificate_issuer, NID_invalidity_date, NID_hold_instruction_code};
    culvert_list_fault fault = culvert_list_good;
    for (int index = 0; index < X509_CRL_get_ext_count(list); index++) {
        const X509_EXTENSION *extension = X509_CRL_get_ext(list, index);
        if (X509_EXTENSION_get_critical(extension) && !isKnown(extension, lists, sizeof lists / sizeof *lists)) {
            return culvert_list_unknown_extension;
        }
    }
    for (size_t index = 0; index < 4; index++) {
        if (!isReadable(list, lists[index])) fault = culvert_list_malformed;
    }
    const STACK_OF(X509_REVOKED) *revoked = X509_CRL_get_REVOKED((X509_CRL *)list);
    for (int place = 0; fault == culvert_list_good && place < sk_X509_REVOKED_num(revoked); place++) {
        const X509_REVOKED *entry = sk_X509_REVOKED_value(revoked, place);
        for (int index = 0; index < X509_REVOKED_get_ext_count(entry); index++) {
            const X509_EXTENSION *extension = X509_REVOKED_get_ext(entry, index);
            if (X509_EXTENSION_get_critical(extension) && !isKnown(extension, entries, sizeof entries / sizeof *entries)) {
                fault = culvert_list_unknown_entry_extension;
            }
        }
    }
    ERR_clear_error();
    return fault;
}

int culvert_list_is_delta(const X509_CRL *list) { return X509_CRL_get_ext_by_NID(list, NID_delta_crl, -1) >= 0; }

uint8_t *culvert_list_number(const X509_CRL *list, int isBase, int *count) {
    ASN1_INTEGER *value = X509_CRL_get_ext_d2i(list, isBase ? NID_delta_crl : NID_crl_number, NULL, NULL);
    uint8_t *octets = NULL;
    *count = -1;
    if (value != NULL && (ASN1_STRING_type(value) & V_ASN1_NEG) == 0) {
        *count = ASN1_STRING_length(value);
        octets = OPENSSL_memdup(ASN1_STRING_get0_data(value), *count > 0 ? (size_t)*count : 1);
        if (octets == NULL) *count = -1;
    }
    ASN1_INTEGER_free(value);
    ERR_clear_error();
    return octets;
}

static uint8_t *extensionValue(const X509_CRL *list, int nid, int *count) {
    int place = X509_CRL_get_ext_by_NID(list, nid, -1);
    *count = 0;
    if (place < 0) return NULL;
    const ASN1_OCTET_STRING *value = X509_EXTENSION_get_data(X509_CRL_get_ext(list, place));
    *count = ASN1_STRING_length(value);
    return OPENSSL_memdup(ASN1_STRING_get0_data(value), *count > 0 ? (size_t)*count : 1);
}

uint8_t *culvert_list_scope(const X509_CRL *list, int *count) {
    return extensionValue(list, NID_issuing_distribution_point, count);
}

uint8_t *culvert_list_authority(const X509_CRL *list, int *count) {
    return extensionValue(list, NID_authority_key_identifier, count);
}

// MARK: What it is about

static uint32_t reasonBits(const ASN1_BIT_STRING *flags) {
    uint32_t bits = 0;
    if (flags == NULL) return culvert_all_reasons;
    for (int index = 1; index <= 8; index++) {
        if (ASN1_BIT_STRING_get_bit(flags, index)) bits |= 1u << index;
    }
    return bits;
}

static int hasDirectoryName(const GENERAL_NAMES *names, const X509_NAME *wanted) {
    for (int index = 0; index < sk_GENERAL_NAME_num(names); index++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, index);
        if (name->type == GEN_DIRNAME && X509_NAME_cmp(name->d.directoryName, wanted) == 0) return 1;
    }
    return 0;
}

static int shareName(const GENERAL_NAMES *some, const GENERAL_NAMES *others) {
    for (int one = 0; one < sk_GENERAL_NAME_num(some); one++) {
        for (int other = 0; other < sk_GENERAL_NAME_num(others); other++) {
            if (GENERAL_NAME_cmp(sk_GENERAL_NAME_value(some, one), sk_GENERAL_NAME_value(others, other)) == 0) return 1;
        }
    }
    return 0;
}

/// Two names of distribution points, each full (names) or relative to an issuer, which DIST_POINT_set_dpname has completed.
static int isSamePoint(const DIST_POINT_NAME *a, const DIST_POINT_NAME *b) {
    if (a->type == 1 && b->type == 1) return a->dpname != NULL && b->dpname != NULL && X509_NAME_cmp(a->dpname, b->dpname) == 0;
    if (a->type == 0 && b->type == 0) return shareName(a->name.fullname, b->name.fullname);
    const DIST_POINT_NAME *relative = a->type == 1 ? a : b, *full = a->type == 1 ? b : a;
    return relative->dpname != NULL && hasDirectoryName(full->name.fullname, relative->dpname);
}

/// Names relative to an issuer: "nameRelativeToCRLIssuer", which is the cRLIssuer where there is one, else the certificate's.
static void complete(DIST_POINT *point, const X509 *certificate) {
    const X509_NAME *issuer = X509_get_issuer_name(certificate);
    if (point->distpoint == NULL || point->distpoint->type != 1) return;
    for (int index = 0; index < sk_GENERAL_NAME_num(point->CRLissuer); index++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(point->CRLissuer, index);
        if (name->type == GEN_DIRNAME) {
            issuer = name->d.directoryName;
            break;
        }
    }
    DIST_POINT_set_dpname(point->distpoint, issuer);
}

/// RFC 5280 §6.3.3 (b) (2) (i): the name in the list's issuing distribution point against that of the certificate's, or, where
/// that has none, against its cRLIssuer.
static int namesPoint(const ISSUING_DIST_POINT *scope, const DIST_POINT *point) {
    if (scope == NULL || scope->distpoint == NULL) return 1;
    if (point->distpoint != NULL) return isSamePoint(scope->distpoint, point->distpoint);
    if (scope->distpoint->type == 0) return shareName(scope->distpoint->name.fullname, point->CRLissuer);
    return scope->distpoint->dpname != NULL && hasDirectoryName(point->CRLissuer, scope->distpoint->dpname);
}

static uint32_t reasonsByPoint(
    const X509_CRL *list, const ISSUING_DIST_POINT *scope, const X509 *certificate, const DIST_POINT *point) {
    const X509_NAME *issuer = X509_CRL_get_issuer(list);
    // "(b)(1) If the DP includes cRLIssuer, then verify that the issuer field in the complete CRL matches cRLIssuer in the DP and
    // that the complete CRL contains an issuing distribution point extension with the indirectCRL boolean asserted. Otherwise,
    // verify that the CRL issuer matches the certificate issuer."
    if (point->CRLissuer != NULL) {
        if (scope == NULL || scope->indirectCRL <= 0 || !hasDirectoryName(point->CRLissuer, issuer)) return 0;
    } else if (X509_NAME_cmp(issuer, X509_get_issuer_name(certificate)) != 0) {
        return 0;
    }
    return namesPoint(scope, point) ? reasonBits(point->reasons) : 0;
}

/// "repeat the process above with any available CRLs not specified in a distribution point but issued by the certificate issuer
/// … assume a DP with both the reasons and the cRLIssuer fields omitted and a distribution point name of the certificate issuer."
static uint32_t reasonsByIssuer(const X509_CRL *list, const ISSUING_DIST_POINT *scope, const X509 *certificate) {
    const X509_NAME *issuer = X509_get_issuer_name(certificate);
    if (X509_NAME_cmp(X509_CRL_get_issuer(list), issuer) != 0) return 0;
    if (scope == NULL || scope->distpoint == NULL) return culvert_all_reasons;
    if (scope->distpoint->type == 0 && hasDirectoryName(scope->distpoint->name.fullname, issuer)) return culvert_all_reasons;
    return 0;
}

uint32_t culvert_list_reasons(const X509_CRL *list, const X509 *certificate) {
    int isAuthority = X509_check_ca((X509 *)certificate) == 1;
    ISSUING_DIST_POINT *scope = X509_CRL_get_ext_d2i(list, NID_issuing_distribution_point, NULL, NULL);
    CRL_DIST_POINTS *points = X509_get_ext_d2i(certificate, NID_crl_distribution_points, NULL, NULL);
    uint32_t reasons = 0;
    int isExcluded = scope != NULL && (scope->onlyattr > 0 || (isAuthority ? scope->onlyuser : scope->onlyCA) > 0);
    if (!isExcluded) {
        if (scope != NULL && scope->distpoint != NULL && scope->distpoint->type == 1) {
            DIST_POINT_set_dpname(scope->distpoint, X509_CRL_get_issuer(list));
        }
        reasons = reasonsByIssuer(list, scope, certificate);
        for (int index = 0; index < sk_DIST_POINT_num(points); index++) {
            DIST_POINT *point = sk_DIST_POINT_value(points, index);
            complete(point, certificate);
            reasons |= reasonsByPoint(list, scope, certificate, point);
        }
        if (scope != NULL) reasons &= reasonBits(scope->onlysomereasons);
    }
    ISSUING_DIST_POINT_free(scope);
    CRL_DIST_POINTS_free(points);
    ERR_clear_error();
    return reasons;
}

int culvert_list_concerns(const X509_CRL *list, const X509 *certificate) {
    const X509_NAME *issuer = X509_CRL_get_issuer(list);
    if (X509_NAME_cmp(issuer, X509_get_issuer_name(certificate)) == 0) return 1;
    CRL_DIST_POINTS *points = X509_get_ext_d2i(certificate, NID_crl_distribution_points, NULL, NULL);
    int concerns = 0;
    for (int index = 0; index < sk_DIST_POINT_num(points) && !concerns; index++) {
        concerns = hasDirectoryName(sk_DIST_POINT_value(points, index)->CRLissuer, issuer);
    }
    CRL_DIST_POINTS_free(points);
    ERR_clear_error();
    return concerns;
}

int culvert_list_may_be_signed(const X509_CRL *list, const X509 *signer) {
    if (X509_NAME_cmp(X509_CRL_get_issuer(list), X509_get_subject_name(signer)) != 0) return 0;
    // "If a key usage extension is present in the CRL issuer's certificate, verify that the cRLSign bit is set." §6.3.3 (f).
    if ((X509_get_key_usage((X509 *)signer) & KU_CRL_SIGN) == 0) return 0;
    AUTHORITY_KEYID *authority = X509_CRL_get_ext_d2i(list, NID_authority_key_identifier, NULL, NULL);
    int fits = authority == NULL || X509_check_akid(signer, authority) == X509_V_OK;
    AUTHORITY_KEYID_free(authority);
    ERR_clear_error();
    return fits;
}

int culvert_list_entry(X509_CRL *list, X509 *certificate, int *reason, int64_t *revokedAt) {
    X509_REVOKED *entry = NULL;
    int found = X509_CRL_get0_by_cert(list, &entry, certificate);
    if (found == 0 || entry == NULL) return 0;
    *revokedAt = culvert_time(X509_REVOKED_get0_revocationDate(entry));
    *reason = culvert_crl_reason(entry);
    return found;
}
