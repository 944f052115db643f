#pragma once
// libssl for EAP-TLS: what Swift cannot import, because it is a macro. All memory BIOs; no socket is ever seen here.

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

/// Versions 1.2 up to `most` (TLS1_2_VERSION or TLS1_3_VERSION). 1: done.
static inline int culvert_tls_set_versions(SSL_CTX *_Nonnull context, int most) {
    return SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 && SSL_CTX_set_max_proto_version(context, most) == 1;
}

/// Adds an intermediate certificate to what is sent after our own; takes its own reference. 1: done.
static inline int culvert_tls_add_chain(SSL_CTX *_Nonnull context, X509 *_Nonnull certificate) {
    return SSL_CTX_add1_chain_cert(context, certificate) == 1;
}

/// Neither tickets nor a cache: every EAP conversation proves itself anew.
static inline void culvert_tls_no_resumption(SSL_CTX *_Nonnull context) {
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_num_tickets(context, 0);
    // Servers without RFC 5746 (strongSwan's TLS 1.2) are spoken to all the same: what it prevents is an attack on
    // renegotiation, which never happens here.
    SSL_CTX_set_options(context, SSL_OP_LEGACY_SERVER_CONNECT);
}

/// A memory BIO that says "try again" when it is empty, rather than "end of file". NULL: no memory.
static inline BIO *_Nullable culvert_bio_queue(void) {
    BIO *bio = BIO_new(BIO_s_mem());
    if (bio != NULL) BIO_set_mem_eof_return(bio, -1);
    return bio;
}

/// Octets that wait in a memory BIO.
static inline size_t culvert_bio_pending(BIO *_Nonnull bio) { return (size_t)BIO_ctrl_pending(bio); }
