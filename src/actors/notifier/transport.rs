//! The ways a notification goes out.

use super::email::Email;
use super::notification::Notification;
use super::outbox::Failure;
use super::webhook::Webhook;
use crate::domain::Timestamp;

pub enum Transport {
    Webhook(Webhook),
    Email(Email),
}

impl Transport {
    /// One try, within `notifier.timeout_ms`.
    pub async fn deliver(&self, notification: &Notification, now: Timestamp) -> Result<(), Failure> {
        match self {
            Self::Webhook(webhook) => webhook.deliver(notification, now).await,
            Self::Email(email) => email.deliver(notification).await,
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::Email(_) => "email",
        }
    }

    /// Could it want anything whose type begins so?
    pub fn may_want(&self, beginning: &str) -> bool {
        match self {
            Self::Webhook(webhook) => webhook.may_want(beginning),
            Self::Email(_) => beginning == "cardea.alert.",
        }
    }
}
