//! A connection to a server, plain or by TLS, that one thread reads while another writes.
//!
//! *Invariants*: nothing waits for the server while it holds what the other thread needs, so that a
//! server which waits for its answer to be read never stops both.
//!
//! *Not here*: requests and answers (`client`).

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engram_net::tls;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore};

/// Bytes that are read from a socket at once.
const READ_BYTES: usize = 64 << 10;

/// Files of a client's TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that are trusted, PEM; `None`: those of the system.
    pub authorities: Option<PathBuf>,
    /// The client's own certificate and key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A connection; clones share it.
#[derive(Clone)]
pub enum Wire {
    /// As it is.
    Plain(Arc<TcpStream>),
    /// Encrypted.
    Tls(Arc<Encrypted>),
}

/// A socket with the session that encrypts it.
pub struct Encrypted {
    socket: TcpStream,
    session: Mutex<ClientConnection>,
    /// What came and is not yet read; only the thread that reads takes it.
    received: Mutex<Received>,
    /// Held while encrypted bytes are taken from the session and written, so that they keep their
    /// order.
    writing: Mutex<()>,
}

#[derive(Default)]
struct Received {
    plain: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl Received {
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let rest = &self.plain[self.taken..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        if self.taken == self.plain.len() {
            self.plain.clear();
            self.taken = 0;
        }
        count
    }
}

impl Wire {
    /// A connection as it is.
    pub fn plain(socket: TcpStream) -> Self {
        Self::Plain(Arc::new(socket))
    }

    /// A connection that is encrypted, with a server of this name or address.
    ///
    /// # Errors
    /// Where files can't be read, or the server's certificate is not trusted.
    pub fn encrypted(socket: TcpStream, host: &str, files: &TlsFiles) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = config(host, files)?;
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut through = &socket;
        while session.is_handshaking() {
            session.complete_io(&mut through)?;
        }
        let (session, writing) = (Mutex::new(session), Mutex::new(()));
        let received = Mutex::default();
        Ok(Self::Tls(Arc::new(Encrypted { socket, session, received, writing })))
    }

    /// Ends the connection, also for the thread that waits for it.
    pub fn shutdown(&self) {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Tls(encrypted) => &encrypted.socket,
        };
        // It may have ended already.
        let _ignored = socket.shutdown(Shutdown::Both);
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => (&**socket).read(buffer),
            Self::Tls(encrypted) => encrypted.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => (&**socket).write(bytes),
            Self::Tls(encrypted) => encrypted.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Encrypted {
    fn session(&self) -> MutexGuard<'_, ClientConnection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = vec![0; READ_BYTES];
        loop {
            let count = received.take(buffer);
            if count > 0 || received.ended {
                return Ok(count);
            }
            let count = (&self.socket).read(&mut bytes)?;
            self.take_in(&bytes[..count], &mut received)?;
        }
    }

    /// Gives the session what came; no bytes say that the server has closed.
    fn take_in(&self, mut bytes: &[u8], received: &mut Received) -> io::Result<()> {
        let mut session = self.session();
        loop {
            session.read_tls(&mut bytes)?;
            session.process_new_packets().map_err(io::Error::other)?;
            match session.reader().read_to_end(&mut received.plain) {
                Ok(_) => received.ended = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if bytes.is_empty() {
                break;
            }
        }
        let answers = session.wants_write();
        drop(session);
        // Where the other thread writes, it takes along what the session wants to say.
        if answers && let Ok(_writing) = self.writing.try_lock() {
            self.send()?;
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.session().writer().write(bytes)?;
        self.send()?;
        Ok(count)
    }

    /// Writes what the session has encrypted; the caller holds `writing`.
    fn send(&self) -> io::Result<()> {
        let mut encrypted = Vec::new();
        let mut session = self.session();
        while session.wants_write() {
            session.write_tls(&mut encrypted)?;
        }
        drop(session);
        (&self.socket).write_all(&encrypted)
    }
}

fn config(host: &str, files: &TlsFiles) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?;
    let loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let builder = if loopback && files.authorities.is_none() {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Loopback(provider)))
    } else {
        builder.with_root_certificates(roots(files.authorities.as_deref())?)
    };
    let config = match &files.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = tls::certificates(certificate).map_err(io::Error::other)?;
            let key = tls::private_key(key).map_err(io::Error::other)?;
            builder.with_client_auth_cert(chain, key).map_err(io::Error::other)?
        }
    };
    Ok(Arc::new(config))
}

fn roots(authorities: Option<&Path>) -> io::Result<RootCertStore> {
    if let Some(path) = authorities {
        return tls::roots(path).map_err(io::Error::other);
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(roots)
}

/// Takes any certificate of a server on this machine's loopback: what is there was started by this
/// machine's owner, and its certificate names it as others know it.
#[derive(Debug)]
struct Loopback(Arc<CryptoProvider>);

impl ServerCertVerifier for Loopback {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
