//! The configuration, read again while the host runs.
//!
//! Owns the order: everything is read and checked, certificates included, before the first thing changes, so that what does
//! not read changes nothing. Which keys count at once, the rooms' own configurations say ([`Config::adopt`]).
//! Refuses to know who asks for it.
//!
//! [`Config::adopt`]: crate::config::Config::adopt

use crate::config::Change;
use crate::home;
use crate::host::Host;
use crate::journal::Fact;

/// Takes over what has changed and can be taken over. Says in the log what became of each key.
///
/// # Errors
/// A file, a variable or a value that does not fit, or a certificate that can't be used: which, and why. Nothing changes.
pub fn reload(host: &Host) -> anyhow::Result<Vec<Change>> {
    let reloaded = host.config.change(|running| {
        let read = running.read_again(&host.home.config(), home::environment())?;
        let (next, changes) = running.adopt(&read);
        let tls = match &host.tls {
            Some(tls) => Some((tls, tls.read(&next.http.tls)?)),
            None => None,
        };
        // From here on nothing can fail.
        if let Some((tls, read)) = tls {
            tls.put(read);
        }
        host.log.set_level(&next.log);
        host.relays.bound(next.http.max_relays);
        Ok((next, changes))
    });
    match &reloaded {
        Ok(changes) => {
            let named = |applied| {
                let of = changes.iter().filter(|change| change.applied == applied);
                of.map(|change| format!("{}={}", change.key, change.value)).collect::<Vec<_>>().join(", ")
            };
            let (applied, waits) = (named(true), named(false));
            tracing::info!(applied, waits, "the configuration was read again; what waits counts from the next start");
            if changes.iter().any(|change| change.applied) {
                record(host);
            }
        }
        Err(error) => tracing::warn!("the configuration stays as it was: {error:#}"),
    }
    reloaded
}

/// Writes down with what configuration the host runs: a digest of every key, and those that somebody has set, as far as a
/// fact has room for them.
pub fn record(host: &Host) {
    let settings = host.config.now().settings();
    let all: String = settings.iter().map(|s| format!("{}={}\n", s.key, s.value)).collect();
    let set = settings.iter().filter(|s| !["default", "derived"].contains(&s.source));
    let set: Vec<String> = set.map(|s| format!("{}={} ({})", s.key, s.value, s.source)).collect();
    let detail = Some(set.join(", ")).filter(|set| !set.is_empty());
    let hash = Some(blake3::hash(all.as_bytes()).to_hex().to_string());
    host.journal.append(Fact { hash, detail, ..host.journal.fact("config.load") });
}
