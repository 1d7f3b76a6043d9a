//! A lock command with the caller's own trace, at the real program, with a simulated car: what the collector gets is one tree
//! from the HTTP request to the car's word. And a collector that is not well holds nothing up.

mod kit;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kit::{Gateway, car, until};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// OTLP over HTTP, as much of it as a gateway needs: what was posted, decoded.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

impl Collector {
    /// Listens; the endpoint to configure.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().expect("its address"));
        let shared = collector.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(shared.clone().serve(stream));
            }
        });
        (collector, endpoint)
    }

    async fn serve(self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        loop {
            let (mut head, mut length, mut is_protobuf) = (String::new(), 0, false);
            while !head.ends_with("\r\n\r\n") {
                match stream.read_line(&mut head).await {
                    Ok(1..) => {}
                    _ => return,
                }
            }
            assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
            for line in head.to_ascii_lowercase().lines() {
                if let Some(value) = line.strip_prefix("content-length: ") {
                    length = value.parse().expect("a number");
                }
                is_protobuf |= line == "content-type: application/x-protobuf";
            }
            assert!(is_protobuf, "{head}");
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.expect("the body");
            let request = ExportTraceServiceRequest::decode(&body[..]).expect("protobuf");
            self.0.lock().expect("not poisoned").push(request);
            let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).await.expect("answered");
        }
    }

    /// Every span of one trace that has come.
    fn spans(&self, trace: &str) -> Vec<Span> {
        let requests = self.0.lock().expect("not poisoned");
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        let scopes = resources.flat_map(|resource| &resource.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans.clone());
        spans.filter(|span| hex::encode(&span.trace_id) == trace).collect()
    }

    fn service_names(&self) -> Vec<String> {
        let requests = self.0.lock().expect("not poisoned");
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.filter_map(|spans| text(&spans.resource.as_ref()?.attributes, "service.name")).collect()
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value: Option<any_value::Value> = attributes.iter().find(|pair| pair.key == key)?.value.clone()?.value;
    match value {
        Some(StringValue(text)) => Some(text),
        _ => None,
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
/// The span within which each is, by name.
const TREE: [(&str, &str); 7] = [
    ("POST /v1/vehicles/{id}/commands", "the caller"),
    ("vehicle step", "POST /v1/vehicles/{id}/commands"),
    ("append", "vehicle step"),
    ("command lock", "POST /v1/vehicles/{id}/commands"),
    ("send", "command lock"),
    ("deliver", "command lock"),
    ("car", "command lock"),
];

async fn lock(gateway: &Gateway, traceparent: &str) {
    let request = gateway.request(Method::POST, "/v1/vehicles/CAR-1/commands?wait_ms=30000");
    let (status, command) =
        kit::answer(request.header("traceparent", traceparent).json(&json!({"type": "lock"}))).await;
    assert_eq!((status, command["state"].as_str()), (200, Some("succeeded")), "{command}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_one_tree_from_the_callers_request_to_the_cars_word() {
    let (collector, endpoint) = Collector::start().await;
    let sets = [format!("telemetry.endpoint={endpoint}"), "telemetry.service_name=gateway-7".into()];
    let gateway = Gateway::start_with(&sets.each_ref().map(String::as_str)).await;
    let _car = car::connect(&gateway, "CAR-1").await;
    lock(&gateway, &format!("00-{TRACE}-{CALLER}-01")).await;
    until("every span has come", async || collector.spans(TRACE).len() >= TREE.len()).await;

    let spans = collector.spans(TRACE);
    let by_name: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.name.as_str(), span)).collect();
    assert_eq!(spans.len(), TREE.len(), "{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    for (name, within) in TREE {
        let span = by_name.get(name).unwrap_or_else(|| panic!("no span {name} among {:?}", by_name.keys()));
        let parent = by_name.get(within).map_or_else(|| CALLER.to_owned(), |span| hex::encode(&span.span_id));
        assert_eq!(hex::encode(&span.parent_span_id), parent, "{name} is within {within}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano && span.status.is_none(), "{span:?}");
        if let Some(within) = by_name.get(within) {
            assert!(within.start_time_unix_nano <= span.start_time_unix_nano, "{name} began before {within:?}");
        }
    }
    for (earlier, later) in [("append", "send"), ("send", "deliver"), ("deliver", "car")] {
        let (earlier, later) = (by_name[earlier], by_name[later]);
        assert!(earlier.end_time_unix_nano <= later.start_time_unix_nano, "{earlier:?} then {later:?}");
    }
    let command = by_name["command lock"];
    assert_eq!(text(&command.attributes, "cardea.command.state").as_deref(), Some("succeeded"));
    assert_eq!(text(&command.attributes, "cardea.vehicle.id").as_deref(), Some("CAR-1"));
    assert!(collector.service_names().iter().all(|name| name == "gateway-7"));

    // Who does not want to be traced is not, and the next one is whole again.
    let (unwanted, wanted) = (TRACE.replace('4', "5"), TRACE.replace('4', "6"));
    lock(&gateway, &format!("00-{unwanted}-{CALLER}-00")).await;
    lock(&gateway, &format!("00-{wanted}-{CALLER}-01")).await;
    until("the next one has come", async || collector.spans(&wanted).len() == TREE.len()).await;
    assert!(collector.spans(&unwanted).is_empty());
    // What is counted as sent is what came.
    let came = async || {
        let requests = collector.0.lock().expect("not poisoned");
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|resource| &resource.scope_spans).map(|scope| scope.spans.len()).sum::<usize>() as f64
    };
    until("the counter says so", async || {
        gateway.metric("cardea_telemetry_spans_exported_total").await == came().await
    })
    .await;
    assert_eq!(gateway.metric("cardea_telemetry_spans_dropped_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_leave_before_the_gateway_ends() {
    let (collector, endpoint) = Collector::start().await;
    let mut gateway = Gateway::start_with(&[&format!("telemetry.endpoint={endpoint}")]).await;
    let request = gateway.request(Method::GET, "/v1/vehicles").header("traceparent", format!("00-{TRACE}-{CALLER}-01"));
    assert_eq!(kit::answer(request).await.0, 200);
    let stopped = tokio::task::spawn_blocking(move || gateway.stop()).await.expect("it runs");
    assert!(stopped.success());
    assert_eq!(collector.spans(TRACE).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_never_answers_holds_nothing_up() {
    // Connections come to be and nobody reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}/v1/traces", silent.local_addr().expect("its address"));
    let mut gateway = Gateway::start_with(&[&format!("telemetry.endpoint={endpoint}")]).await;
    let _car = car::connect(&gateway, "CAR-1").await;
    for _ in 0..20 {
        let traceparent = format!("00-{TRACE}-{CALLER}-01");
        let within = tokio::time::timeout(Duration::from_secs(10), lock(&gateway, &traceparent));
        within.await.expect("a command does not wait for the collector");
    }
    until("what is not taken is counted", async || gateway.metric("cardea_telemetry_spans_dropped_total").await > 0.0)
        .await;
    assert_eq!(gateway.probe("/readyz").await.0, 200);
    until("it is told", async || gateway.log().contains("the collector does not take traces")).await;
    let stopping = tokio::task::spawn_blocking(move || gateway.stop().success());
    assert!(tokio::time::timeout(Duration::from_secs(15), stopping).await.expect("in time").expect("it runs"));
}
