//! `[oidc]`: log-in at an identity provider by OpenID Connect.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::empty_is_none;
use crate::domain::Role;

/// Without an issuer nobody logs in elsewhere.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Oidc {
    /// As the provider spells it in its tokens.
    #[serde(with = "empty_is_none")]
    pub issuer: Option<String>,
    /// What the button at the log-in says.
    pub name: String,
    pub client_id: String,
    /// Empty = a public client, which PKCE alone protects.
    pub client_secret: String,
    pub scopes: Vec<String>,
    /// The claim that is the person's name for the fleet.
    pub subject_claim: String,
    /// The claim that holds the role, a string or a list of them; dots lead into objects.
    pub role_claim: String,
    /// What the role claim says, and the role here that goes with it.
    pub roles: BTreeMap<String, OidcRole>,
    /// Tokens for this audience are taken as bearer tokens; empty = none are.
    #[serde(with = "empty_is_none")]
    pub bearer_audience: Option<String>,
    /// Where browsers reach this gateway; empty = where the browser says it does.
    #[serde(with = "empty_is_none")]
    pub public_url: Option<String>,
    /// PEM bundle that the provider's certificate must chain to; empty = the system's.
    #[serde(with = "empty_is_none")]
    pub ca: Option<PathBuf>,
}

impl Default for Oidc {
    fn default() -> Self {
        let roles = [
            ("cardea-admin", OidcRole::Admin),
            ("cardea-operator", OidcRole::Operator),
            ("cardea-auditor", OidcRole::Auditor),
            ("cardea-renter", OidcRole::Renter),
        ];
        Self {
            issuer: None,
            name: "Single sign-on".into(),
            client_id: String::new(),
            client_secret: String::new(),
            scopes: vec!["openid".into(), "profile".into()],
            subject_claim: "sub".into(),
            role_claim: "roles".into(),
            roles: roles.map(|(text, role)| (text.to_owned(), role)).into(),
            bearer_audience: None,
            public_url: None,
            ca: None,
        }
    }
}

/// The roles people have, the mightiest first: it counts when several are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OidcRole {
    Admin,
    Operator,
    Auditor,
    Renter,
}

impl From<OidcRole> for Role {
    fn from(role: OidcRole) -> Self {
        match role {
            OidcRole::Admin => Self::Admin,
            OidcRole::Operator => Self::Operator,
            OidcRole::Auditor => Self::Auditor,
            OidcRole::Renter => Self::Renter,
        }
    }
}

/// Without the secret.
impl fmt::Debug for Oidc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oidc").field("issuer", &self.issuer).field("client_id", &self.client_id).finish_non_exhaustive()
    }
}
