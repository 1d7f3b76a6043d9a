//! A console's side of the WebSocket.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::{Gateway, PATIENCE};

pub struct Console {
    pub socket: WebSocketStream<TlsStream<TcpStream>>,
    /// The newest state of each vehicle, as the frames tell it.
    pub vehicles: BTreeMap<String, Value>,
    pub commands: BTreeMap<String, Vec<String>>,
    pub alerts: Vec<Value>,
    pub decisions: Vec<Value>,
    pub seq: u64,
    pub stream: Value,
}

impl Console {
    pub async fn open(gateway: &Gateway) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(gateway.ca()).expect("the CA");
        roots.add(ca).expect("a root");
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let address = gateway.http.trim_start_matches("https://");
        let tcp = TcpStream::connect(address).await.expect("the gateway listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.expect("TLS");
        let mut request = format!("wss://{address}/v1/console").into_client_request().expect("a request");
        let bearer = format!("Bearer {}", gateway.admin_key).parse().expect("a header");
        request.headers_mut().insert("Authorization", bearer);
        let (socket, _) = client_async(request, tls).await.expect("a WebSocket");
        let (vehicles, commands) = (BTreeMap::new(), BTreeMap::new());
        Self { socket, vehicles, commands, alerts: Vec::new(), decisions: Vec::new(), seq: 0, stream: Value::Null }
    }

    pub async fn say(&mut self, frame: Value) {
        self.socket.send(Message::text(frame.to_string())).await.expect("the console is open");
    }

    /// The next frame, taken in and acknowledged.
    pub async fn hear(&mut self) -> Value {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a frame in time");
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).expect("one JSON object a frame");
                    self.take(&frame).await;
                    return frame;
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub async fn take(&mut self, frame: &Value) {
        let list = |name: &str| frame[name].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        match frame["type"].as_str() {
            Some("snapshot") => {
                self.vehicles.clear();
                self.alerts.clear();
                self.stream = frame["stream"].clone();
            }
            Some("changes") => assert!(frame["seq"].as_u64() > Some(self.seq), "numbers rise"),
            Some("reply") => return,
            other => panic!("{other:?}"),
        }
        self.seq = frame["seq"].as_u64().expect("a number");
        for vehicle in list("vehicles") {
            self.vehicles.insert(text(&vehicle["vehicle_id"]), vehicle);
        }
        for command in list("commands") {
            self.commands.entry(text(&command["command_id"])).or_default().push(text(&command["state"]));
        }
        self.alerts.extend(list("alerts"));
        self.decisions.extend(list("decisions"));
        self.say(json!({"type": "ack", "seq": self.seq})).await;
    }

    pub async fn hear_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !is_so(self) {
                self.hear().await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "the console never heard: {what}");
    }

    pub fn is_online(&self, vehicle: &str) -> bool {
        self.vehicles.get(vehicle).is_some_and(|vehicle| vehicle["link"]["state"] == "online")
    }
}
