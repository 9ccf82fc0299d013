//! TLS of the listeners: certificates, and what is asked of clients; reading PEM for both ends.
//!
//! *Invariants*: TLS 1.3 only; a certificate that can't be read leaves the one before in force; no
//! part of a private key is ever printed.
//!
//! *Not here*: connections (`server`), when certificates are read again (`ops`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_rustls::TlsAcceptor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// Where the files of a listener's TLS are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those above it, PEM.
    pub certificates: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
    /// Certificates by which clients have to be signed, PEM; `None`: clients need none.
    pub clients: Option<PathBuf>,
}

/// TLS of a server: cheap to clone, one clone for each core.
#[derive(Clone)]
pub struct Tls {
    files: TlsFiles,
    current: Arc<Mutex<Arc<ServerConfig>>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Why TLS can't be spoken.
#[derive(Debug)]
pub struct TlsError {
    path: PathBuf,
    reason: String,
}

impl TlsError {
    fn new(path: &Path, reason: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), reason: reason.to_string() }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for TlsError {}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], which names the file and what is wrong with it.
    pub fn read(files: TlsFiles) -> Result<Self, TlsError> {
        let config = config(&files)?;
        Ok(Self { files, current: Arc::new(Mutex::new(config)) })
    }

    /// Reads the files again; connections that are open stay as they are.
    ///
    /// # Errors
    /// [`TlsError`]; what was in force before stays so.
    pub fn read_again(&self) -> Result<(), TlsError> {
        let config = config(&self.files)?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Shakes hands with the certificate that is in force. The lock is taken once a connection, by
    /// cores only when they accept, and held for a clone.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let config = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&config))
    }
}

fn config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&files.certificates)?;
    let key = private_key(&files.key)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| TlsError::new(&files.certificates, error))?;
    let builder = match &files.clients {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(verifier(path, provider)?),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| TlsError::new(&files.certificates, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A client that comes back resumes by a ticket that it keeps itself: cores share no sessions.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.ticketer = rustls::crypto::ring::Ticketer::new()
        .map_err(|error| TlsError::new(&files.certificates, error))?;
    Ok(Arc::new(config))
}

/// Reads the certificates of a file, PEM.
///
/// # Errors
/// [`TlsError`] where it can't be read or there is none in it.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| TlsError::new(path, error))?;
    if chain.is_empty() {
        return Err(TlsError::new(path, "there is no certificate in PEM in it"));
    }
    Ok(chain)
}

/// Reads a private key, PEM.
///
/// # Errors
/// [`TlsError`] where it can't be read or there is none in it.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| TlsError::new(path, format!("no private key in PEM: {error}")))
}

/// Reads the certificates of a file as those that are trusted.
///
/// # Errors
/// [`TlsError`] where they can't be read or can't sign.
pub fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::new(path, error))?;
    }
    Ok(roots)
}

fn verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider)
        .build()
        .map_err(|error| TlsError::new(path, error))
}
