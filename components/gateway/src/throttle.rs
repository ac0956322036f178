//! How often an address may try what needs no credential but a token, a key or a challenge, all such routes together; and
//! how often it may look at what the host says of itself. All of these are calls of `anonymous`, one principal with one quota.
//! Whoever is on the Unix socket is the host's own user, and is not counted.

use std::net::IpAddr;

use astrid_sdk::http::Connection;

/// The fields of `[env]`: the time for one more attempt, 0 for no limit, and how many there may be at once.
pub const INTERVAL: &str = "PUBLIC_INTERVAL_MS";
pub const BURST: &str = "PUBLIC_BURST";

/// How many looks there are for one attempt, at once and later.
const LOOKS: u32 = 10;
/// The most at once that the host takes.
const MOST: u32 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub interval_ms: u32,
    pub burst: u32,
}

impl Rate {
    /// One each second, and five at once: a login is two.
    pub const DEFAULT: Self = Self { interval_ms: 1000, burst: 5 };

    /// From what the fields say, where they do; none for no limit.
    ///
    /// # Errors
    /// What is wrong with which field, and what to write instead.
    pub fn read(interval: Option<&str>, burst: Option<&str>) -> Result<Option<Self>, String> {
        let interval_ms = number(INTERVAL, interval, 0, 86_400_000)?.unwrap_or(Self::DEFAULT.interval_ms);
        let burst = number(BURST, burst, 1, MOST)?.unwrap_or(Self::DEFAULT.burst);
        Ok((interval_ms > 0).then_some(Self { interval_ms, burst }))
    }

    /// The rate of looks at what the host says of itself where this is that of attempts.
    pub fn of_looks(self) -> Self {
        Self { interval_ms: self.interval_ms.div_ceil(LOOKS), burst: self.burst.saturating_mul(LOOKS).min(MOST) }
    }
}

fn number(field: &str, text: Option<&str>, least: u32, most: u32) -> Result<Option<u32>, String> {
    let Some(text) = text else { return Ok(None) };
    let read = text.parse().ok().filter(|number| (least..=most).contains(number));
    read.map(Some)
        .ok_or_else(|| format!("{field} = `{}`: write a whole number, {least} to {most}", text.escape_debug()))
}

/// Who is counted as one: an address, of IPv6 the network that one subscriber has. None is not counted.
pub fn key(connection: &Connection) -> Option<String> {
    let address = connection.address.as_deref()?;
    Some(match address.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V6(v6)) => {
            let network = v6.segments();
            format!("{:x}:{:x}:{:x}:{:x}::/64", network[0], network[1], network[2], network[3])
        }
        Ok(v4) => v4.to_string(),
        Err(_) => address.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Option<String> {
        key(&Connection { address: Some(address.into()), unix_uid: None, tls: false, certificate: None })
    }

    #[test]
    fn addresses_of_one_subscriber_are_one_and_the_unix_socket_is_nobody() {
        assert_eq!(of("203.0.113.9").unwrap(), "203.0.113.9");
        assert_eq!(of("::ffff:203.0.113.9").unwrap(), "203.0.113.9");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(key(&Connection { address: None, unix_uid: Some(0), tls: false, certificate: None }), None);
    }

    #[test]
    fn the_rate_is_the_fields_and_what_does_not_read_is_named_with_what_to_write() {
        assert_eq!(Rate::read(None, None), Ok(Some(Rate::DEFAULT)));
        assert_eq!(Rate::read(Some("250"), Some("9")), Ok(Some(Rate { interval_ms: 250, burst: 9 })));
        assert_eq!(Rate::read(Some("0"), None), Ok(None));
        for (interval, burst, field) in [
            (Some("1.5"), None, INTERVAL),
            (Some("-1"), None, INTERVAL),
            (Some("86400001"), None, INTERVAL),
            (None, Some("0"), BURST),
            (Some("0"), Some("1000001"), BURST),
        ] {
            let why = Rate::read(interval, burst).unwrap_err();
            assert!(why.contains(field) && why.contains("write a whole number"), "{why}");
        }
    }

    #[test]
    fn there_are_ten_looks_for_an_attempt_within_what_the_host_takes() {
        assert_eq!(Rate::DEFAULT.of_looks(), Rate { interval_ms: 100, burst: 50 });
        let most = Rate { interval_ms: 1, burst: MOST };
        assert_eq!(most.of_looks(), most);
    }
}
