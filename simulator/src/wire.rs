//! A bare MQTT 3.1.1 client over TLS: what the bench and the replay need, at a few hundred bytes a connection.
//!
//! The same code speaks to the gateway and to any other broker, so that figures compare. A car uses rumqttc instead:
//! this one does not resend, and trusts the broker's packet ids.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::car::MqttAddress;

/// Larger packets than ours exist, but none comes to this client.
const MAX_PACKET: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
    #[error("{0:?} is no name a certificate can have")]
    Name(String),
    #[error("the broker closed the connection")]
    Closed,
    #[error("refused with code {0}")]
    Refused(u8),
    #[error("the subscription was refused")]
    NotSubscribed,
    #[error("malformed packet from the broker")]
    Malformed,
    #[error("unexpected packet {0:?}")]
    Unexpected(Packet),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    ConnAck { code: u8 },
    SubAck { code: u8 },
    PubAck { id: u16 },
    Publish { topic: Bytes, payload: Bytes, id: Option<u16> },
    PingResp,
}

/// Takes one whole packet off the front; `None` = more bytes are needed.
pub fn decode(inbox: &mut BytesMut) -> Result<Option<Packet>, WireError> {
    let Some((length, header)) = remaining_length(inbox)? else { return Ok(None) };
    if length > MAX_PACKET {
        return Err(WireError::Malformed);
    }
    if inbox.len() < header + length {
        return Ok(None);
    }
    let mut packet = inbox.split_to(header + length).freeze();
    let first = packet[0];
    packet.advance(header);
    let at = |index: usize| packet.get(index).copied().ok_or(WireError::Malformed);
    Ok(Some(match first >> 4 {
        2 => Packet::ConnAck { code: at(1)? },
        9 => Packet::SubAck { code: at(2)? },
        4 => Packet::PubAck { id: u16::from_be_bytes([at(0)?, at(1)?]) },
        13 => Packet::PingResp,
        3 => publish(first, packet)?,
        _ => return Err(WireError::Malformed),
    }))
}

fn publish(first: u8, mut packet: Bytes) -> Result<Packet, WireError> {
    let take_u16 = |packet: &mut Bytes| packet.try_get_u16().map_err(|_| WireError::Malformed);
    let length = usize::from(take_u16(&mut packet)?);
    if packet.len() < length {
        return Err(WireError::Malformed);
    }
    let topic = packet.split_to(length);
    let id = if first & 0b110 != 0 { Some(take_u16(&mut packet)?) } else { None };
    Ok(Packet::Publish { topic, payload: packet, id })
}

/// The length after the fixed header, and the header's own size.
fn remaining_length(inbox: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let mut length = 0;
    for index in 1..=4 {
        let Some(byte) = inbox.get(index) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * (index - 1));
        if byte & 0x80 == 0 {
            return Ok(Some((length, index + 1)));
        }
    }
    Err(WireError::Malformed)
}

