//! What a command works on: a server that runs, or a data directory that it opens itself.
//!
//! *Invariants*: a flag wins over a variable; a directory that was named by a flag and that another
//! process holds is refused with that process's name, never worked around.
//!
//! *Not here*: the requests (`client`), how a directory is opened (`server`).

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use engram_cold::ColdUrl;

use crate::arguments::{Origin, Origins};
use crate::client::{Client, Options, Url};
use crate::failure::Failure;
use crate::server::{self, Server};
use crate::units;
use crate::wire::TlsFiles;

/// Where a command finds memories.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Server to work on [default: that of ENGRAM_LISTEN, else http://127.0.0.1:8080]
    #[arg(long, value_name = "URL")]
    pub url: Option<Url>,
    /// Data directory to work on where no server holds it
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    pub data_dir: Option<PathBuf>,
    /// Cold tier of that directory [default: its folder cold]
    #[arg(long, value_name = "URL")]
    pub cold_url: Option<ColdUrl>,
    /// Space of the memories
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub space: String,
    /// Key of a server that wants one
    #[arg(long, value_name = "KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// How long the server may be silent
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = units::duration)]
    pub timeout: Duration,
    /// Certificates to trust for https, PEM [default: those of the system; any on loopback]
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Certificate to show to a server that asks for one, PEM
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// Key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
}

/// A client, and the server of its own that it talks to where it opened a directory.
pub struct Opened {
    /// Talks to the server.
    pub client: Client,
    server: Option<Server>,
}

impl Opened {
    /// Ends a server of its own; what it stored is durable then.
    ///
    /// # Errors
    /// Where that server failed.
    pub fn close(self) -> Result<(), Failure> {
        match self.server {
            Some(server) => server.stop(),
            None => Ok(()),
        }
    }
}

impl Target {
    /// Connects, or opens the directory.
    ///
    /// # Errors
    /// Where the directory is held or damaged.
    pub fn open(&self, origins: &Origins) -> Result<Opened, Failure> {
        let server = match self.directory(origins) {
            Some(directory) => {
                let cold = server::Cold::of(self.cold_url.as_ref(), directory);
                Some(server::open_directory(directory, cold)?)
            }
            None => None,
        };
        let url = match (&server, &self.url) {
            (Some(server), _) => server.url(),
            (None, Some(url)) => url.clone(),
            (None, None) => default_url(),
        };
        Ok(Opened { client: self.client(url), server })
    }

    /// A client of the server, for commands that make sense on a server only.
    pub fn connect(&self) -> Client {
        self.client(self.server())
    }

    /// The server.
    pub fn server(&self) -> Url {
        self.url.clone().unwrap_or_else(default_url)
    }

    fn client(&self, url: Url) -> Client {
        Client::new(Options {
            url,
            space: self.space.clone(),
            api_key: self.api_key.clone(),
            timeout: self.timeout,
            tls: TlsFiles {
                authorities: self.ca_file.clone(),
                identity: self.client_cert.clone().zip(self.client_key.clone()),
            },
        })
    }

    /// The directory to open. In an image the variable names the directory of the server beside
    /// which a command runs: there the server is meant.
    fn directory(&self, origins: &Origins) -> Option<&PathBuf> {
        let directory = self.data_dir.as_ref()?;
        let by_flag = origins.of("data-dir") == Origin::Flag;
        let alone = !origins.is_given("url") && !server::is_held(directory);
        (by_flag || alone).then_some(directory)
    }
}

fn default_url() -> Url {
    let listen = std::env::var("ENGRAM_LISTEN").unwrap_or_default();
    let listen = if listen.is_empty() { "127.0.0.1:8080" } else { &listen };
    let address = listen.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:");
    let encrypted = std::env::var("ENGRAM_TLS_CERT").is_ok_and(|path| !path.is_empty());
    let scheme = if encrypted { "https" } else { "http" };
    format!("{scheme}://{address}").parse().unwrap_or_else(|_| default_url_of("127.0.0.1:8080"))
}

fn default_url_of(address: &str) -> Url {
    address.parse().expect("a literal address is a URL")
}
