//! Certificates: what the servers show, whom the gate trusts, and who has lost that trust.
//!
//! Used by the gate (mutual TLS), by HTTPS (server side only) and by whoever revokes. Everything is read from PEM files
//! and can be read again while running; a reload that fails leaves the old state in force. It never writes a file, and
//! no key material reaches a log or an error.

mod client_verifier;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime, pem};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

pub use self::client_verifier::{ClaimedName, claimed_by};
use self::client_verifier::{CurrentVerifier, NotingVerifier};
use crate::config;
use crate::domain::{Malformed, Timestamp, VehicleId};

/// A larger file is no certificate of anybody's.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// A file that cannot serve. Nothing was changed; worth a retry once the file is mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertsError {
    pub file: PathBuf,
    pub what: String,
}

impl fmt::Display for CertsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)
    }
}

impl std::error::Error for CertsError {}

/// A certificate's serial number without leading zeros; written as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial {
    len: u8,
    bytes: [u8; Self::MAX_LEN],
}

impl Serial {
    /// RFC 5280, 4.1.2.2.
    pub const MAX_LEN: usize = 20;

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        let digits = &bytes[start..];
        let mut serial = Self { len: digits.len() as u8, bytes: [0; Self::MAX_LEN] };
        let place = serial.bytes.get_mut(..digits.len()).ok_or(Malformed("a serial number has at most 20 bytes"))?;
        place.copy_from_slice(digits);
        Ok(serial)
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.as_bytes()))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Serial {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bytes = hex::decode(text).map_err(|_| Malformed("a serial number is written in hex"))?;
        Self::from_bytes(&bytes)
    }
}

/// Who a certificate says its holder is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The subject's only common name.
    pub vehicle: VehicleId,
    pub serial: Serial,
    /// CRC32C of the issuer's name: two CAs may use the same serial.
    pub issuer: u32,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl PeerIdentity {
    /// Reads a certificate whose signature was checked already.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, Malformed> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| Malformed("not an X.509 certificate"))?;
        let mut names = certificate.subject().iter_common_name();
        let name = match (names.next(), names.next()) {
            (Some(name), None) => name.as_str().map_err(|_| Malformed("the common name is not text"))?,
            _ => return Err(Malformed("a car's certificate has exactly one common name")),
        };
        let at = |time: x509_parser::time::ASN1Time| Timestamp(time.timestamp().saturating_mul(1000));
        Ok(Self {
            vehicle: name.parse()?,
            serial: Serial::from_bytes(certificate.raw_serial())?,
            issuer: crc32c::crc32c(certificate.issuer().as_raw()),
            not_before: at(certificate.validity().not_before),
            not_after: at(certificate.validity().not_after),
        })
    }
}

/// Trust withdrawn while running, on top of the CRLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    Serial(Serial),
    /// Every certificate of the vehicle that was issued (`not_before`) up to that time, but those in `except`: a
    /// certificate's time has whole seconds and may be backdated, so a new one is told apart by its serial.
    Vehicle {
        vehicle: VehicleId,
        issued_until: Timestamp,
        except: Vec<Serial>,
    },
}

/// Why a certificate with a good signature is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// Outside its validity: a resumed session may outlive its certificate.
    NotValidNow,
    Revoked,
}

/// Issuer and serial of each entry of the CRLs.
type Listed = HashSet<(u32, Serial)>;

#[derive(Default)]
struct Revoked {
    serials: HashSet<Serial>,
    vehicles: HashMap<VehicleId, (Timestamp, HashSet<Serial>)>,
}

