//! MQTT 3.1.1 packets of a session that is up: borrowed from the bytes that were read, appended to those to be written.
//!
//! Our own reader, since rumqttd's codec copies and hides fields; it keeps to what a car may send and never panics.

use super::metrics::Reason;

/// What a car may send once it is connected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Publish(Publish<'a>),
    PubAck { pkid: u16 },
    Subscribe { pkid: u16, filters: Filters<'a> },
    Unsubscribe { pkid: u16, filters: &'a [u8] },
    PingReq,
    Disconnect,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Publish<'a> {
    pub(super) topic: &'a [u8],
    pub(super) payload: &'a [u8],
    /// `None` = QoS 0.
    pub(super) pkid: Option<u16>,
}

/// The filters of a SUBSCRIBE, already checked for form.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filters<'a>(&'a [u8]);

impl<'a> Iterator for Filters<'a> {
    /// A filter and the QoS asked for.
    type Item = (&'a [u8], u8);

    fn next(&mut self) -> Option<Self::Item> {
        let (filter, rest) = text(self.0)?;
        let (qos, rest) = rest.split_first()?;
        self.0 = rest;
        Some((filter, *qos))
    }
}

/// More filters than a car has topics.
const MAX_FILTERS: usize = 8;

/// Reads the first packet and its length; `None` = not all of it is here yet. Over-long ones are refused by their
/// header, before they are here.
pub(super) fn next(bytes: &[u8], max_remaining: usize) -> Result<Option<(Frame<'_>, usize)>, Reason> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let Some((remaining, header)) = remaining_length(rest)? else { return Ok(None) };
    if remaining > max_remaining {
        return Err(Reason::TooLong);
    }
    let Some(body) = rest[header..].get(..remaining) else { return Ok(None) };
    Ok(Some((frame(*first, body)?, 1 + header + remaining)))
}

/// The remaining length and how many bytes it took; `None` = more bytes are needed.
pub(super) fn remaining_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Reason> {
    let mut length = 0;
    for (place, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Ok(Some((length, place + 1)));
        }
    }
    if bytes.len() >= 4 { Err(Reason::Malformed) } else { Ok(None) }
}

fn frame(first: u8, body: &[u8]) -> Result<Frame<'_>, Reason> {
    match (first >> 4, first & 0x0f) {
        (3, flags) => publish(flags, body).map(Frame::Publish),
        (4, 0) => match body {
            [high, low] => Ok(Frame::PubAck { pkid: u16::from_be_bytes([*high, *low]) }),
            _ => Err(Reason::Malformed),
        },
        (8, 2) => {
            let (pkid, rest) = packet_id(body)?;
            check_filters(rest, true)?;
            Ok(Frame::Subscribe { pkid, filters: Filters(rest) })
        }
        (10, 2) => {
            let (pkid, filters) = packet_id(body)?;
            check_filters(filters, false)?;
            Ok(Frame::Unsubscribe { pkid, filters })
        }
        (12, 0) if body.is_empty() => Ok(Frame::PingReq),
        (14, 0) if body.is_empty() => Ok(Frame::Disconnect),
        // A second CONNECT, what only servers send, and the steps of QoS 2, which no car of ours begins.
        (1 | 2 | 5 | 6 | 7 | 9 | 11 | 13, _) => Err(Reason::UnexpectedPacket),
        _ => Err(Reason::Malformed),
    }
}

fn publish(flags: u8, body: &[u8]) -> Result<Publish<'_>, Reason> {
    let (topic, rest) = text(body).ok_or(Reason::Malformed)?;
    let (pkid, payload) = match flags & 6 {
        0 => (None, rest),
        2 => packet_id(rest).map(|(pkid, payload)| (Some(pkid), payload))?,
        4 => return Err(Reason::Qos2),
        _ => return Err(Reason::Malformed),
    };
    if flags & 1 != 0 {
        return Err(Reason::Retain);
    }
    Ok(Publish { topic, payload, pkid })
}

fn packet_id(bytes: &[u8]) -> Result<(u16, &[u8]), Reason> {
    match bytes {
        [high, low, rest @ ..] if (*high, *low) != (0, 0) => Ok((u16::from_be_bytes([*high, *low]), rest)),
        _ => Err(Reason::Malformed),
    }
}

/// A length-prefixed text and what follows it.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

fn check_filters(mut bytes: &[u8], with_qos: bool) -> Result<(), Reason> {
    let mut count = 0;
    while !bytes.is_empty() {
        let (_, rest) = text(bytes).ok_or(Reason::Malformed)?;
        bytes = rest;
        if with_qos {
            let (qos, rest) = bytes.split_first().ok_or(Reason::Malformed)?;
            if *qos > 2 {
                return Err(Reason::Malformed);
            }
            bytes = rest;
        }
        count += 1;
    }
    match count {
        0 => Err(Reason::Malformed),
        1..=MAX_FILTERS => Ok(()),
        _ => Err(Reason::TooLong),
    }
}

/// The filters of an UNSUBSCRIBE.
pub(super) fn plain_filters(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (filter, rest) = text(bytes)?;
        bytes = rest;
        Some(filter)
    })
}

