#include "COpenSSL.h"

int culvert_add_extension(X509 *certificate, X509 *issuer, int nid, const char *value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509V3_set_ctx_nodb(&context);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    int done = extension != NULL && X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return done;
}

int culvert_add_general_name(GENERAL_NAMES *names, int type, const uint8_t *octets, int count) {
    GENERAL_NAME *name = GENERAL_NAME_new();
    if (name == NULL) return 0;
    int made = 0;
    if (type == GEN_DIRNAME) {
        X509_NAME *directory = d2i_X509_NAME(NULL, &octets, count);
        if (directory != NULL) {
            GENERAL_NAME_set0_value(name, type, directory);
            made = 1;
        }
    } else {
        ASN1_STRING *text = ASN1_STRING_type_new(type == GEN_IPADD ? V_ASN1_OCTET_STRING : V_ASN1_IA5STRING);
        if (text != NULL && ASN1_STRING_set(text, octets, count) == 1) {
            GENERAL_NAME_set0_value(name, type, text);
            made = 1;
        } else {
            ASN1_STRING_free(text);
        }
    }
    if (made && sk_GENERAL_NAME_push(names, name) > 0) return 1;
    GENERAL_NAME_free(name);
    return 0;
}

int culvert_set_alternative_names(X509 *certificate, const GENERAL_NAMES *names, int critical) {
    return X509_add1_ext_i2d(certificate, NID_subject_alt_name, (void *)names, critical, X509V3_ADD_DEFAULT) == 1;
}

ASN1_INTEGER *culvert_integer(const uint8_t *octets, int count) {
    BIGNUM *number = BN_bin2bn(octets, count, NULL);
    ASN1_INTEGER *integer = number == NULL ? NULL : BN_to_ASN1_INTEGER(number, NULL);
    BN_free(number);
    return integer;
}

int culvert_add_revoked(X509_CRL *list, const uint8_t *serial, int count, int64_t revokedAt, int reason) {
    X509_REVOKED *entry = X509_REVOKED_new();
    ASN1_INTEGER *number = culvert_integer(serial, count);
    ASN1_TIME *time = ASN1_TIME_set(NULL, (time_t)revokedAt);
    ASN1_ENUMERATED *why = reason < 0 ? NULL : ASN1_ENUMERATED_new();
    int done = entry != NULL && number != NULL && time != NULL && X509_REVOKED_set_serialNumber(entry, number) == 1 &&
               X509_REVOKED_set_revocationDate(entry, time) == 1;
    if (done && reason >= 0) {
        done = why != NULL && ASN1_ENUMERATED_set(why, reason) == 1 &&
               X509_REVOKED_add1_ext_i2d(entry, NID_crl_reason, why, 0, X509V3_ADD_DEFAULT) == 1;
    }
    ASN1_INTEGER_free(number);
    ASN1_TIME_free(time);
    ASN1_ENUMERATED_free(why);
    if (done && X509_CRL_add0_revoked(list, entry) == 1) return 1;
    X509_REVOKED_free(entry);
    return 0;
}

int culvert_finish_list(X509_CRL *list, X509 *issuer, uint64_t number) {
    ASN1_INTEGER *serial = ASN1_INTEGER_new();
    int done = serial != NULL && ASN1_INTEGER_set_uint64(serial, number) == 1 &&
               X509_CRL_add1_ext_i2d(list, NID_crl_number, serial, 0, X509V3_ADD_DEFAULT) == 1;
    ASN1_INTEGER_free(serial);
    if (!done) return 0;
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, NULL, NULL, list, 0);
    X509V3_set_ctx_nodb(&context);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, NID_authority_key_identifier, "keyid");
    // An issuer without subjectKeyIdentifier has nothing to refer to.
    done = extension == NULL || X509_CRL_add_ext(list, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    ERR_clear_error();
    return done && X509_CRL_sort(list) == 1;
}

int culvert_set_validity(X509 *certificate, int64_t notBefore, int64_t notAfter) {
    ASN1_TIME *from = ASN1_TIME_set(NULL, (time_t)notBefore), *until = ASN1_TIME_set(NULL, (time_t)notAfter);
    int done = from != NULL && until != NULL && X509_set1_notBefore(certificate, from) == 1 &&
               X509_set1_notAfter(certificate, until) == 1;
    ASN1_TIME_free(from);
    ASN1_TIME_free(until);
    return done;
}

int culvert_set_updates(X509_CRL *list, int64_t thisUpdate, int64_t nextUpdate) {
    ASN1_TIME *last = ASN1_TIME_set(NULL, (time_t)thisUpdate), *next = ASN1_TIME_set(NULL, (time_t)nextUpdate);
    int done =
        last != NULL && next != NULL && X509_CRL_set1_lastUpdate(list, last) == 1 && X509_CRL_set1_nextUpdate(list, next) == 1;
    ASN1_TIME_free(last);
    ASN1_TIME_free(next);
    return done;
}