/// All certificates in force. Cheap to ask; shared by everybody who needs TLS.
pub struct Certs {
    paths: config::Certs,
    provider: Arc<CryptoProvider>,
    server: Arc<CurrentServerCert>,
    /// For those who show a certificate to HTTPS, which nobody has to.
    callers: Arc<CurrentVerifier>,
    bundle: ArcSwap<Vec<CertificateDer<'static>>>,
    /// The CAs in force: CRC32C of their subjects, as in [`PeerIdentity::issuer`].
    roots: ArcSwap<HashSet<u32>>,
    /// CAs that were in force once and are not any more.
    orphaning: RwLock<HashSet<u32>>,
    /// For the gate; built anew by each reload, and with it the ticket key.
    gate: ArcSwap<ServerConfig>,
    /// What the CRLs in force list, for sessions that were admitted before the CRL was.
    listed: ArcSwap<Listed>,
    revoked: RwLock<Revoked>,
}

impl fmt::Debug for Certs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certs").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// Hands the newest server certificate to every TLS server, so that HTTPS need not be restarted either.
#[derive(Debug)]
struct CurrentServerCert(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for CurrentServerCert {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certs {
    /// Reads and checks every file.
    pub fn load(paths: &config::Certs) -> Result<Self, CertsError> {
        let provider = Arc::new(ring::default_provider());
        let server = Arc::new(CurrentServerCert(ArcSwap::new(read_server(paths, &provider)?)));
        let trust = Trust::read(paths, &provider)?;
        let gate = gate(paths, &provider, &trust, Arc::clone(&server))?;
        Ok(Self {
            paths: paths.clone(),
            provider,
            server,
            callers: Arc::new(CurrentVerifier::new(trust.callers)),
            bundle: ArcSwap::from_pointee(trust.bundle),
            roots: ArcSwap::from_pointee(trust.roots),
            orphaning: RwLock::default(),
            gate: ArcSwap::from_pointee(gate),
            listed: ArcSwap::from_pointee(trust.listed),
            revoked: RwLock::default(),
        })
    }

    /// Reads all files again. All of it comes into force together, or none. Sessions that are up stay up: whoever calls
    /// this then asks the gate to drop those that are not trusted now ([`Certs::is_listed`], [`Certs::is_orphaned`]).
    pub fn reload(&self) -> Result<(), CertsError> {
        let server = read_server(&self.paths, &self.provider)?;
        let trust = Trust::read(&self.paths, &self.provider)?;
        let gate = gate(&self.paths, &self.provider, &trust, Arc::clone(&self.server))?;
        self.server.0.store(server);
        self.listed.store(Arc::new(trust.listed));
        let gone: HashSet<u32> = self.roots.load().difference(&trust.roots).copied().collect();
        let mut orphaning = self.orphaning.write().unwrap_or_else(PoisonError::into_inner);
        orphaning.retain(|root| !trust.roots.contains(root));
        orphaning.extend(gone);
        drop(orphaning);
        self.roots.store(Arc::new(trust.roots));
        self.bundle.store(Arc::new(trust.bundle));
        self.callers.replace(trust.callers);
        self.gate.store(Arc::new(gate));
        Ok(())
    }

    /// TLS for the gate: a client certificate of our CAs is required.
    pub fn gate(&self) -> Arc<ServerConfig> {
        self.gate.load_full()
    }

    /// TLS for HTTPS: who shows a certificate must have one of our CAs', and nobody has to. Ask once: server certificate
    /// and trust follow every reload, but for the names of the CAs that clients are hinted at.
    pub fn https(&self) -> Result<ServerConfig, rustls::Error> {
        let resolver: Arc<dyn ResolvesServerCert> = self.server.clone();
        Ok(ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(self.callers.clone())
            .with_cert_resolver(resolver))
    }

    /// To be asked on every connect, resumed or not: a ticket outlives a revocation.
    pub fn check(&self, peer: &PeerIdentity, now: Timestamp) -> Result<(), Distrust> {
        if now < peer.not_before || now > peer.not_after {
            return Err(Distrust::NotValidNow);
        }
        if self.is_listed(peer.issuer, peer.serial) || self.is_orphaned(peer.issuer) {
            return Err(Distrust::Revoked);
        }
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        let with_vehicle = revoked
            .vehicles
            .get(&peer.vehicle)
            .is_some_and(|(until, except)| peer.not_before <= *until && !except.contains(&peer.serial));
        if with_vehicle || revoked.serials.contains(&peer.serial) { Err(Distrust::Revoked) } else { Ok(()) }
    }

    /// Is this chain, which a handshake has shown before, still trusted? HTTPS resumes sessions and keeps connections, and
    /// both may outlive the trust in a CA.
    pub fn trusts(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> bool {
        let Some((own, intermediates)) = chain.split_first() else { return false };
        let at = UnixTime::since_unix_epoch(Duration::from_millis(now.0.try_into().unwrap_or(0)));
        self.callers.verify_client_cert(own, intermediates, at).is_ok()
            && PeerIdentity::of(own).is_ok_and(|peer| self.check(&peer, now).is_ok())
    }

    /// Does a CRL in force list this certificate?
    pub fn is_listed(&self, issuer: u32, serial: Serial) -> bool {
        self.listed.load().contains(&(issuer, serial))
    }

    /// Every CA in force.
    pub fn bundle(&self) -> Arc<Vec<CertificateDer<'static>>> {
        self.bundle.load_full()
    }

    /// Was this certificate signed by a CA that was taken out of the bundle since it was let in? (One with an intermediate
    /// CA between, or of a CA whose successor has the same name, keeps its session; its next connect fails.)
    pub fn is_orphaned(&self, issuer: u32) -> bool {
        self.orphaning.read().unwrap_or_else(PoisonError::into_inner).contains(&issuer)
    }

    /// Withdraws trust at once for every later connect; sessions that are up are the gate's to kick.
    pub fn revoke(&self, revocation: Revocation) {
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        match revocation {
            Revocation::Serial(serial) => {
                revoked.serials.insert(serial);
            }
            Revocation::Vehicle { vehicle, issued_until, except } => {
                revoked.vehicles.insert(vehicle, (issued_until, except.into_iter().collect()));
            }
        }
    }

    /// Revokes every certificate the vehicle has now.
    pub fn revoke_vehicle(&self, vehicle: VehicleId, issued_until: Timestamp) {
        self.revoke(Revocation::Vehicle { vehicle, issued_until, except: Vec::new() });
    }

    /// Lets one certificate of a revoked vehicle in: the new one it was just given.
    pub fn except(&self, vehicle: &VehicleId, serial: Serial) {
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, except)) = revoked.vehicles.get_mut(vehicle) {
            except.insert(serial);
        }
    }

    /// Puts back, at start, what was revoked in earlier lives.
    pub fn restore(&self, revocations: impl IntoIterator<Item = Revocation>) {
        revocations.into_iter().for_each(|revocation| self.revoke(revocation));
    }
}

