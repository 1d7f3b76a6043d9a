//! Kept HTTPS connections, as a payment network or an operator's own server holds them: opened before the measuring,
//! one request at a time on each. A general client spends more of the processor on a request than the gateway may, and
//! both share this machine.

use std::sync::{Mutex, PoisonError};

use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::http::HttpArgs;
use crate::failure::Failure;
use crate::identity;

type Line = SendRequest<Full<bytes::Bytes>>;

pub struct Lines {
    host: String,
    idle: Mutex<Vec<Line>>,
    permits: Semaphore,
}

impl Lines {
    /// Opens `count` connections.
    pub async fn open(args: &HttpArgs, count: usize) -> Result<Self, Failure> {
        let address: Uri = args.base().parse().map_err(Failure::usage)?;
        let host = address.authority().ok_or_else(|| Failure::usage("--http lacks a host"))?.to_string();
        let name = ServerName::try_from(address.host().unwrap_or_default().to_owned()).map_err(Failure::usage)?;
        let roots = identity::load_roots(args.ca()).map_err(Failure::usage)?;
        let tls = TlsConnector::from(std::sync::Arc::new(
            ClientConfig::builder().with_root_certificates(roots).with_no_client_auth(),
        ));
        let mut idle = Vec::with_capacity(count);
        for _ in 0..count {
            let tcp = TcpStream::connect(&host).await?;
            tcp.set_nodelay(true)?;
            let stream = tls.connect(name.clone(), tcp).await?;
            let (line, work) = handshake(TokioIo::new(stream)).await.map_err(Failure::failed)?;
            // It ends with its sender; an error of it is an error of the request.
            tokio::spawn(work);
            idle.push(line);
        }
        let lines = Self { host, idle: Mutex::new(Vec::with_capacity(count)), permits: Semaphore::new(count) };
        for mut line in idle {
            // A server sends away who never asks anything; after a first request its keep-alive time counts.
            lines.ask(&mut line, Method::GET, "/no-such-route", &[], Vec::new()).await.map_err(Failure::failed)?;
            lines.idle.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
        Ok(lines)
    }

    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<(u16, Value), String> {
        self.request(Method::GET, path, headers, Vec::new()).await
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<(u16, Value), String> {
        self.request(Method::POST, path, headers, body).await
    }

    /// Status and JSON body. Waits for an idle connection, which is part of what a caller would feel.
    async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<(u16, Value), String> {
        let _permit = self.permits.acquire().await.map_err(|error| error.to_string())?;
        let line = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut line = line.ok_or("every connection was lost")?;
        let answer = self.ask(&mut line, method, path, headers, body).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        Ok(answer)
    }

    async fn ask(
        &self,
        line: &mut Line,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<(u16, Value), String> {
        let mut request =
            Request::builder().method(&method).uri(path).header(HOST, &self.host).header(CONTENT_TYPE, JSON);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).map_err(|error| error.to_string())?;
        let failed = |error: hyper::Error| format!("{method} {path}: {error}");
        let answer = line.send_request(request).await.map_err(failed)?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(failed)?.to_bytes();
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }
}

const JSON: &str = "application/json";
