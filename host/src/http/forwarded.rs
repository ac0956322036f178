//! Whose request it is that came through a proxy.
//!
//! Only peers that the operator names are believed. Of `X-Forwarded-For`, to which each proxy adds whom it spoke to,
//! the right-most address counts that is none of theirs: what stands further left was written by that client. Without
//! such a header `X-Real-IP` counts. What does not read as an address ends the search where it stands.
//!
//! Bounded by: the head of the request. Refuses to know: connections.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;

/// The client's address.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpAddr]) -> IpAddr {
    let peer = peer.to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|one| one.to_canonical() == *address);
    if !is_trusted(&peer) {
        return peer;
    }
    let hops: Vec<&[u8]> = headers
        .get_all("x-forwarded-for")
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .collect();
    if hops.is_empty() {
        let mut values = headers.get_all("x-real-ip").iter();
        let (value, another) = (values.next(), values.next());
        return value.filter(|_| another.is_none()).and_then(|value| address(value.as_bytes())).unwrap_or(peer);
    }
    let mut nearest = peer;
    for hop in hops.iter().rev() {
        let Some(address) = address(hop) else { break };
        nearest = address;
        if !is_trusted(&address) {
            break;
        }
    }
    nearest
}

/// An address, perhaps with a port, as proxies write them.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim_matches([' ', '\t']);
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let parsed = bare.parse().or_else(|_| text.parse().map(|with_port: SocketAddr| with_port.ip()));
    parsed.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const PROXIES: [&str; 2] = ["10.0.0.1", "fd00::1"];

    fn of(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let trusted = PROXIES.map(|one| one.parse().unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        client(peer.parse().unwrap(), &map, &trusted).to_string()
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_of_ours_is_the_client() {
        let forwarded = |value| of("10.0.0.1", &[("x-forwarded-for", value)]);
        for (value, want) in [
            ("203.0.113.9", "203.0.113.9"),
            ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
            ("6.6.6.6,203.0.113.9 ,\t10.0.0.1", "203.0.113.9"),
            ("203.0.113.9:4711", "203.0.113.9"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:4711, fd00::1", "2001:db8::7"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("fd00::1, 10.0.0.1", "fd00::1"),
            ("6.6.6.6, unknown, 10.0.0.1", "10.0.0.1"),
            ("6.6.6.6, unknown", "10.0.0.1"),
            ("", "10.0.0.1"),
            ("6.6.6.6,", "10.0.0.1"),
            ("1.2.3.4.5", "10.0.0.1"),
        ] {
            assert_eq!(forwarded(value), want, "{value}");
        }
        let twice = [("x-forwarded-for", "6.6.6.6, 7.7.7.7"), ("x-forwarded-for", "203.0.113.9, 10.0.0.1")];
        assert_eq!(of("::ffff:10.0.0.1", &twice), "203.0.113.9");
        let both = [("x-real-ip", "6.6.6.6"), ("x-forwarded-for", "203.0.113.9")];
        assert_eq!(of("10.0.0.1", &both), "203.0.113.9");
        assert_eq!(of("10.0.0.1", &[("x-real-ip", "203.0.113.9")]), "203.0.113.9");
        assert_eq!(of("10.0.0.1", &[("x-real-ip", "203.0.113.9"), ("x-real-ip", "6.6.6.6")]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)).to_canonical()),
        ]
    }

    proptest! {
        #[test]
        fn nobody_but_a_trusted_peer_is_believed(peer in any_address(), texts in proptest::collection::vec(".{0,40}", 0..4)) {
            let trusted: Vec<IpAddr> = PROXIES.iter().map(|one| one.parse().unwrap()).collect();
            prop_assume!(!trusted.contains(&peer));
            let mut map = HeaderMap::new();
            for (name, text) in ["x-forwarded-for", "x-real-ip", "x-forwarded-for"].iter().zip(&texts) {
                if let Ok(value) = HeaderValue::from_str(text) {
                    map.append(*name, value);
                }
            }
            prop_assert_eq!(client(peer, &map, &trusted), peer);
            prop_assert_eq!(client(peer, &map, &[]), peer);
        }

        #[test]
        fn whatever_a_client_writes_it_is_found_behind_any_row_of_trusted_proxies(
            written in "[ -~]{0,60}",
            real in any_address(),
            proxies in proptest::collection::vec(0..PROXIES.len(), 0..4),
        ) {
            prop_assume!(!PROXIES.contains(&real.to_string().as_str()));
            let mut hops = vec![written, real.to_string()];
            hops.extend(proxies.iter().map(|index| PROXIES[*index].to_owned()));
            prop_assert_eq!(of("10.0.0.1", &[("x-forwarded-for", &hops.join(", "))]), real.to_string());
        }
    }
}
