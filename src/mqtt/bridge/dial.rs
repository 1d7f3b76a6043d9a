//! How the broker is reached: its certificate checked against our CA bundle, ours shown where it asks, and the waits
//! between tries. Files are read anew for each try, so that a renewed certificate needs no restart.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use rumqttc::{MqttOptions, TlsConfiguration, Transport};
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::super::StartError;
use crate::config;

/// Larger and the connection ends before the packet is read: it could be 256 MB. The broker's own limit must be lower.
const MAX_PACKET: usize = 1024 * 1024;
/// Messages for cars that the broker has not acknowledged, with one more of rumqttc's so that it never waits by itself: its
/// PUBACKs would wait with it.
pub(super) const MAX_IN_FLIGHT: u16 = 64;

/// What rumqttc connects by. The session is clean: what came while we were away is not news.
pub(super) fn options(config: &config::Bridge) -> Result<MqttOptions, StartError> {
    let unfit = |key, problem: String| StartError::Bridge { key, problem };
    let (host, port) = config.address().ok_or_else(|| unfit("bridge.broker", "not an address".into()))?;
    let mut options = MqttOptions::new(&config.client_id, host, port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls(config)?))));
    options.set_clean_session(true);
    options.set_manual_acks(true);
    options.set_keep_alive(Duration::from_secs(config.keep_alive_s));
    options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
    options.set_inflight(2 * MAX_IN_FLIGHT);
    if !config.user.is_empty() {
        options.set_credentials(&config.user, &config.password);
    }
    Ok(options)
}

fn tls(config: &config::Bridge) -> Result<ClientConfig, StartError> {
    let unfit = |key, problem: String| StartError::Bridge { key, problem };
    let ca = config.ca.as_deref().ok_or_else(|| unfit("bridge.ca", "missing".into()))?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(chain("bridge.ca", ca)?);
    if added == 0 {
        return Err(unfit("bridge.ca", format!("{}: no CA in it", ca.display())));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| unfit("bridge.ca", error.to_string()))?
        .with_root_certificates(roots);
    let (Some(certificate), Some(key)) = (config.client_cert.as_deref(), config.client_key.as_deref()) else {
        return Ok(builder.with_no_client_auth());
    };
    let own = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unfit("bridge.client_key", format!("{}: {error}", key.display())))?;
    builder
        .with_client_auth_cert(chain("bridge.client_cert", certificate)?, own)
        .map_err(|error| unfit("bridge.client_cert", format!("{}: {error}", certificate.display())))
}

fn chain(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let unfit = |problem: String| StartError::Bridge { key, problem: format!("{}: {problem}", path.display()) };
    let certificates = read().map_err(|error| unfit(error.to_string()))?;
    if certificates.is_empty() { Err(unfit("no certificate in it".into())) } else { Ok(certificates) }
}

/// The wait before the next try doubles, with jitter, so that gateways do not come back to a broker all at once. A
/// connection that held for a while starts it anew; one that was lost at once does not, so that two gateways with one client
/// id do not throw each other out in a tight loop.
pub(super) struct Backoff {
    attempt: u32,
    longest: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    /// A connection that lived so long was a good one.
    const GOOD: Duration = Duration::from_secs(5);

    pub(super) fn new(longest: Duration) -> Self {
        Self { attempt: 0, longest }
    }

    pub(super) fn lived(&mut self, lived: Duration) {
        if lived >= Self::GOOD {
            self.attempt = 0;
        }
    }

    /// Between half and all of the step.
    pub(super) fn next(&mut self) -> Duration {
        let step = Self::FIRST.saturating_mul(1 << self.attempt.min(16)).min(self.longest);
        self.attempt = self.attempt.saturating_add(1);
        let mut dice = [0; 2];
        // Without luck it is half of the step.
        let _ = SystemRandom::new().fill(&mut dice);
        step.mul_f64(0.5 + f64::from(u16::from_be_bytes(dice)) / f64::from(u16::MAX) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_anew_after_a_good_connection() {
        let longest = Duration::from_secs(30);
        let mut backoff = Backoff::new(longest);
        for attempt in 0..40 {
            let step = Backoff::FIRST.saturating_mul(1 << attempt.min(16)).min(longest);
            let wait = backoff.next();
            assert!(wait >= step / 2 && wait <= step, "attempt {attempt}: {wait:?}");
        }
        backoff.lived(Duration::from_secs(1));
        assert!(backoff.next() >= longest / 2, "one that was lost at once was no good one");
        backoff.lived(Backoff::GOOD);
        assert!(backoff.next() <= Backoff::FIRST);
    }

    #[test]
    fn a_file_that_does_not_fit_is_named_with_its_key() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, "not PEM").expect("written");
        let config =
            config::Bridge { broker: Some("mqtts://localhost".into()), ca: Some(path), ..config::Bridge::default() };
        let error = options(&config).expect_err("no certificate in it").to_string();
        assert!(error.starts_with("bridge.ca: ") && error.ends_with("no certificate in it"), "{error}");
    }
}
