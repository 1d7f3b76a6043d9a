//! The fleet's keys and certificates: makes the CA, signs the server's and the cars' certificates, makes API keys.
//!
//! Used by `cardea init` and `enroll`, by the certificate route and by tests. Private key files are created readable
//! by their owner alone. It never reads a clock (`now` is an argument) and never logs what it made.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, ServerName};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::domain::{Timestamp, VehicleId};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// A car's clock may be slow: certificates are good from an hour before they were made.
const BACKDATE_MS: i64 = HOUR_MS;
const CA_DAYS: u32 = 20 * 365;
/// What strict TLS clients accept at most for a server certificate of a private CA.
const SERVER_DAYS: u32 = 825;
/// A CSR with an RSA-4096 key is under 2 kB.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// Why there is no certificate or key. Nothing was made or written, but for [`PkiError::Io`].
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("no random numbers from the system")]
    Random,
    #[error("`{0}` is neither a host name nor an IP address")]
    Host(String),
    #[error("the CA cannot sign: {0}")]
    Ca(&'static str),
    #[error("the certificate request is refused: {0}")]
    Request(&'static str),
    #[error("the fleet's signing key is not an Ed25519 PKCS#8 PEM file")]
    SigningKey,
    #[error("the certificate could not be made: {0}")]
    Rcgen(#[from] rcgen::Error),
    #[error("cannot write {path}: {message}")]
    Io { path: String, kind: io::ErrorKind, message: String },
}

/// A certificate with its private key, both PEM. No `Debug`: the key reaches no log.
pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
}

/// A certificate the CA signed for someone else's key.
#[derive(Debug, Clone)]
pub struct SignedCert {
    pub pem: String,
    /// 16 random bytes, positive; what a revocation names.
    pub serial: [u8; 16],
    pub not_after: Timestamp,
}

/// The fleet's certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    not_after: Timestamp,
}

