//! A client of the gateway's HTTP API that trusts one CA and says exactly what was answered otherwise than expected.

use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, Method, RequestBuilder};
use serde_json::Value;
use uuid::Uuid;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Above the longest `wait_ms` the contract allows.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);
/// Of an answer that is not JSON, this much is shown.
const SHOWN_CHARS: usize = 200;

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("{path}: {source}")]
    Ca { path: String, source: std::io::Error },
    #[error("setting up the client: {0}")]
    Setup(reqwest::Error),
    /// The request may have been carried out; with its idempotency key it is safe to send again.
    #[error("{method} {path}: no answer: {source}")]
    NoAnswer { method: Method, path: String, source: reqwest::Error },
    #[error("{method} {path}: expected {expected:?}, was answered {status}: {detail}")]
    Unexpected { method: Method, path: String, expected: Vec<u16>, status: u16, detail: String },
    #[error("{method} {path}: the answer lacks {field}: {body}")]
    Lacks { method: Method, path: String, field: String, body: Value },
    #[error("{vehicle_id} could not be rented")]
    NotRented { vehicle_id: String },
}

#[derive(Debug, Clone)]
pub struct HttpClient {
    base: String,
    client: Client,
    api_key: Option<String>,
}

/// An answer with where it came from, for the messages.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// `Null` when there was no body.
    pub body: Value,
    method: Method,
    path: String,
}

impl Answer {
    /// The body, if the status is one of `expected`; else an error with the problem's own words.
    pub fn must_be(self, expected: &[u16]) -> Result<Self, HttpError> {
        if expected.contains(&self.status) {
            return Ok(self);
        }
        Err(HttpError::Unexpected {
            detail: describe(&self.body),
            method: self.method,
            path: self.path,
            expected: expected.to_vec(),
            status: self.status,
        })
    }

    /// The slug of a problem: `forbidden` of `urn:cardea:problem:forbidden`.
    pub fn problem(&self) -> Option<&str> {
        self.body.get("type")?.as_str()?.strip_prefix("urn:cardea:problem:")
    }

    /// A text by JSON pointer, such as `/key/key_id`.
    pub fn text(&self, pointer: &str) -> Result<&str, HttpError> {
        self.body.pointer(pointer).and_then(Value::as_str).ok_or_else(|| self.lacks(pointer))
    }

    /// A text that reads as `T`, such as an id.
    pub fn parsed<T: std::str::FromStr>(&self, pointer: &str) -> Result<T, HttpError> {
        self.text(pointer)?.parse().map_err(|_| self.lacks(&format!("{pointer} in its form")))
    }

    pub fn flag(&self, pointer: &str) -> Result<bool, HttpError> {
        self.body.pointer(pointer).and_then(Value::as_bool).ok_or_else(|| self.lacks(pointer))
    }

    pub fn list(&self, pointer: &str) -> Result<&[Value], HttpError> {
        self.body.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).ok_or_else(|| self.lacks(pointer))
    }

    fn lacks(&self, pointer: &str) -> HttpError {
        HttpError::Lacks {
            method: self.method.clone(),
            path: self.path.clone(),
            field: pointer.trim_start_matches('/').replace('/', "."),
            body: self.body.clone(),
        }
    }
}

fn describe(body: &Value) -> String {
    match body.get("type").and_then(Value::as_str) {
        Some(kind) => {
            let detail = body.get("detail").or_else(|| body.get("title")).and_then(Value::as_str).unwrap_or("");
            format!("{kind} {detail}")
        }
        None => body.to_string().chars().take(SHOWN_CHARS).collect(),
    }
}

impl HttpClient {
    /// `base` like `https://127.0.0.1:8443`. Call [`crate::identity::install_crypto`] before.
    pub fn new(base: &str, ca: &Path, api_key: Option<String>) -> Result<Self, HttpError> {
        let pem = std::fs::read(ca).map_err(|source| HttpError::Ca { path: ca.display().to_string(), source })?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(HttpError::Setup)?;
        let client = Client::builder()
            .tls_certs_only(certificates)
            .https_only(true)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(HttpError::Setup)?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), client, api_key })
    }

    /// The same connections, another caller.
    pub fn with_key(&self, api_key: Option<String>) -> Self {
        Self { api_key, ..self.clone() }
    }

    pub async fn get(&self, path: &str) -> Result<Answer, HttpError> {
        self.send(self.request(Method::GET, path), Method::GET, path).await
    }

    /// With an idempotency key of its own.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer, HttpError> {
        self.post_once(path, body, &Uuid::now_v7().to_string()).await
    }

    /// With the caller's idempotency key, so that it can be sent again.
    pub async fn post_once(&self, path: &str, body: &Value, idempotency_key: &str) -> Result<Answer, HttpError> {
        let request = self.request(Method::POST, path).header("Idempotency-Key", idempotency_key).json(body);
        self.send(request, Method::POST, path).await
    }

    /// Bytes exactly as given, as signatures need it.
    pub async fn post_raw(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Answer, HttpError> {
        let mut request = self.request(Method::POST, path).header("Content-Type", "application/json").body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request, Method::POST, path).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Result<Answer, HttpError> {
        self.send(self.request(Method::PATCH, path).json(body), Method::PATCH, path).await
    }

    pub async fn delete(&self, path: &str) -> Result<Answer, HttpError> {
        self.send(self.request(Method::DELETE, path), Method::DELETE, path).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder, method: Method, path: &str) -> Result<Answer, HttpError> {
        let failed = |source| HttpError::NoAnswer { method: method.clone(), path: path.to_owned(), source };
        let response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await.map_err(failed)?;
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into())
        };
        Ok(Answer { status, body, method, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(status: u16, body: Value) -> Answer {
        Answer { status, body, method: Method::GET, path: "/v1/x".into() }
    }

    #[test]
    fn an_unexpected_answer_tells_the_problem() {
        let problem = json!({"type": "urn:cardea:problem:forbidden", "detail": "the key prohibits it"});
        let refused = answer(403, problem);
        assert_eq!(refused.problem(), Some("forbidden"));
        let error = refused.must_be(&[200]).unwrap_err().to_string();
        assert!(error.contains("403") && error.contains("the key prohibits it"), "{error}");
    }

    #[test]
    fn a_missing_field_is_named() {
        let error = answer(200, json!({"key": {}})).text("/key/key_id").unwrap_err().to_string();
        assert!(error.contains("lacks key.key_id"), "{error}");
    }
}
