//! The client for calls that leave the gateway: to webhooks and to the identity provider.

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, redirect};

/// Connections to one host that may rest.
const MAX_IDLE: usize = 2;
pub const MAX_ERROR_CHARS: usize = 300;

/// Redirects and proxies are not followed: what is told goes where it was said. `ca` = PEM bundle that certificates must
/// chain to; `None` = the CAs that the system trusts. The error is for the operator.
pub fn build(ca: Option<&Path>, timeout: Duration) -> Result<Client, String> {
    let mut builder = Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .pool_max_idle_per_host(MAX_IDLE)
        .user_agent(concat!("cardea/", env!("CARGO_PKG_VERSION")));
    if let Some(path) = ca {
        let pem = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| error.to_string())?;
        if certificates.is_empty() {
            return Err(format!("{}: no certificate in it", path.display()));
        }
        builder = builder.tls_certs_only(certificates);
    }
    builder.build().map_err(|error| shown(&error))
}

/// Without the URL, and with the reason below the reason.
pub fn shown(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() {
        "it did not answer in time".to_owned()
    } else if error.is_connect() {
        "it cannot be reached".to_owned()
    } else {
        "the connection broke".to_owned()
    };
    let mut deepest: Option<&dyn std::error::Error> = None;
    let mut next = std::error::Error::source(error);
    while let Some(inner) = next {
        deepest = Some(inner);
        next = inner.source();
    }
    if let Some(inner) = deepest {
        text.push_str(": ");
        text.push_str(&inner.to_string());
    }
    plain(&text)
}

/// One line, not too long.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_ERROR_CHARS).collect()
}
