//! Where a request comes from: the peer's address, or what proxies of ours say of it. Guess limits, the address limit, the
//! audit trail and the log go by it.
//!
//! Everybody can write a header, so that only the hops that our own proxies added count: from the right, up to the first
//! address that is none of `http.trusted_proxies`. Which header those proxies write is told by `http.proxy_header`; the
//! other one may be the caller's invention and is never read.

use std::net::{IpAddr, SocketAddr};

use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, web};

use super::App;
use crate::config::{Network, ProxyHeader};

/// `None` only where there is no connection, in tests of single handlers.
pub fn of(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip().to_canonical();
    let Some(app) = request.app_data::<web::Data<App>>() else { return Some(peer) };
    Some(behind(peer, request.headers(), &app.config.http.trusted_proxies, app.config.http.proxy_header))
}

fn behind(peer: IpAddr, headers: &HeaderMap, trusted: &[Network], header: ProxyHeader) -> IpAddr {
    let is_ours = |address: &IpAddr| trusted.iter().any(|network| network.contains(*address));
    if !is_ours(&peer) {
        return peer;
    }
    let (name, parse): (_, fn(&str) -> Option<IpAddr>) = match header {
        ProxyHeader::XForwardedFor => ("x-forwarded-for", plain),
        ProxyHeader::Forwarded => ("forwarded", forwarded_for),
    };
    // A byte that is no text spoils the hop it is in, which may be the caller's, and not those our proxies added to it.
    let lines: Vec<_> = headers.get_all(name).map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    let mut nearest = peer;
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')).take(MAX_HOPS) {
        // What cannot be read was not written by a proxy of ours, and neither is anything before it.
        let Some(address) = parse(hop.trim()) else { return nearest };
        nearest = address;
        if !is_ours(&address) {
            return address;
        }
    }
    nearest
}

/// What is counted as one: an IPv4 address, or the /64 that an IPv6 address lies in. Nobody has just one of those.
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

/// Nobody has so many proxies.
const MAX_HOPS: usize = 16;

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1` or `[2001:db8::1]:4711`.
fn plain(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

/// One element of RFC 7239, like `for="[2001:db8::1]:4711";proto=https`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.trim().split_once('='));
    let value = pairs.filter(|(name, _)| name.eq_ignore_ascii_case("for")).map(|(_, value)| value).next()?;
    plain(value.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn seen(peer: &str, header: ProxyHeader, lines: &[(&'static str, &'static str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let trusted = ["10.0.0.0/8", "2001:db8:1::/48"].map(|text| text.parse().unwrap());
        behind(peer.parse().unwrap(), &headers, &trusted, header).to_string()
    }

    #[test]
    fn the_rightmost_hop_that_is_no_proxy_of_ours_counts() {
        let x = |peer, value| seen(peer, ProxyHeader::XForwardedFor, &[("x-forwarded-for", value)]);
        assert_eq!(x("10.0.0.1", "203.0.113.5"), "203.0.113.5");
        assert_eq!(
            x("10.0.0.1", "6.6.6.6, 203.0.113.5, 10.9.9.9"),
            "203.0.113.5",
            "what the caller wrote does not count"
        );
        assert_eq!(x("10.0.0.1", "203.0.113.5:4711"), "203.0.113.5");
        assert_eq!(x("10.0.0.1", "[2001:db8::7]:4711, 2001:db8:1::2"), "2001:db8::7");
        assert_eq!(x("203.0.113.9", "6.6.6.6"), "203.0.113.9", "a stranger's header says nothing");
        assert_eq!(x("10.0.0.1", "203.0.113.5, nonsense, 10.0.0.2"), "10.0.0.2", "nothing before what cannot be read");
        assert_eq!(
            x("10.0.0.1", "caf\u{e9}, 203.0.113.5"),
            "203.0.113.5",
            "the caller cannot blank what is added to its line"
        );
        assert_eq!(x("10.0.0.1", "10.0.0.3, 10.0.0.2"), "10.0.0.3", "from within");
        assert_eq!(x("10.0.0.1", ""), "10.0.0.1");
        let two = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "203.0.113.5")];
        assert_eq!(seen("10.0.0.1", ProxyHeader::XForwardedFor, &two), "203.0.113.5");
    }

    #[test]
    fn only_the_header_that_our_proxies_write_is_read() {
        let both = [("x-forwarded-for", "203.0.113.5"), ("forwarded", "for=6.6.6.6")];
        assert_eq!(seen("10.0.0.1", ProxyHeader::XForwardedFor, &both), "203.0.113.5");
        let standard = |value| seen("10.0.0.1", ProxyHeader::Forwarded, &[("forwarded", value)]);
        assert_eq!(standard("for=6.6.6.6, For=\"[2001:db8::7]:4711\";proto=https;by=10.0.0.1"), "2001:db8::7");
        assert_eq!(standard("for=203.0.113.5, for=_hidden"), "10.0.0.1");
        assert_eq!(standard("proto=https"), "10.0.0.1");
    }
}
