//! The clients of a bench run: their names, certificates and connections.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use rustls::ClientConfig;
use tokio::task::JoinSet;

use crate::car::MqttAddress;
use crate::failure::Failure;
use crate::identity::CarIssuer;
use crate::wire::{Session, WireError};

/// Long enough that no run needs a ping.
const KEEP_ALIVE_S: u16 = 900;

#[derive(Debug, Clone, Args)]
pub struct FleetArgs {
    /// Where the broker listens, HOST:PORT
    #[arg(long)]
    pub mqtt: MqttAddress,
    /// The CA's certificate
    #[arg(long)]
    pub ca: PathBuf,
    /// The CA's private key, to make the clients' certificates from
    #[arg(long)]
    pub ca_key: PathBuf,
    /// Clients are PREFIX-00001 and so on
    #[arg(long, default_value = "BENCH")]
    pub prefix: String,
    /// Connections made at the same time
    #[arg(long, default_value_t = 64)]
    pub parallel: usize,
}

pub fn name(prefix: &str, index: usize) -> String {
    format!("{prefix}-{:05}", index + 1)
}

/// One client that can connect again and again.
#[derive(Clone)]
pub struct Client {
    pub index: usize,
    pub name: String,
    tls: Arc<ClientConfig>,
    address: MqttAddress,
}

impl Client {
    pub async fn connect(&self) -> Result<Session, WireError> {
        Session::connect(&self.address, self.tls.clone(), &self.name, KEEP_ALIVE_S).await
    }
}

impl FleetArgs {
    /// Certificates for `count` clients; all share one key pair, since making keys is not what is measured.
    pub fn clients(&self, count: usize, resumes: bool) -> Result<Vec<Client>, Failure> {
        crate::process::raise_file_limit();
        let issuer = CarIssuer::load(&self.ca, &self.ca_key, true)?;
        (0..count).map(|index| self.client(&issuer, index, name(&self.prefix, index), resumes)).collect()
    }

    /// A client that is no car, such as a subscriber to every topic.
    pub fn observer(&self) -> Result<Client, Failure> {
        let issuer = CarIssuer::load(&self.ca, &self.ca_key, true)?;
        self.client(&issuer, 0, format!("{}-observer", self.prefix), false)
    }

    fn client(&self, issuer: &CarIssuer, index: usize, name: String, resumes: bool) -> Result<Client, Failure> {
        let tls = issuer.issue_named(&name)?.tls_client(resumes)?;
        Ok(Client { index, name, tls, address: self.mqtt.clone() })
    }

    /// Connects all, so many at a time; the first failure ends it.
    pub async fn connect_all(&self, clients: &[Client]) -> Result<Vec<(Client, Session)>, Failure> {
        let mut connected = Vec::with_capacity(clients.len());
        let mut under_way = JoinSet::new();
        let mut waiting = clients.iter();
        loop {
            while under_way.len() < self.parallel.max(1)
                && let Some(client) = waiting.next()
            {
                let client = client.clone();
                under_way.spawn(async move {
                    let session = client.connect().await;
                    (client, session)
                });
            }
            match under_way.join_next().await {
                Some(Ok((client, Ok(session)))) => connected.push((client, session)),
                Some(Ok((client, Err(error)))) => return Err(Failure::failed(format!("{}: {error}", client.name))),
                Some(Err(error)) => return Err(Failure::failed(error)),
                None => break,
            }
        }
        connected.sort_by_key(|(client, _)| client.index);
        Ok(connected)
    }
}
