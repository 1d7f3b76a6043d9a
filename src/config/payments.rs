//! `[payments.*]`: one table for each form of a payment network.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What to answer when there is no recorded decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    #[default]
    Decline,
    /// Up to `approve_up_to_minor`.
    Approve,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Payments {
    pub stripe: Stripe,
    pub own: Form,
    pub marqeta: Marqeta,
    pub lithic: Form,
}

#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Stripe {
    /// Webhook signing secrets; any of them passes, so that one can be rotated. Empty = the route answers 404.
    pub secrets: Vec<String>,
    /// Echoed in the `Stripe-Version` header.
    pub api_version: String,
    /// How far the signature's time may be from ours, in either direction.
    pub tolerance_s: u64,
    /// The guard answers within this, whatever happens; the other forms' questions too.
    pub deadline_ms: u64,
    pub max_body_bytes: usize,
    /// Well-signed messages per second, and at once.
    pub rate_per_s: u32,
    pub rate_burst: u32,
    pub fallback: Fallback,
    pub approve_up_to_minor: i64,
}

impl Default for Stripe {
    fn default() -> Self {
        let Form { secrets, tolerance_s, max_body_bytes, rate_per_s, rate_burst, fallback, approve_up_to_minor } =
            Form::default();
        Self {
            secrets,
            api_version: "2026-10-28".into(),
            tolerance_s,
            deadline_ms: 300,
            max_body_bytes,
            rate_per_s,
            rate_burst,
            fallback,
            approve_up_to_minor,
        }
    }
}

macro_rules! forms {
    ($($(#[$doc:meta])* $name:ident, $tolerance_s:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            /// Any of them passes, so that one can be rotated. Empty = the routes answer 404.
            pub secrets: Vec<String>,
            pub tolerance_s: u64,
            pub max_body_bytes: usize,
            /// Well-signed messages per second, and at once.
            pub rate_per_s: u32,
            pub rate_burst: u32,
            pub fallback: Fallback,
            pub approve_up_to_minor: i64,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    secrets: Vec::new(),
                    tolerance_s: $tolerance_s,
                    // An event with everything expanded has some 20 kB.
                    max_body_bytes: 128 * 1024,
                    rate_per_s: 10_000,
                    rate_burst: 20_000,
                    fallback: Fallback::Decline,
                    approve_up_to_minor: 10_000,
                }
            }
        }

        impl $name {
            pub fn settings(&self) -> FormSettings<'_> {
                FormSettings {
                    secrets: &self.secrets,
                    tolerance_s: self.tolerance_s,
                    max_body_bytes: self.max_body_bytes,
                    rate_per_s: self.rate_per_s,
                    rate_burst: self.rate_burst,
                    fallback: self.fallback,
                    approve_up_to_minor: self.approve_up_to_minor,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.settings().fmt(f)
            }
        }
    )*};
}

forms! {
    /// A form that is signed by Standard Webhooks.
    Form, 300;
    /// Its requests carry no signature, only a password and the time of the transaction.
    Marqeta, 3_600;
}

/// What all forms have, for whoever treats them alike.
#[derive(Clone, Copy)]
pub struct FormSettings<'a> {
    pub secrets: &'a [String],
    pub tolerance_s: u64,
    pub max_body_bytes: usize,
    pub rate_per_s: u32,
    pub rate_burst: u32,
    pub fallback: Fallback,
    pub approve_up_to_minor: i64,
}

impl Stripe {
    pub fn settings(&self) -> FormSettings<'_> {
        FormSettings {
            secrets: &self.secrets,
            tolerance_s: self.tolerance_s,
            max_body_bytes: self.max_body_bytes,
            rate_per_s: self.rate_per_s,
            rate_burst: self.rate_burst,
            fallback: self.fallback,
            approve_up_to_minor: self.approve_up_to_minor,
        }
    }
}

/// Secrets reach no log.
impl fmt::Debug for FormSettings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FormSettings")
            .field("secrets", &format_args!("[{} hidden]", self.secrets.len()))
            .field("tolerance_s", &self.tolerance_s)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("rate_per_s", &self.rate_per_s)
            .field("rate_burst", &self.rate_burst)
            .field("fallback", &self.fallback)
            .field("approve_up_to_minor", &self.approve_up_to_minor)
            .finish()
    }
}

impl fmt::Debug for Stripe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stripe")
            .field("form", &self.settings())
            .field("api_version", &self.api_version)
            .field("deadline_ms", &self.deadline_ms)
            .finish()
    }
}
