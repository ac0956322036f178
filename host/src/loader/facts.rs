//! What is loaded and changed, as facts: whose code runs is what an audit asks first.

use super::{InstallError, Installed, Record};
use crate::host::Host;
use crate::journal::{Fact, Outcome};

/// A change of a capsule, or with an empty id of what belongs to several, made or not. Nobody may know the id. `about` says
/// more.
pub(super) fn changed<T>(host: &Host, action: &str, id: &str, about: &str, done: &Result<T, InstallError>) {
    record(host, host.journal.fact(action), id, about, done);
}

/// As [`changed`], with the hash of what is installed now.
pub(super) fn installed(host: &Host, id: &str, about: &str, done: &Result<Installed, InstallError>) {
    let hash = done.as_ref().ok().map(|installed| installed.hash.clone());
    record(host, Fact { hash, ..host.journal.fact("capsule.install") }, id, about, done);
}

fn record<T>(host: &Host, fact: Fact, id: &str, about: &str, done: &Result<T, InstallError>) {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let (target, detail) = (some(id), some(about));
    host.journal.append(match done {
        Ok(_) => Fact { target, detail, ..fact },
        Err(error) => {
            let outcome = if matches!(error, InstallError::Failed(_)) { Outcome::Failed } else { Outcome::Refused };
            Fact { target, detail, outcome, reason: Some(error.to_string()), ..fact }
        }
    });
}

/// A version has become the live one, or none could.
pub(super) fn loaded(host: &Host, id: &str, record: &Record, live: bool) {
    let outcome = if live { Outcome::Ok } else { Outcome::Failed };
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    host.journal.append(Fact {
        capsule: Some(id.to_owned()),
        hash: some(&record.hash),
        detail: some(&record.version).map(|version| format!("version {version}, grants {}", record.grants.join(" "))),
        outcome,
        ..host.journal.fact("capsule.load")
    });
}

/// The version before is the live one again; `why` where it was nobody's wish.
pub(super) fn rolled_back(host: &Host, id: &str, from: &Record, to: &Record, why: Option<&str>) {
    host.journal.append(Fact {
        target: Some(id.to_owned()),
        hash: Some(to.hash.clone()),
        detail: Some(format!("from {} to {}", from.version, to.version)),
        reason: why.map(str::to_owned),
        ..host.journal.fact("capsule.rollback")
    });
}