impl Ca {
    /// Makes a CA with a fresh ECDSA P-256 key, good for 20 years.
    pub fn create(now: Timestamp) -> Result<Identity, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let serial = new_serial()?;
        let mut params = CertificateParams::default();
        // The serial in the name tells two fleets' CAs apart in a list.
        params.distinguished_name = name(&format!("Cardea fleet CA {}", hex::encode(&serial[..4])));
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, now.plus_ms(i64::from(CA_DAYS) * DAY_MS));
        let cert = params.self_signed(&key)?;
        Ok(Identity { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// Takes the first certificate of `ca_pem` and its private key (PKCS#8 PEM); refuses a pair that does not belong
    /// together, since nobody would accept what it signs.
    pub fn load(ca_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key_pem).map_err(|_| PkiError::Ca("its private key is not a PKCS#8 PEM file"))?;
        let der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|_| PkiError::Ca("its certificate is not a PEM file"))?;
        let (_, cert) =
            x509_parser::parse_x509_certificate(&der).map_err(|_| PkiError::Ca("its certificate cannot be read"))?;
        if !cert.is_ca() {
            return Err(PkiError::Ca("the first certificate of certs.ca is not a CA's"));
        }
        if cert.public_key().raw != key.subject_public_key_info() {
            return Err(PkiError::Ca("certs.ca_key is not the key of the first certificate of certs.ca"));
        }
        let not_after = Timestamp(cert.validity().not_after.timestamp().saturating_mul(1000));
        Ok(Self { issuer: Issuer::from_ca_cert_der(&der, key)?, not_after })
    }

    /// The gateway's own certificate, for `hosts` (names or IP addresses), good for 825 days.
    pub fn issue_server(&self, hosts: &[String], now: Timestamp) -> Result<Identity, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Cardea gateway");
        params.subject_alt_names = hosts.iter().map(|host| san(host)).collect::<Result<_, _>>()?;
        let signed = self.sign(params, ExtendedKeyUsagePurpose::ServerAuth, &key, SERVER_DAYS, now)?;
        Ok(Identity { cert_pem: signed.pem, key_pem: key.serialize_pem() })
    }

    /// A car's certificate with a fresh key, for cars that cannot make their own.
    pub fn issue_vehicle(&self, vehicle: &VehicleId, days: u32, now: Timestamp) -> Result<Identity, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let signed = self.sign(vehicle_params(vehicle), ExtendedKeyUsagePurpose::ClientAuth, &key, days, now)?;
        Ok(Identity { cert_pem: signed.pem, key_pem: key.serialize_pem() })
    }

    /// Signs a car's own certificate request (PEM). Its one common name must be the vehicle; whatever else it asks for
    /// (names, usages, extensions) is ignored. Keys: ECDSA P-256 or P-384, Ed25519, RSA of 2048 to 4096 bits.
    pub fn sign_request(
        &self,
        csr_pem: &str,
        vehicle: &VehicleId,
        days: u32,
        now: Timestamp,
    ) -> Result<SignedCert, PkiError> {
        if csr_pem.len() > MAX_CSR_BYTES {
            return Err(PkiError::Request("it is larger than 16 KiB"));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
            .map_err(|_| PkiError::Request("it is not a PEM certificate request"))?;
        self.sign_request_der(&der, vehicle, days, now)
    }

    /// [`Ca::sign_request`] of a request in DER.
    pub fn sign_request_der(
        &self,
        csr: &[u8],
        vehicle: &VehicleId,
        days: u32,
        now: Timestamp,
    ) -> Result<SignedCert, PkiError> {
        let key = requested_key(csr, vehicle)?;
        self.sign(vehicle_params(vehicle), ExtendedKeyUsagePurpose::ClientAuth, &key, days, now)
    }

    fn sign(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
        key: &impl PublicKeyData,
        days: u32,
        now: Timestamp,
    ) -> Result<SignedCert, PkiError> {
        if now > self.not_after {
            return Err(PkiError::Ca("its certificate has expired"));
        }
        let serial = new_serial()?;
        // A certificate that outlives its CA only looks valid.
        let not_after = now.plus_ms(i64::from(days) * DAY_MS).min(self.not_after);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, not_after);
        let cert = params.signed_by(key, &self.issuer)?;
        Ok(SignedCert { pem: cert.pem(), serial, not_after })
    }
}

/// Name and end of each certificate in a PEM text. The error is for the operator.
pub fn ends(pem: &str) -> Result<Vec<(String, Timestamp)>, String> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    certificates
        .map(|der| {
            let der = der.map_err(|error| error.to_string())?;
            let (_, cert) = x509_parser::parse_x509_certificate(&der).map_err(|error| error.to_string())?;
            let name = cert.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
            let not_after = Timestamp(cert.validity().not_after.timestamp().saturating_mul(1000));
            Ok((name.unwrap_or("without a name").to_owned(), not_after))
        })
        .collect()
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn vehicle_params(vehicle: &VehicleId) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(vehicle.as_str());
    params
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, not_after: Timestamp) {
    // Both are in the years 0000 to 9999, as every `Timestamp` is.
    let date =
        |time: Timestamp| OffsetDateTime::from_unix_timestamp(time.as_secs()).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    params.not_before = date(now.plus_ms(-BACKDATE_MS));
    params.not_after = date(not_after);
}

fn san(host: &str) -> Result<SanType, PkiError> {
    let refuse = || PkiError::Host(host.to_owned());
    match ServerName::try_from(host).map_err(|_| refuse())? {
        ServerName::DnsName(name) => Ok(SanType::DnsName(name.as_ref().try_into().map_err(|_| refuse())?)),
        ServerName::IpAddress(address) => Ok(SanType::IpAddress(address.into())),
        _ => Err(refuse()),
    }
}

/// Checks whether a certificate can be made for `host`: a name without wildcards, or an IP address.
pub fn check_host(host: &str) -> Result<(), PkiError> {
    san(host).map(|_| ())
}

