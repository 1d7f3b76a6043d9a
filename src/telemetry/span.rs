//! A span, who it belongs to, and how both go over the wire.

use std::borrow::Cow;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use ring::rand::{SecureRandom, SystemRandom};

/// A span as others refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanContext {
    pub trace: [u8; 16],
    pub span: [u8; 8],
}

impl SpanContext {
    /// W3C Trace Context: `00-<trace, 32 hex>-<span, 16 hex>-<flags, 2 hex>`, with whether it is sampled. Later versions
    /// begin alike; anything else is as if nothing had been sent.
    pub fn parse(traceparent: &str) -> Option<(Self, bool)> {
        let mut parts = traceparent.trim().split('-');
        let [version, trace, span, flags] = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
        let is_lower = !traceparent.bytes().any(|byte| byte.is_ascii_uppercase());
        let (version, flags) = (bytes::<1>(version)?, bytes::<1>(flags)?);
        let context = Self { trace: bytes(trace)?, span: bytes(span)? };
        let is_fit = version != [0xff] && (version != [0] || parts.next().is_none()) && is_lower;
        let is_whole = context.trace != [0; 16] && context.span != [0; 8];
        (is_fit && is_whole).then_some((context, flags[0] & 1 == 1))
    }
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok().map(|()| bytes)
}

/// A fresh id; `None` when the system has no random numbers, and then nothing is traced.
pub(super) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok().map(|()| bytes)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody else's request, answered.
    Server,
    Internal,
    /// A message to a car, until the car has answered for it.
    Producer,
}

/// One thing that is known of a span.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    Text(&'static str, Cow<'static, str>),
    Number(&'static str, i64),
}

impl Attribute {
    pub fn text(key: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        Self::Text(key, value.into())
    }

    fn write(self) -> KeyValue {
        let (key, value) = match self {
            Self::Text(key, text) => (key, any_value::Value::StringValue(text.into_owned())),
            Self::Number(key, number) => (key, any_value::Value::IntValue(number)),
        };
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }
}

/// One that has ended.
#[derive(Debug)]
pub(super) struct Span {
    pub context: SpanContext,
    pub parent: Option<[u8; 8]>,
    pub kind: Kind,
    pub name: Cow<'static, str>,
    pub began_ns: u64,
    pub ended_ns: u64,
    pub attributes: Vec<Attribute>,
    pub failed: bool,
}

impl Span {
    pub(super) fn write(self) -> otlp::Span {
        let kind = match self.kind {
            Kind::Server => SpanKind::Server,
            Kind::Internal => SpanKind::Internal,
            Kind::Producer => SpanKind::Producer,
        };
        let failed = || otlp::Status { code: StatusCode::Error as i32, ..otlp::Status::default() };
        otlp::Span {
            trace_id: self.context.trace.into(),
            span_id: self.context.span.into(),
            parent_span_id: self.parent.map_or_else(Vec::new, Into::into),
            name: self.name.into_owned(),
            kind: kind as i32,
            start_time_unix_nano: self.began_ns,
            end_time_unix_nano: self.ended_ns.max(self.began_ns),
            attributes: self.attributes.into_iter().map(Attribute::write).collect(),
            status: self.failed.then(failed),
            ..otlp::Span::default()
        }
    }
}

/// `key = "value"` of the resource.
pub(super) fn resource_attribute(key: &'static str, value: String) -> KeyValue {
    Attribute::Text(key, value.into()).write()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_the_w3c_writes_it() {
        let (context, is_sampled) =
            SpanContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").expect("the W3C's example");
        assert_eq!((context.trace[0], context.span[7], is_sampled), (0x4b, 0xb7, true));
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02-what-the-future-will-be-like";
        assert!(SpanContext::parse(later).is_some_and(|(_, is_sampled)| !is_sampled));
        for unfit in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(SpanContext::parse(unfit), None, "{unfit}");
        }
    }
}
