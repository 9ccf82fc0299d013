//! Whom the clients of this process trust, when they speak TLS by `ureq`.
//!
//! *Invariants*: no list of authorities is compiled in: the system's is what its owner keeps.
//!
//! *Not here*: the server's own certificates (`engram_net::tls`).

use std::sync::Arc;

use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// Trusts the authorities of the system, those of `SSL_CERT_FILE` or `SSL_CERT_DIR` where they are
/// set. What can't be read is left out: without any, connections by TLS are refused.
pub fn of_system() -> TlsConfig {
    let found = rustls_native_certs::load_native_certs().certs;
    of(found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect())
}

/// Trusts `authorities` only.
pub(crate) fn of(authorities: Vec<Certificate<'static>>) -> TlsConfig {
    TlsConfig::builder()
        .root_certs(RootCerts::from(authorities))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}
