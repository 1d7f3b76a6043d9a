//! `[notifier]`: who is told of alerts and events, by webhook and by e-mail.
//!
//! Secrets, passwords and URLs (whose paths may be secrets) are shown by no `Debug`.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::empty_is_none;

/// Who is told, and how hard it is tried. Without targets nothing is followed and nothing kept.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notifier {
    /// A notification is retried for this long before it becomes a dead letter.
    pub retry_for_s: u64,
    /// One try, from connecting to the answer.
    pub timeout_ms: u64,
    /// An alert that nobody acknowledged within this goes to the next step of the escalation.
    pub escalate_after_s: u64,
    /// Alerts below this are not escalated.
    pub escalate_severity: Level,
    /// In which e-mails give times, beside UTC.
    pub time_zone: String,
    /// The CloudEvents' `source`.
    pub source: String,
    /// PEM bundle that webhooks' certificates must chain to; empty = the system's.
    #[serde(with = "empty_is_none")]
    pub ca: Option<PathBuf>,
    pub webhooks: Vec<Webhook>,
    pub emails: Vec<Email>,
    pub smtp: Smtp,
}

impl Default for Notifier {
    fn default() -> Self {
        Self {
            retry_for_s: 86_400,
            timeout_ms: 10_000,
            escalate_after_s: 900,
            escalate_severity: Level::Warning,
            time_zone: "UTC".into(),
            source: "urn:cardea:gateway".into(),
            ca: None,
            webhooks: Vec::new(),
            emails: Vec::new(),
            smtp: Smtp::default(),
        }
    }
}

/// How grave an alert is; in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Info,
    Warning,
    Critical,
}

/// One `[[notifier.webhooks]]`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    pub name: String,
    /// https, or http to a loopback address.
    pub url: String,
    /// `whsec_<base64>`; with several, each signs, so that one can be rotated.
    pub secrets: Vec<String>,
    /// Beginnings of the types it gets, like `cardea.alert.`; empty = all.
    #[serde(default)]
    pub types: Vec<String>,
}

/// One `[[notifier.emails]]`: a recipient of alerts.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Email {
    pub name: String,
    pub to: String,
    #[serde(default)]
    pub language: Language,
    #[serde(default = "Email::any_severity")]
    pub min_severity: Level,
    /// 0 = told at once; n = told only when nobody acknowledged the alert within n times `escalate_after_s`.
    #[serde(default)]
    pub escalation: u8,
}

impl Email {
    pub const MAX_ESCALATION: u8 = 3;

    fn any_severity() -> Level {
        Level::Info
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    #[default]
    En,
    De,
    Ja,
}

/// The mail server that takes what is sent.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Smtp {
    /// Empty = no e-mail can be sent.
    pub host: String,
    pub port: u16,
    pub tls: SmtpTls,
    /// Empty = the server asks for no log-in.
    pub user: String,
    pub password: String,
    pub from: String,
    /// PEM bundle that the server's certificate must chain to; empty = the public ones.
    #[serde(with = "empty_is_none")]
    pub ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SmtpTls {
    /// From the first byte (usually port 465).
    Implicit,
    /// Asked for and insisted on (usually port 587).
    Starttls,
    /// Everybody on the way can read it.
    None,
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 587,
            tls: SmtpTls::Starttls,
            user: String::new(),
            password: String::new(),
            from: String::new(),
            ca: None,
        }
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("name", &self.name)
            .field("url", &format_args!("[hidden]"))
            .field("secrets", &format_args!("[{} hidden]", self.secrets.len()))
            .field("types", &self.types)
            .finish()
    }
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls)
            .field("user", &self.user)
            .field("password", &format_args!("[hidden]"))
            .field("from", &self.from)
            .field("ca", &self.ca)
            .finish()
    }
}