fn read_server(paths: &config::Certs, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, CertsError> {
    let chain = read_certificates(&paths.server)?;
    let pem = read_file(&paths.server_key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unfit(&paths.server_key, pem_fault(&error)))?;
    CertifiedKey::from_der(chain, key, provider)
        .map(Arc::new)
        .map_err(|error| unfit(&paths.server_key, format!("does not fit {}: {error}", paths.server.display())))
}

/// Who is trusted, as the files say now.
struct Trust {
    bundle: Vec<CertificateDer<'static>>,
    roots: HashSet<u32>,
    listed: Listed,
    /// For the gate: everybody must show a certificate.
    cars: Arc<dyn ClientCertVerifier>,
    /// For HTTPS.
    callers: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    fn read(paths: &config::Certs, provider: &Arc<CryptoProvider>) -> Result<Self, CertsError> {
        let mut store = RootCertStore::empty();
        let mut roots = HashSet::new();
        let bundle = read_certificates(&paths.ca)?;
        for (place, certificate) in bundle.iter().cloned().enumerate() {
            if let Ok((_, parsed)) = X509Certificate::from_der(&certificate) {
                roots.insert(crc32c::crc32c(parsed.subject().as_raw()));
            }
            store
                .add(certificate)
                .map_err(|error| unfit(&paths.ca, format!("certificate {} is no CA to us: {error}", place + 1)))?;
        }
        let store = Arc::new(store);
        let (crls, listed) = match &paths.crl {
            Some(file) => read_crls(file)?,
            None => Default::default(),
        };
        // A CRL of one CA says nothing about the certificates of another: those count as good.
        let verifier = || {
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), Arc::clone(provider))
                .with_crls(crls.clone())
                .only_check_end_entity_revocation()
                .allow_unknown_revocation_status()
        };
        let failed = |error: rustls::server::VerifierBuilderError| {
            unfit(paths.crl.as_ref().unwrap_or(&paths.ca), error.to_string())
        };
        let cars = verifier().build().map_err(failed)?;
        let callers = verifier().allow_unauthenticated().build().map_err(failed)?;
        Ok(Self { bundle, roots, listed, cars: Arc::new(NotingVerifier(cars)), callers })
    }
}

