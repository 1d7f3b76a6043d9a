//! Who a car is on the wire: its certificate, and the TLS settings made of it.
//!
//! Loads what `cardea enroll` wrote, or makes certificates itself from a CA's key for fleets of thousands. It writes a
//! private key only where it is told to, and for its owner alone.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cardea::domain::{Timestamp, VehicleId};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{}: {source}", path.display())]
    Pem { path: PathBuf, source: rustls_pki_types::pem::Error },
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: no certificate in it", path.display())]
    Empty { path: PathBuf },
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("it has no certificate yet")]
    NoKey,
    #[error("tls: {0}")]
    Tls(#[from] rustls::Error),
}

/// Chooses ring for all TLS of this process; to be called once, first thing. A second call changes nothing.
pub fn install_crypto() {
    // An error only says that a provider was installed before, by whoever shares the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A car's certificate, its key, and the CA it trusts.
#[derive(Debug)]
pub struct Credentials {
    trusted: Arc<Trusted>,
    chain: Vec<CertificateDer<'static>>,
    /// None = it trusts, and cannot say who it is.
    key: Option<PrivateKeyDer<'static>>,
}

#[derive(Debug)]
struct Trusted {
    roots: Arc<RootCertStore>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Trusted {
    fn load(path: &Path) -> Result<Arc<Self>, IdentityError> {
        Ok(Arc::new(Self { roots: load_roots(path)?, certificates: load_chain(path)? }))
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        let key = self.key.as_ref().map(PrivateKeyDer::clone_key);
        Self { trusted: self.trusted.clone(), chain: self.chain.clone(), key }
    }
}

impl Credentials {
    /// Reads `ca.pem`, `cert.pem` and `key.pem` from a folder, as `cardea enroll` writes them.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let key_path = dir.join("key.pem");
        let key =
            PrivateKeyDer::from_pem_file(&key_path).map_err(|source| IdentityError::Pem { path: key_path, source })?;
        let (trusted, chain) = (Trusted::load(&dir.join("ca.pem"))?, load_chain(&dir.join("cert.pem"))?);
        Ok(Self { trusted, chain, key: Some(key) })
    }

    /// Of a car that has no certificate yet.
    pub fn only_trusting(ca: &Path) -> Result<Self, IdentityError> {
        Ok(Self { trusted: Trusted::load(ca)?, chain: Vec::new(), key: None })
    }

    /// Another identity that trusts the same.
    pub fn with(&self, chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Self { trusted: self.trusted.clone(), chain, key: Some(key) }
    }

    /// The end of its certificate.
    pub fn not_after(&self) -> Option<Timestamp> {
        let (_, certificate) = x509_parser::parse_x509_certificate(self.chain.first()?).ok()?;
        Some(Timestamp(certificate.validity().not_after.timestamp().saturating_mul(1000)))
    }

    /// Writes `ca.pem`, `key.pem` and `cert.pem` to a folder, made if missing. The certificate comes last and each by a
    /// rename: after a crash in between the old pair, or a key without its certificate, is renewed again.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        let failed = |source| IdentityError::Read { path: dir.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let pem = |label: &str, der: &[u8]| pem::encode(&pem::Pem::new(label, der));
        let list = |list: &[CertificateDer<'_>]| list.iter().map(|der| pem("CERTIFICATE", der)).collect::<String>();
        let key = self.key.as_ref().map_or(String::new(), |key| pem("PRIVATE KEY", key.secret_der()));
        let files = [("ca.pem", list(&self.trusted.certificates)), ("key.pem", key), ("cert.pem", list(&self.chain))];
        for (name, text) in &files {
            let fresh = dir.join(format!("{name}.new"));
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(failed)?;
            file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        for (name, _) in &files {
            std::fs::rename(dir.join(format!("{name}.new")), dir.join(name)).map_err(failed)?;
        }
        Ok(())
    }

    /// TLS settings that show no certificate.
    pub fn tls_without_identity(&self) -> Arc<ClientConfig> {
        Arc::new(ClientConfig::builder().with_root_certificates(self.trusted.roots.clone()).with_no_client_auth())
    }

    /// TLS settings with this identity. `resumes` keeps session tickets within these settings.
    pub fn tls_client(&self, resumes: bool) -> Result<Arc<ClientConfig>, IdentityError> {
        let mut config = ClientConfig::builder()
            .with_root_certificates(self.trusted.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.as_ref().ok_or(IdentityError::NoKey)?.clone_key())?;
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        Ok(Arc::new(config))
    }
}

pub fn load_roots(path: &Path) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in load_chain(path)? {
        roots.add(certificate)?;
    }
    Ok(Arc::new(roots))
}

fn load_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let failed = |source| IdentityError::Pem { path: path.to_owned(), source };
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if chain.is_empty() { Err(IdentityError::Empty { path: path.to_owned() }) } else { Ok(chain) }
}

/// A CA that makes cars' certificates in memory.
pub struct CarIssuer {
    issuer: rcgen::Issuer<'static, KeyPair>,
    trusted: Arc<Trusted>,
    /// One key pair for every car: for load, where making keys would be what is measured.
    shared_key: Option<KeyPair>,
}

impl CarIssuer {
    pub fn load(ca: &Path, ca_key: &Path, shares_key: bool) -> Result<Self, IdentityError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })
        };
        let key = KeyPair::from_pem(&read(ca_key)?)?;
        let issuer = rcgen::Issuer::from_ca_cert_pem(&read(ca)?, key)?;
        let shared_key = if shares_key { Some(new_key()?) } else { None };
        Ok(Self { issuer, trusted: Trusted::load(ca)?, shared_key })
    }

    pub fn issue(&self, vehicle_id: &VehicleId) -> Result<Credentials, IdentityError> {
        self.issue_named(vehicle_id.as_str())
    }

    /// Also for clients that are no car, such as the bench's subscriber.
    pub fn issue_named(&self, common_name: &str) -> Result<Credentials, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let own_key;
        let key = match &self.shared_key {
            Some(shared) => shared,
            None => {
                own_key = new_key()?;
                &own_key
            }
        };
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Credentials {
            trusted: self.trusted.clone(),
            chain: vec![certificate.der().clone()],
            key: Some(PrivatePkcs8KeyDer::from(key.serialize_der()).into()),
        })
    }
}

pub fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_folder_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = Credentials::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("key.pem"), "{error}");
    }
}
