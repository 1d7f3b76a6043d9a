//! Who a car is on the wire: its certificate, and the TLS settings made of it.
//!
//! Loads what `cardea enroll` wrote, or makes certificates itself from a CA's key for fleets of thousands. It never
//! writes a private key anywhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cardea::domain::VehicleId;
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
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        Self { roots: self.roots.clone(), chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Credentials {
    /// Reads `ca.pem`, `cert.pem` and `key.pem` from a folder, as `cardea enroll` writes them.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let key_path = dir.join("key.pem");
        let key =
            PrivateKeyDer::from_pem_file(&key_path).map_err(|source| IdentityError::Pem { path: key_path, source })?;
        Ok(Self { roots: load_roots(&dir.join("ca.pem"))?, chain: load_chain(&dir.join("cert.pem"))?, key })
    }

    /// TLS settings with this identity. `resumes` keeps session tickets within these settings.
    pub fn tls_client(&self, resumes: bool) -> Result<Arc<ClientConfig>, IdentityError> {
        let mut config = ClientConfig::builder()
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())?;
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
    roots: Arc<RootCertStore>,
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
        Ok(Self { issuer, roots: load_roots(ca)?, shared_key })
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
            roots: self.roots.clone(),
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }
}

fn new_key() -> Result<KeyPair, rcgen::Error> {
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