/// The public key of a certificate request whose subject is `vehicle` and whose maker holds the private half.
fn requested_key(der: &[u8], vehicle: &VehicleId) -> Result<SubjectPublicKeyInfo, PkiError> {
    use PkiError::Request;
    if der.len() > MAX_CSR_BYTES {
        return Err(Request("it is larger than 16 KiB"));
    }
    let (rest, csr) =
        X509CertificationRequest::from_der(der).map_err(|_| Request("it is not a certificate request"))?;
    if !rest.is_empty() {
        return Err(Request("bytes follow it"));
    }
    let info = &csr.certification_request_info;
    let mut names = info.subject.iter_common_name();
    let (Some(common_name), None) = (names.next(), names.next()) else {
        return Err(Request("its subject has not exactly one common name"));
    };
    if common_name.as_str().ok() != Some(vehicle.as_str()) {
        return Err(Request("its common name is not the vehicle's id"));
    }
    let weak = Request("its key is neither ECDSA P-256 or P-384, nor Ed25519, nor RSA of 2048 to 4096 bits");
    // rcgen knows P-256, P-384, Ed25519 and RSA, and refuses every other algorithm.
    let Ok(key) = SubjectPublicKeyInfo::from_der(info.subject_pki.raw) else {
        return Err(weak);
    };
    if let Ok(PublicKey::RSA(rsa)) = info.subject_pki.parsed()
        && !(2048..=4096).contains(&rsa.key_size())
    {
        return Err(weak);
    }
    csr.verify_signature().map_err(|_| Request("its signature does not fit its key"))?;
    Ok(key)
}

/// 16 random bytes, positive and of full length: the top bit clear, the next one set.
fn new_serial() -> Result<[u8; 16], PkiError> {
    let mut serial: [u8; 16] = random()?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn random<const N: usize>() -> Result<[u8; N], PkiError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PkiError::Random)?;
    Ok(bytes)
}

/// A fresh Ed25519 key that signs the tokens of virtual keys.
pub fn new_signing_key() -> Result<SigningKey, PkiError> {
    Ok(SigningKey::from_bytes(&random()?))
}

/// PKCS#8 PEM of a signing key.
pub fn signing_key_pem(key: &SigningKey) -> Result<String, PkiError> {
    key.to_pkcs8_pem(LineEnding::LF).map(|pem| pem.to_string()).map_err(|_| PkiError::SigningKey)
}

pub fn parse_signing_key(pem: &str) -> Result<SigningKey, PkiError> {
    SigningKey::from_pkcs8_pem(pem).map_err(|_| PkiError::SigningKey)
}

/// A fresh API key: `ck_` and 43 characters of base64url, 256 random bits.
pub fn new_api_key() -> Result<String, PkiError> {
    Ok(format!("ck_{}", URL_SAFE_NO_PAD.encode(random::<32>()?)))
}

/// What is kept of an API key: lower-case hex SHA-256 of its text, `ck_` included.
pub fn api_key_sha256(api_key: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, api_key.as_bytes()))
}

/// Makes a folder that its owner alone may enter.
pub fn create_private_dir(path: &Path) -> Result<(), PkiError> {
    DirBuilder::new().mode(0o700).create(path).map_err(|error| io_error(path, &error))
}

/// Writes a new file that its owner alone may read; refuses to replace one.
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    write_new(path, text, 0o600)
}

/// Writes a new file that everyone may read; refuses to replace one.
pub fn write_public(path: &Path, text: &str) -> Result<(), PkiError> {
    write_new(path, text, 0o644)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let write = || {
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error: io::Error| io_error(path, &error))
}

fn io_error(path: &Path, error: &io::Error) -> PkiError {
    PkiError::Io { path: path.display().to_string(), kind: error.kind(), message: error.to_string() }
}

#[cfg(test)]
#[path = "pki_tests.rs"]
mod tests;
