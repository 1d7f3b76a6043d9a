//! A car's own part of Enrolment over Secure Transport (RFC 7030): the first certificate by a one-time token, each later
//! one by the certificate before, and when it is time for that.
//!
//! The private key is made here and never leaves; who wants to keep it calls [`Credentials::save`].

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cardea::clock::Clock;
use cardea::domain::{Timestamp, VehicleId};
use clap::Args;
use cms::cert::CertificateChoices;
use cms::content_info::ContentInfo;
use cms::signed_data::SignedData;
use rcgen::{CertificateParams, DnType, KeyPair};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, RequestBuilder};
use rustls_pki_types::CertificateDer;
use x509_cert::der::{Decode, Encode};

use crate::failure::Failure;
use crate::identity::{self, Credentials, IdentityError};

const TIMEOUT: Duration = Duration::from_secs(20);
/// An answer holds a handful of certificates.
const MAX_ANSWER: usize = 256 * 1024;
const SHOWN_CHARS: usize = 300;

/// Why there is no new certificate; the old one is as good as it was.
#[derive(Debug, thiserror::Error)]
pub enum EstError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("making a key or a request: {0}")]
    Make(#[from] rcgen::Error),
    /// It may have been signed; asking again with the same token gets an answer only for the same key.
    #[error("no answer: {0}")]
    NoAnswer(#[from] reqwest::Error),
    #[error("answered {status}: {detail}")]
    Refused { status: u16, detail: String },
    #[error("the answer is not a certificate: {0}")]
    Unreadable(&'static str),
}

/// A car's wish to have a fresh certificate in time.
#[derive(Debug, Clone)]
pub struct Renewal {
    /// Like `https://127.0.0.1:8443`.
    pub http: String,
    /// How long before its end a certificate is renewed.
    pub before: Duration,
    /// Where to keep what is got; none = in memory only.
    pub dir: Option<PathBuf>,
}

impl Renewal {
    /// Tries again after this long, or a tenth of what is left.
    const RETRY: Duration = Duration::from_secs(60);

    /// Waits until it is time, renews, and tries again until it is done.
    pub async fn next(self, vehicle: VehicleId, old: Credentials, clock: Clock) -> Credentials {
        let left = |now: Timestamp| {
            let left_ms = old.not_after().map_or(0, |end| end.since_ms(now));
            Duration::from_millis(u64::try_from(left_ms).unwrap_or(0))
        };
        tokio::time::sleep(left(clock.now()).saturating_sub(self.before)).await;
        loop {
            let renewed = async {
                let new = renew(&self.http, &old, &vehicle).await?;
                match &self.dir {
                    Some(dir) => new.save(dir).map(|()| new).map_err(EstError::from),
                    None => Ok(new),
                }
            };
            match renewed.await {
                Ok(new) => return new,
                Err(error) => tracing::warn!(%vehicle, %error, "the certificate could not be renewed"),
            }
            tokio::time::sleep((left(clock.now()) / 10).clamp(Duration::from_secs(1), Self::RETRY)).await;
        }
    }
}

/// The first certificate of a car, by a token that the operator gave it.
pub async fn enroll(
    http: &str,
    trusted: &Credentials,
    vehicle: &VehicleId,
    token: &str,
) -> Result<Credentials, EstError> {
    let client = client(trusted, false)?;
    let key = identity::new_key()?;
    let request = client.post(format!("{http}/.well-known/est/simpleenroll"));
    let request = request.basic_auth(vehicle.as_str(), Some(token)).body(csr(vehicle, &key)?);
    Ok(trusted.with(send(request).await?, &key))
}

/// A new certificate for a fresh key, by the one there is.
pub async fn renew(http: &str, old: &Credentials, vehicle: &VehicleId) -> Result<Credentials, EstError> {
    let key = identity::new_key()?;
    let request = client(old, true)?.post(format!("{http}/.well-known/est/simplereenroll")).body(csr(vehicle, &key)?);
    Ok(old.with(send(request).await?, &key))
}

/// Every CA that the gateway says cars' certificates come from.
pub async fn ca_certificates(http: &str, trusted: &Credentials) -> Result<Vec<CertificateDer<'static>>, EstError> {
    send(client(trusted, false)?.get(format!("{http}/.well-known/est/cacerts"))).await
}

fn client(credentials: &Credentials, shows_certificate: bool) -> Result<Client, EstError> {
    let tls = if shows_certificate { credentials.tls_client(false)? } else { credentials.tls_without_identity() };
    Ok(Client::builder().tls_backend_preconfigured((*tls).clone()).no_proxy().timeout(TIMEOUT).build()?)
}

fn csr(vehicle: &VehicleId, key: &KeyPair) -> Result<String, EstError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, vehicle.as_str());
    Ok(STANDARD.encode(params.serialize_request(key)?.der()))
}

async fn send(request: RequestBuilder) -> Result<Vec<CertificateDer<'static>>, EstError> {
    let answer = request.header(CONTENT_TYPE, "application/pkcs10").send().await?;
    let status = answer.status();
    let body = answer.bytes().await?;
    if !status.is_success() {
        let detail = String::from_utf8_lossy(&body).chars().take(SHOWN_CHARS).collect();
        return Err(EstError::Refused { status: status.as_u16(), detail });
    }
    certificates(&body)
}

/// The certificates of a certs-only CMS in base64.
fn certificates(body: &[u8]) -> Result<Vec<CertificateDer<'static>>, EstError> {
    use EstError::Unreadable;
    if body.len() > MAX_ANSWER {
        return Err(Unreadable("it is too long"));
    }
    let text: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(text).map_err(|_| Unreadable("it is not base64"))?;
    let content = ContentInfo::from_der(&der).map_err(|_| Unreadable("it is not CMS"))?;
    let signed: SignedData = content.content.decode_as().map_err(|_| Unreadable("it is no SignedData"))?;
    let set = signed.certificates.ok_or(Unreadable("it holds none"))?;
    let each = set.0.iter().map(|choice| match choice {
        CertificateChoices::Certificate(certificate) => {
            certificate.to_der().map(CertificateDer::from).map_err(|_| Unreadable("one cannot be read"))
        }
        CertificateChoices::Other(_) => Err(Unreadable("one is of another kind")),
    });
    let found: Vec<_> = each.collect::<Result<_, _>>()?;
    if found.is_empty() { Err(Unreadable("it holds none")) } else { Ok(found) }
}

#[derive(Debug, Args)]
pub struct EnrollArgs {
    /// The gateway's HTTP address, like https://127.0.0.1:8443
    #[arg(long)]
    http: String,
    /// The CA of its certificate
    #[arg(long)]
    ca: PathBuf,
    #[arg(long)]
    vehicle: VehicleId,
    /// The one-time token that the operator gave for this car
    #[arg(long, env = "CARDEA_ENROLMENT_TOKEN", hide_env_values = true)]
    token: String,
    /// The folder for ca.pem, cert.pem and key.pem
    #[arg(long)]
    out: PathBuf,
}

/// `enroll`: a folder as `cardea enroll` writes it, but with a key that only this machine ever had.
pub async fn run(args: EnrollArgs) -> Result<(), Failure> {
    let trusted = Credentials::only_trusting(&args.ca)?;
    let enrolled = enroll(args.http.trim_end_matches('/'), &trusted, &args.vehicle, &args.token).await?;
    enrolled.save(&args.out)?;
    let end = enrolled.not_after().map_or("an unknown time".into(), |end| end.to_string());
    println!("{} has a certificate until {end}, in {}", args.vehicle, args.out.display());
    Ok(())
}
