//! The identity provider as it describes itself, its keys, and the trade of a code for a token.

use std::path::Path;
use std::time::Duration;

use jsonwebtoken::jwk::Jwk;
use reqwest::{Client, RequestBuilder, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::https_client;

const TIMEOUT: Duration = Duration::from_secs(5);
/// Of one answer of the provider.
const MAX_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 64;

/// What is used of OpenID Connect Discovery's document.
#[derive(Debug, Clone, Deserialize)]
struct Description {
    issuer: String,
    authorization_endpoint: Url,
    token_endpoint: Url,
    jwks_uri: Url,
}

/// As it was when it was last asked.
#[derive(Debug, Clone)]
pub struct Provider {
    pub authorization_endpoint: Url,
    token_endpoint: Url,
    pub keys: Vec<Jwk>,
}

/// Speaks with the provider. Errors are for the log.
pub struct Line {
    client: Client,
    issuer: String,
}

/// The code and what proves that it was asked for by us.
pub struct Trade<'a> {
    pub code: &'a str,
    pub verifier: &'a str,
    pub redirect_uri: &'a str,
    pub client_id: &'a str,
    pub client_secret: &'a str,
}

#[derive(Deserialize)]
struct Tokens {
    id_token: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Line {
    pub fn new(issuer: &str, ca: Option<&Path>) -> Result<Self, String> {
        Ok(Self { client: https_client::build(ca, TIMEOUT)?, issuer: issuer.to_owned() })
    }

    pub async fn describe(&self) -> Result<Provider, String> {
        let at = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let described: Description = ask(self.client.get(at)).await?;
        if described.issuer != self.issuer {
            return Err(format!("it calls itself {:?}, not {:?}", described.issuer, self.issuer));
        }
        let Description { authorization_endpoint, token_endpoint, jwks_uri, .. } = described;
        // Whoever answers for the issuer may not send us, and the codes, to an address anybody can listen at.
        let is_plain = self.issuer.starts_with("http://");
        let urls = [&authorization_endpoint, &token_endpoint, &jwks_uri];
        if let Some(url) = urls.iter().find(|url| url.scheme() != "https" && !is_plain) {
            return Err(format!("{url} is not https"));
        }
        let KeySet { keys } = ask(self.client.get(jwks_uri)).await?;
        // Keys of a kind we do not know are for others.
        let keys = keys.into_iter().take(MAX_KEYS).filter_map(|key| serde_json::from_value(key).ok()).collect();
        Ok(Provider { authorization_endpoint, token_endpoint, keys })
    }

    /// The ID token for a code; a code serves once.
    pub async fn trade(&self, provider: &Provider, trade: &Trade<'_>) -> Result<String, String> {
        let Trade { code, verifier, redirect_uri, client_id, client_secret } = trade;
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", *code),
            ("redirect_uri", *redirect_uri),
            ("code_verifier", *verifier),
        ];
        let mut request = self.client.post(provider.token_endpoint.clone());
        if client_secret.is_empty() {
            form.push(("client_id", client_id));
        } else {
            request = request.basic_auth(encoded(client_id), Some(encoded(client_secret)));
        }
        let tokens: Tokens = ask(request.form(&form)).await?;
        Ok(tokens.id_token)
    }
}

/// RFC 6749, 2.3.1: the name and the secret are form-encoded before they become basic authentication.
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

async fn ask<T: DeserializeOwned>(request: RequestBuilder) -> Result<T, String> {
    let request = request.header("Accept", "application/json");
    let mut answer = request.send().await.map_err(|error| https_client::shown(&error))?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| https_client::shown(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BYTES {
            return Err(format!("its answer is larger than {MAX_BYTES} bytes"));
        }
    }
    if !status.is_success() {
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        return Err(format!(
            "it answered {status}: {}",
            https_client::plain(said["error"].as_str().unwrap_or("no reason"))
        ));
    }
    serde_json::from_slice(&body).map_err(|error| format!("its answer is not what the standard says: {error}"))
}