/// Appends a PUBLISH to a car. Our topics and payloads are far below what a length can say.
pub(super) fn write_publish(out: &mut Vec<u8>, topic: &str, payload: &[u8], pkid: Option<u16>) {
    let length = 2 + topic.len() + payload.len() + if pkid.is_some() { 2 } else { 0 };
    out.push(if pkid.is_some() { 0x32 } else { 0x30 });
    write_length(out, length);
    out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    if let Some(pkid) = pkid {
        out.extend_from_slice(&pkid.to_be_bytes());
    }
    out.extend_from_slice(payload);
}

fn write_length(out: &mut Vec<u8>, mut length: usize) {
    while length > 0x7f {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

pub(super) fn write_puback(out: &mut Vec<u8>, pkid: u16) {
    let [high, low] = pkid.to_be_bytes();
    out.extend_from_slice(&[0x40, 2, high, low]);
}

/// `codes`: the granted QoS or 0x80 for each filter, at most [`MAX_FILTERS`].
pub(super) fn write_suback(out: &mut Vec<u8>, pkid: u16, codes: &[u8]) {
    let [high, low] = pkid.to_be_bytes();
    out.extend_from_slice(&[0x90, 2 + codes.len() as u8, high, low]);
    out.extend_from_slice(codes);
}

pub(super) fn write_unsuback(out: &mut Vec<u8>, pkid: u16) {
    let [high, low] = pkid.to_be_bytes();
    out.extend_from_slice(&[0xb0, 2, high, low]);
}

pub(super) fn write_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xd0, 0]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_publish_reads_back_as_it_was_written() {
        for (pkid, len) in [(None, 1), (Some(7), 100), (Some(65_535), 16_384)] {
            let mut out = Vec::new();
            let payload = vec![7; len];
            write_publish(&mut out, "v1/A/command", &payload, pkid);
            let whole = out.len();
            assert_eq!(next(&out[..whole - 1], 20_000), Ok(None));
            out.push(0xc0);
            let publish = Publish { topic: b"v1/A/command", payload: &payload, pkid };
            assert_eq!(next(&out, 20_000), Ok(Some((Frame::Publish(publish), whole))));
            assert_eq!(next(&out, len), Err(Reason::TooLong));
        }
    }

    #[test]
    fn what_no_car_may_send_is_refused() {
        let cases: [(&[u8], Reason); 16] = [
            (&[0x34, 5, 0, 1, b'a', 0, 1], Reason::Qos2),
            (&[0x36, 5, 0, 1, b'a', 0, 1], Reason::Malformed),
            (&[0x31, 3, 0, 1, b'a'], Reason::Retain),
            (&[0x32, 5, 0, 1, b'a', 0, 0], Reason::Malformed),
            (&[0x30, 2, 0, 9], Reason::Malformed),
            (&[0x30, 0], Reason::Malformed),
            (&[0x30, 0xff, 0xff, 0xff, 0xff, 1], Reason::Malformed),
            (&[0x10, 0], Reason::UnexpectedPacket),
            (&[0x62, 2, 0, 1], Reason::UnexpectedPacket),
            (&[0x00, 0], Reason::Malformed),
            (&[0xf0, 0], Reason::Malformed),
            (&[0x80, 6, 0, 1, 0, 1, b'a', 0], Reason::Malformed),
            (&[0x82, 2, 0, 1], Reason::Malformed),
            (&[0x82, 6, 0, 1, 0, 1, b'a', 3], Reason::Malformed),
            (&[0x82, 6, 0, 0, 0, 1, b'a', 0], Reason::Malformed),
            (&[0x40, 1, 0], Reason::Malformed),
        ];
        for (bytes, reason) in cases {
            assert_eq!(next(bytes, 1000), Err(reason), "{bytes:x?}");
        }
    }

    #[test]
    fn filters_are_listed_with_their_qos() {
        let bytes = [0x82, 10, 0, 9, 0, 1, b'a', 1, 0, 1, b'b', 0];
        let Ok(Some((Frame::Subscribe { pkid: 9, filters }, 12))) = next(&bytes, 1000) else { panic!() };
        assert_eq!(filters.collect::<Vec<_>>(), [(&b"a"[..], 1), (&b"b"[..], 0)]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((frame, used))) = next(&bytes, 1000) {
                prop_assert!(used <= bytes.len());
                match frame {
                    Frame::Subscribe { filters, .. } => prop_assert!((1..=8).contains(&filters.count())),
                    Frame::Unsubscribe { filters, .. } => prop_assert!((1..=8).contains(&plain_filters(filters).count())),
                    _ => {}
                }
            }
        }

        #[test]
        fn a_prefix_is_never_a_whole_packet(topic in "[a-z]{1,9}", payload in proptest::collection::vec(any::<u8>(), 0..300), cut in any::<proptest::sample::Index>()) {
            let mut out = Vec::new();
            write_publish(&mut out, &topic, &payload, Some(1));
            prop_assert_eq!(next(&out[..cut.index(out.len())], 1000), Ok(None));
        }
    }
}
