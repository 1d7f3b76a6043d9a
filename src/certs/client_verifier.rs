//! Verifiers of client certificates around rustls' own: one whose trust can be replaced while servers run, and one that
//! keeps the name a refused certificate claimed, so that a car that is not let in can be found by its name.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::PeerIdentity;
use crate::domain::VehicleId;

/// A vehicle's name that a refused certificate carries. Anybody can write one: it is a hint and proves nothing.
pub type ClaimedName = VehicleId;

tokio::task_local! {
    static CLAIMED: RefCell<Option<ClaimedName>>;
}

/// Does a handshake, and tells beside its outcome which name was claimed by a certificate that was not trusted in it.
pub async fn claimed_by<T>(handshake: impl Future<Output = T>) -> (T, Option<ClaimedName>) {
    CLAIMED
        .scope(RefCell::default(), async {
            let outcome = handshake.await;
            (outcome, CLAIMED.with(RefCell::take))
        })
        .await
}

macro_rules! as_inner {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner().verify_tls12_signature(message, certificate, signature)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner().verify_tls13_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.inner().supported_verify_schemes()
        }

        fn offer_client_auth(&self) -> bool {
            self.inner().offer_client_auth()
        }

        fn client_auth_mandatory(&self) -> bool {
            self.inner().client_auth_mandatory()
        }
    };
}

/// Notes the name of a certificate that is refused; all else is the inner one's.
#[derive(Debug)]
pub struct NotingVerifier(pub Arc<dyn ClientCertVerifier>);

impl NotingVerifier {
    fn inner(&self) -> &dyn ClientCertVerifier {
        &*self.0
    }
}

impl ClientCertVerifier for NotingVerifier {
    as_inner!();

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(end_entity, intermediates, now);
        if verified.is_err()
            && let Ok(claimed) = PeerIdentity::of(end_entity)
        {
            // Outside of `claimed_by` nobody wants to know.
            let _ = CLAIMED.try_with(|noted| noted.replace(Some(claimed.vehicle)));
        }
        verified
    }
}

/// The trust in force; [`CurrentVerifier::replace`] changes it for every handshake that begins afterwards.
#[derive(Debug)]
pub struct CurrentVerifier {
    now: ArcSwap<Arc<dyn ClientCertVerifier>>,
    /// Of the start: rustls borrows them for as long as the verifier lives.
    hints: Vec<DistinguishedName>,
}

impl CurrentVerifier {
    pub fn new(verifier: Arc<dyn ClientCertVerifier>) -> Self {
        let hints = verifier.root_hint_subjects().to_vec();
        Self { now: ArcSwap::from_pointee(verifier), hints }
    }

    pub fn replace(&self, verifier: Arc<dyn ClientCertVerifier>) {
        self.now.store(Arc::new(verifier));
    }

    fn inner(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.now.load())
    }
}

impl ClientCertVerifier for CurrentVerifier {
    as_inner!();

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.inner().verify_client_cert(end_entity, intermediates, now)
    }
}
