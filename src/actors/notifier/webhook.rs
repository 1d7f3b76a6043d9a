//! One webhook: a CloudEvent, signed as Standard Webhooks has it, posted once.
//!
//! The answer's status is all that counts: a receiver that says 2xx has taken it, whatever becomes of its answer's body.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use ring::hmac;

use super::notification::Notification;
use super::outbox::{Failure, FailureKind};
use crate::config;
use crate::domain::Timestamp;
use crate::https_client::shown;

/// Read of an answer's body, so that a connection can be used again; more, or more slowly, and it is closed instead.
const MAX_DRAINED: usize = 16 * 1024;
const DRAIN: Duration = Duration::from_millis(500);

pub struct Webhook {
    client: Client,
    url: Url,
    keys: Vec<hmac::Key>,
    types: Vec<String>,
    source: String,
}

/// Neither the keys nor the URL, whose path may be a secret.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("types", &self.types).finish_non_exhaustive()
    }
}

impl Webhook {
    pub fn new(config: &config::Webhook, source: &str, client: Client) -> Result<Self, String> {
        // The address was checked with the configuration; its text is not shown.
        let url = Url::parse(&config.url).map_err(|_| "the url cannot be read".to_owned())?;
        let keys = config.keys();
        Ok(Self {
            client,
            url,
            keys: keys.iter().map(|key| hmac::Key::new(hmac::HMAC_SHA256, key)).collect(),
            types: config.types.clone(),
            source: source.to_owned(),
        })
    }

    pub fn wants(&self, kind: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|beginning| kind.starts_with(beginning.as_str()))
    }

    /// Whether anything whose type begins so could be wanted.
    pub fn may_want(&self, beginning: &str) -> bool {
        self.types.is_empty()
            || self.types.iter().any(|wanted| wanted.starts_with(beginning) || beginning.starts_with(wanted.as_str()))
    }

    pub async fn deliver(&self, notification: &Notification, now: Timestamp) -> Result<(), Failure> {
        let body = notification.body(&self.source).map_err(|error| Failure {
            error: format!("it has no JSON form: {error}"),
            kind: FailureKind::Gone,
            retry_after_ms: None,
        })?;
        let (id, at_s) = (notification.id.to_string(), now.as_secs());
        let request = self
            .client
            .post(self.url.clone())
            .header("Content-Type", "application/cloudevents+json")
            .header("webhook-signature", signatures(&self.keys, &id, at_s, &body))
            .header("webhook-id", id)
            .header("webhook-timestamp", at_s)
            .body(body);
        let mut answer = request.send().await.map_err(|error| Failure {
            error: shown(&error),
            kind: FailureKind::Passing,
            retry_after_ms: None,
        })?;
        let outcome = judge(answer.status(), answer.headers(), now);
        let drain = async {
            let mut read = 0;
            while let Ok(Some(chunk)) = answer.chunk().await {
                read += chunk.len();
                if read > MAX_DRAINED {
                    break;
                }
            }
        };
        // What the body says, and whether it ends, changes nothing.
        let _ = tokio::time::timeout(DRAIN, drain).await;
        outcome
    }
}

/// `v1,<base64>` for each key, with a space between.
fn signatures(keys: &[hmac::Key], id: &str, at_s: i64, body: &[u8]) -> String {
    let mut signed = format!("{id}.{at_s}.").into_bytes();
    signed.extend_from_slice(body);
    let each = keys.iter().map(|key| format!("v1,{}", STANDARD.encode(hmac::sign(key, &signed))));
    each.collect::<Vec<_>>().join(" ")
}

fn judge(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let kind = match status.as_u16() {
        410 => FailureKind::Gone,
        408 | 425 | 429 => FailureKind::Passing,
        300..=499 => FailureKind::Refused,
        _ => FailureKind::Passing,
    };
    Err(Failure { error: format!("it answered {status}"), kind, retry_after_ms: retry_after_ms(headers, now) })
}

/// `Retry-After` in seconds or as a date.
fn retry_after_ms(headers: &HeaderMap, now: Timestamp) -> Option<i64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(i64::from(seconds) * 1_000);
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_millisecond();
    Some(at.saturating_sub(now.0).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_of_the_specification() {
        // The example of the Standard Webhooks specification.
        let key = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let keys = [hmac::Key::new(hmac::HMAC_SHA256, &key)];
        let signed = signatures(&keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn answers_are_judged_by_their_status() {
        let kind = |status: u16| {
            judge(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), Timestamp(0))
                .err()
                .map(|failed| failed.kind)
        };
        assert_eq!(kind(200), None);
        assert_eq!(kind(204), None);
        assert_eq!(kind(302), Some(FailureKind::Refused), "redirects are not followed");
        assert_eq!(kind(400), Some(FailureKind::Refused));
        assert_eq!(kind(410), Some(FailureKind::Gone));
        for passing in [408, 425, 429, 500, 503] {
            assert_eq!(kind(passing), Some(FailureKind::Passing));
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after_ms(&headers, Timestamp(784_111_767_000))
        };
        assert_eq!(wait("120"), Some(120_000));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(10_000));
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("-1"), None);
    }
}
