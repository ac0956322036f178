//! What a manifest claims for its capsule: what only one capsule can have, and what it shares with others.

use astrid_capsule::manifest::{Manifest, Subscribe, grant};

use super::{InstallError, Loader};

/// Something of a capsule that another one serves as well, in whole or in part. Which of the two gets a message or a
/// request, the rules say: the better match of a topic, the longer mount of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The topic pattern or mount of the capsule that was installed.
    pub interface: String,
    /// The other one.
    pub existing_capsule: String,
}

impl Loader {
    /// What another capsule has already and only one can have.
    pub(super) fn conflicts(&self, manifest: &Manifest) -> Result<(), InstallError> {
        let id = &manifest.package.name;
        for (other, theirs) in self.others(id) {
            for binding in &manifest.subscribe {
                // Each of those who subscribe gets what is its own; a handler is the only one of its topic.
                let handled = |b: &Subscribe| b.handler.is_some() || binding.handler.is_some();
                if theirs.subscribe.iter().any(|b| b.topic == binding.topic && handled(b)) {
                    let topic = &binding.topic;
                    return Err(InstallError::Conflict(format!("{id}: topic {topic} is bound by `{other}`")));
                }
            }
            if let Some(mount) = mounts(manifest).find(|mount| mounts(&theirs).any(|taken| taken == *mount)) {
                return Err(InstallError::Conflict(format!("{id}: {mount} is mounted by `{other}`")));
            }
            for exclusive in [grant::AUTHENTICATOR, grant::REGISTRAR] {
                let asks = |m: &Manifest| m.asks.iter().any(|a| a.as_str() == exclusive);
                if asks(&theirs) && asks(manifest) {
                    return Err(InstallError::Conflict(format!(
                        "{id}: `{other}` holds {exclusive}, and only one capsule can"
                    )));
                }
            }
        }
        Ok(())
    }

    /// What it handles or mounts where another capsule handles or mounts a part, in the order of the other's name and then
    /// of the manifest.
    pub(super) fn overlaps(&self, manifest: &Manifest) -> Vec<Overlap> {
        let handled = |m: &Manifest| {
            m.subscribe.iter().filter(|b| b.handler.is_some()).map(|b| b.topic.clone()).collect::<Vec<_>>()
        };
        let own = handled(manifest);
        let mut overlaps = Vec::new();
        for (other, theirs) in self.others(&manifest.package.name) {
            let taken = handled(&theirs);
            let topics = own.iter().filter(|topic| taken.iter().any(|taken| taken.overlaps(topic)));
            let prefixes = mounts(manifest).filter(|own| mounts(&theirs).any(|taken| nested(own, taken)));
            let interfaces = topics.map(|topic| topic.to_string()).chain(prefixes.map(str::to_owned));
            overlaps.extend(interfaces.map(|interface| Overlap { interface, existing_capsule: other.clone() }));
        }
        overlaps
    }

    /// The other installed capsules. One that failed keeps what is its own: it may be live again after the next start.
    fn others(&self, id: &str) -> Vec<(String, Manifest)> {
        let capsules = self.capsules.read().expect("no panic under this lock");
        let others = capsules.iter().filter(|(other, _)| *other != id);
        others
            .filter_map(|(other, (record, _))| Some((other.clone(), Manifest::parse(&record.manifest).ok()?)))
            .collect()
    }
}

fn mounts(manifest: &Manifest) -> impl Iterator<Item = &str> {
    manifest.http.iter().flat_map(|http| &http.mounts).map(String::as_str)
}

/// Whether one of two different mounts takes paths from the other. Everything lies under `/`, which nobody needs to be told.
fn nested(a: &str, b: &str) -> bool {
    let under =
        |outer: &str, inner: &str| outer != "/" && inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('/'));
    under(a, b) || under(b, a)
}
