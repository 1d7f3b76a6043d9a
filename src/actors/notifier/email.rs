//! One recipient of e-mails: an alert in their language, handed to the mail server once.

use std::fmt;
use std::time::{Duration, SystemTime};

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, SinglePart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};

use super::notification::Notification;
use super::outbox::{Failure, FailureKind};
use super::templates::{self, Writing};
use crate::config::{self, SmtpTls};
use crate::https_client::plain;

pub type Server = AsyncSmtpTransport<Tokio1Executor>;

/// The mail server, as it is configured.
pub fn server(config: &config::Smtp, timeout: Duration) -> Result<Server, String> {
    let tls = match config.tls {
        SmtpTls::None => Tls::None,
        SmtpTls::Starttls => Tls::Required(tls(config)?),
        SmtpTls::Implicit => Tls::Wrapper(tls(config)?),
    };
    let mut builder = Server::builder_dangerous(&config.host).port(config.port).tls(tls).timeout(Some(timeout));
    if !config.user.is_empty() {
        builder = builder.credentials(Credentials::new(config.user.clone(), config.password.clone()));
    }
    Ok(builder.build())
}

fn tls(config: &config::Smtp) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(config.host.clone());
    if let Some(path) = &config.ca {
        let pem = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        if !String::from_utf8_lossy(&pem).contains("BEGIN CERTIFICATE") {
            return Err(format!("{}: no certificate in it", path.display()));
        }
        let certificate = Certificate::from_pem(&pem).map_err(|error| format!("{}: {error}", path.display()))?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(certificate);
    }
    builder.build().map_err(|error| error.to_string())
}

pub struct Email {
    server: Server,
    from: Mailbox,
    to: Mailbox,
    timeout: Duration,
    writing: Writing,
    pub min_severity: config::Level,
    pub escalation: u8,
}

/// Neither the log-in nor the address.
impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Email").field("writing", &self.writing).finish_non_exhaustive()
    }
}

impl Email {
    pub fn new(config: &config::Notifier, email: &config::Email, server: Server) -> Result<Self, String> {
        let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|_| format!("{text:?} is no e-mail address"));
        Ok(Self {
            server,
            from: mailbox(&config.smtp.from)?,
            to: mailbox(&email.to)?,
            timeout: Duration::from_millis(config.timeout_ms),
            writing: Writing::new(email.language, &config.time_zone),
            min_severity: email.min_severity,
            escalation: email.escalation,
        })
    }

    pub async fn deliver(&self, notification: &Notification) -> Result<(), Failure> {
        let message = self.message(notification).map_err(|error| Failure {
            error: format!("no e-mail can be written: {error}"),
            kind: FailureKind::Gone,
            retry_after_ms: None,
        })?;
        let passing = |error: String| Failure { error, kind: FailureKind::Passing, retry_after_ms: None };
        match tokio::time::timeout(self.timeout, self.server.send(message)).await {
            Err(_) => Err(passing("the mail server did not take it in time".into())),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let mut failure = passing(plain(&format!("the mail server: {error}")));
                if error.is_permanent() {
                    failure.kind = FailureKind::Refused;
                }
                Err(failure)
            }
        }
    }

    fn message(&self, notification: &Notification) -> Result<Message, String> {
        let templates::Letter { subject, text } = self.writing.letter(notification);
        let domain = self.from.email.domain();
        let sent_at = Duration::from_millis(u64::try_from(notification.at.0).unwrap_or(0));
        let mut builder = Message::builder()
            .from(self.from.clone())
            .to(self.to.clone())
            .subject(subject)
            .date(SystemTime::UNIX_EPOCH + sent_at)
            // The same each time, so that a mail told twice can be known.
            .message_id(Some(format!("<{}@{domain}>", notification.id)));
        if let Some(alert) = &notification.alert {
            // What concerns one alert stands together.
            builder = builder.references(format!("<alert-{}@{domain}>", alert.alert_id));
        }
        let part = SinglePart::builder().header(ContentType::TEXT_PLAIN).body(text);
        let mut message = builder.singlepart(part).map_err(|error| error.to_string())?;
        let name = HeaderName::new_from_ascii_str("Auto-Submitted");
        message.headers_mut().insert_raw(HeaderValue::new(name, "auto-generated".into()));
        Ok(message)
    }
}