fn put_header(out: &mut Vec<u8>, first: u8, mut length: usize) {
    out.push(first);
    loop {
        let byte = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub fn put_connect(out: &mut Vec<u8>, client_id: &str, keep_alive_s: u16) {
    put_header(out, 0x10, 12 + client_id.len());
    put_text(out, "MQTT");
    // Level 4, clean session.
    out.extend_from_slice(&[4, 2]);
    out.extend_from_slice(&keep_alive_s.to_be_bytes());
    put_text(out, client_id);
}

pub fn put_subscribe(out: &mut Vec<u8>, id: u16, filter: &str, qos: u8) {
    put_header(out, 0x82, 5 + filter.len());
    out.extend_from_slice(&id.to_be_bytes());
    put_text(out, filter);
    out.push(qos);
}

/// QoS 1 with an id, QoS 0 without.
pub fn put_publish(out: &mut Vec<u8>, topic: &str, id: Option<u16>, payload: &[u8]) {
    let first = if id.is_some() { 0x32 } else { 0x30 };
    put_header(out, first, 2 + topic.len() + 2 * usize::from(id.is_some()) + payload.len());
    put_text(out, topic);
    if let Some(id) = id {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend_from_slice(payload);
}

pub fn put_puback(out: &mut Vec<u8>, id: u16) {
    put_header(out, 0x40, 2);
    out.extend_from_slice(&id.to_be_bytes());
}

/// One connected client.
pub struct Session {
    stream: TlsStream<TcpStream>,
    inbox: BytesMut,
    /// Packets to be written with the next [`Self::flush`].
    pub out: Vec<u8>,
    next_id: u16,
    pub was_resumed: bool,
}

impl Session {
    /// Connects and returns after a CONNACK that says yes.
    pub async fn connect(
        address: &MqttAddress,
        tls: Arc<ClientConfig>,
        client_id: &str,
        keep_alive_s: u16,
    ) -> Result<Self, WireError> {
        let name = ServerName::try_from(address.host.clone()).map_err(|_| WireError::Name(address.host.clone()))?;
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
        tcp.set_nodelay(true)?;
        let stream = TlsConnector::from(tls).connect(name, tcp).await?;
        let was_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        let mut session = Self { stream, inbox: BytesMut::new(), out: Vec::new(), next_id: 0, was_resumed };
        put_connect(&mut session.out, client_id, keep_alive_s);
        session.flush().await?;
        match session.next().await? {
            Packet::ConnAck { code: 0 } => Ok(session),
            Packet::ConnAck { code } => Err(WireError::Refused(code)),
            other => Err(WireError::Unexpected(other)),
        }
    }

    pub async fn subscribe(&mut self, filter: &str, qos: u8) -> Result<(), WireError> {
        let id = self.new_id();
        put_subscribe(&mut self.out, id, filter, qos);
        self.flush().await?;
        match self.next().await? {
            Packet::SubAck { code } if code <= 2 => Ok(()),
            Packet::SubAck { .. } => Err(WireError::NotSubscribed),
            other => Err(WireError::Unexpected(other)),
        }
    }

    /// 1 to 65535, in turn.
    pub fn new_id(&mut self) -> u16 {
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.next_id
    }

    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> u16 {
        let id = self.new_id();
        put_publish(&mut self.out, topic, Some(id), payload);
        id
    }

    pub async fn ping(&mut self) -> Result<(), WireError> {
        put_header(&mut self.out, 0xc0, 0);
        self.flush().await
    }

    pub async fn flush(&mut self) -> Result<(), WireError> {
        self.stream.write_all(&self.out).await?;
        self.stream.flush().await?;
        self.out.clear();
        Ok(())
    }

    /// A packet that is here already.
    pub fn try_next(&mut self) -> Result<Option<Packet>, WireError> {
        decode(&mut self.inbox)
    }

    /// May be dropped while waiting without losing anything.
    pub async fn next(&mut self) -> Result<Packet, WireError> {
        loop {
            if let Some(packet) = decode(&mut self.inbox)? {
                return Ok(packet);
            }
            if self.stream.read_buf(&mut self.inbox).await? == 0 {
                return Err(WireError::Closed);
            }
        }
    }

    /// Says DISCONNECT and closes.
    pub async fn close(mut self) {
        put_header(&mut self.out, 0xe0, 0);
        if self.flush().await.is_ok() {
            // A peer that is gone already is as closed as it can be.
            let _ = self.stream.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_are_the_bytes_of_the_standard() {
        let mut out = Vec::new();
        put_connect(&mut out, "A", 60);
        assert_eq!(out, b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01A");
        out.clear();
        put_subscribe(&mut out, 2, "a/b", 1);
        assert_eq!(out, b"\x82\x08\x00\x02\x00\x03a/b\x01");
        out.clear();
        put_puback(&mut out, 258);
        assert_eq!(out, b"\x40\x02\x01\x02");
    }

    #[test]
    fn a_publish_reads_back_whatever_its_length() {
        for length in [0, 1, 100, 127, 128, 300, 16_383, 16_384, 40_000] {
            for id in [None, Some(7)] {
                let payload = vec![b'x'; length];
                let mut out = Vec::new();
                put_publish(&mut out, "v1/A/ack", id, &payload);
                let mut inbox = BytesMut::from(&out[..out.len() - 1]);
                assert_eq!(decode(&mut inbox).unwrap().is_some(), length == usize::MAX, "not whole yet");
                inbox.extend_from_slice(&out[out.len() - 1..]);
                let topic = Bytes::from_static(b"v1/A/ack");
                let expected = Packet::Publish { topic, payload: payload.into(), id };
                assert_eq!(decode(&mut inbox).unwrap(), Some(expected), "{length}");
                assert!(inbox.is_empty());
            }
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut inbox = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut inbox) {}
        }
    }
}