fn gate(
    paths: &config::Certs,
    provider: &Arc<CryptoProvider>,
    trust: &Trust,
    server: Arc<CurrentServerCert>,
) -> Result<ServerConfig, CertsError> {
    let tls = |error: rustls::Error| unfit(&paths.server, error.to_string());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(Arc::clone(&trust.cars))
        .with_cert_resolver(server);
    // Tickets without state: cars resume at no memory of ours, and a new key here ends every older ticket.
    config.ticketer = ring::Ticketer::new().map_err(tls)?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, CertsError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&read_file(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| unfit(file, pem_fault(&error)))?;
    if certificates.is_empty() {
        return Err(unfit(file, "holds no PEM certificate"));
    }
    Ok(certificates)
}

type Crls = (Vec<CertificateRevocationListDer<'static>>, Listed);

fn read_crls(file: &Path) -> Result<Crls, CertsError> {
    let crls: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&read_file(file)?)
        .collect::<Result<_, _>>()
        .map_err(|error| unfit(file, pem_fault(&error)))?;
    if crls.is_empty() {
        return Err(unfit(file, "holds no PEM CRL"));
    }
    let mut listed = HashSet::new();
    for (place, crl) in crls.iter().enumerate() {
        let (_, crl) = CertificateRevocationList::from_der(crl)
            .map_err(|_| unfit(file, format!("CRL {} is damaged", place + 1)))?;
        let issuer = crc32c::crc32c(crl.issuer().as_raw());
        // A serial longer than any certificate may have is nobody's.
        let serials = crl.iter_revoked_certificates().filter_map(|entry| Serial::from_bytes(entry.raw_serial()).ok());
        listed.extend(serials.map(|serial| (issuer, serial)));
    }
    Ok((crls, listed))
}

fn read_file(file: &Path) -> Result<Vec<u8>, CertsError> {
    let fault = |error: std::io::Error| unfit(file, format!("cannot be read: {error}"));
    if std::fs::metadata(file).map_err(fault)?.len() > MAX_FILE_BYTES {
        return Err(unfit(file, "larger than 64 MiB"));
    }
    std::fs::read(file).map_err(fault)
}

fn unfit(file: &Path, what: impl Into<String>) -> CertsError {
    CertsError { file: file.to_owned(), what: what.into() }
}

/// Says what is wrong without repeating the file's content, which may be a key.
fn pem_fault(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a PEM section has no END line",
        pem::Error::IllegalSectionStart { .. } => "a PEM section has a damaged BEGIN line",
        pem::Error::Base64Decode(_) => "a PEM section is not base64",
        pem::Error::NoItemsFound => "holds no PEM section of the wanted kind",
        _ => "cannot be read as PEM",
    }
}

#[cfg(test)]
mod tests;
