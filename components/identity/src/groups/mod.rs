//! Groups: names for sets of capabilities. Three are built in and can't be redefined; the others are made, changed and
//! deleted by whoever may. A group that holds `*` must say so (`unsafe_admin`).
//!
//! A change is in force for every member when it is answered. Nobody is in a group that is deleted: who is in which of the
//! groups that are not built in stands in an index, written with the principal's record. Bounds: [`MAX_CAPABILITIES`]
//! of one group, names as those of principals, 1024 bytes of description.

use astrid_capsule::{Capability, PrincipalId};
use serde::{Deserialize, Serialize};

use crate::listing;
use crate::payload::{self, bounded, given, invalid, stored, to_store};
use crate::ports::{Bucket, Ports, Transaction, transact};
use crate::principals;
use crate::refusal::Refusal;

/// The group that holds everything.
pub const ADMIN: &str = "admin";
/// The group of a new principal for which none is named.
pub const AGENT: &str = "agent";
/// The built-in groups and what they hold.
pub const BUILT_IN: [(&str, &[&str]); 3] = [(ADMIN, &["*"]), (AGENT, &["self:*"]), ("restricted", &[])];
/// The most capabilities of one list: a group's, a principal's grants, its revokes.
pub const MAX_CAPABILITIES: usize = 256;
/// The longest description, in bytes.
const MAX_DESCRIPTION: usize = 1024;
/// The most rows of one list beside the built-in groups.
const MAX_ROWS: u32 = 1_000;
/// What is not narrowed to anything.
const EVERYTHING: &str = "*";

/// A group as it is stored; the built-in ones are not.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Group {
    capabilities: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    unsafe_admin: bool,
    /// Names the attempt to delete it that is under way; until that has ended nobody joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    closing: Option<u64>,
}

impl Group {
    fn read(name: &str, bytes: &[u8]) -> Result<Self, Refusal> {
        stored(&format!("group `{name}`"), bytes)
    }

    fn load(transaction: &mut impl Transaction, name: &str) -> Result<Self, Refusal> {
        let found = transaction.get(Bucket::Groups, name)?;
        Self::read(name, &found.ok_or_else(|| Refusal::NotFound(format!("no group {}", payload::shown(name))))?)
    }

    /// Stages the record and what the host enforces.
    fn save(&self, transaction: &mut impl Transaction, name: &str) -> Result<(), Refusal> {
        self.save_record(transaction, name)?;
        let capabilities: Vec<&str> = self.capabilities.iter().map(String::as_str).collect();
        Ok(transaction.set_group(name, &capabilities)?)
    }

    fn save_record(&self, transaction: &mut impl Transaction, name: &str) -> Result<(), Refusal> {
        Ok(transaction.put(Bucket::Groups, name, &to_store(self)?)?)
    }
}

/// Reads capabilities as they are held, sorted and each once. `field` names them in a refusal.
pub fn capabilities(field: &str, texts: &[String]) -> Result<Vec<Capability>, Refusal> {
    if texts.len() > MAX_CAPABILITIES {
        return Err(invalid(field, format!("at most {MAX_CAPABILITIES} capabilities; it has {}", texts.len())));
    }
    let parse = |text: &String| {
        let grammar = "segments of A-Z a-z 0-9 _ - or `*`, separated by `:`, at most 256 bytes";
        Capability::parse(text).map_err(|_| invalid(format!("{field}: {}", payload::shown(text)), grammar))
    };
    let mut read = texts.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    read.sort();
    read.dedup();
    Ok(read)
}

/// Refuses a lone `*` that was not said to be meant.
pub fn check_unbounded(field: &str, held: &[Capability], unsafe_admin: bool) -> Result<(), Refusal> {
    if !unsafe_admin && held.iter().any(|held| held.as_str() == EVERYTHING) {
        return Err(Refusal::Invalid(format!("{field} with `*` needs unsafe_admin = true")));
    }
    Ok(())
}

/// Those of a record of this component.
pub fn parse_stored(texts: &[String]) -> Result<Vec<Capability>, Refusal> {
    let parse = |text: &String| Capability::parse(text).map_err(|error| Refusal::Internal(error.to_string()));
    texts.iter().map(parse).collect()
}

fn built_in(name: &str) -> Option<&'static [&'static str]> {
    BUILT_IN.iter().find(|(of, _)| *of == name).map(|(_, held)| *held)
}

/// What a group holds, or none if it is not defined.
pub fn held_by(transaction: &mut impl Transaction, name: &str) -> Result<Option<Vec<Capability>>, Refusal> {
    if let Some(held) = built_in(name) {
        return parse_stored(&held.iter().map(|&held| held.to_owned()).collect::<Vec<_>>()).map(Some);
    }
    let Some(bytes) = transaction.get(Bucket::Groups, name)? else { return Ok(None) };
    parse_stored(&Group::read(name, &bytes)?.capabilities).map(Some)
}

/// What a group holds that somebody is about to join; one that is not defined is invalid, one that is about to be deleted a
/// conflict.
pub fn to_join(transaction: &mut impl Transaction, name: &str) -> Result<Vec<Capability>, Refusal> {
    let undefined = || Refusal::Invalid(format!("group {} is not defined", payload::shown(name)));
    read_name(name).map_err(|_| undefined())?;
    if built_in(name).is_none()
        && let Some(bytes) = transaction.get(Bucket::Groups, name)?
        && Group::read(name, &bytes)?.closing.is_some()
    {
        return Err(Refusal::Conflict(format!("group {} is being deleted", payload::shown(name))));
    }
    held_by(transaction, name)?.ok_or_else(undefined)
}

fn member(name: &str, principal: &str) -> String {
    format!("{name}/{principal}")
}

/// Stages that a principal is in a group, which [`to_join`] has found in the same transaction.
pub fn enter(transaction: &mut impl Transaction, name: &str, principal: &str) -> Result<(), Refusal> {
    match built_in(name) {
        Some(_) => Ok(()),
        None => Ok(transaction.put(Bucket::Members, &member(name, principal), b"{}")?),
    }
}

/// Stages that a principal is in a group no more.
pub fn leave(transaction: &mut impl Transaction, name: &str, principal: &str) -> Result<(), Refusal> {
    match built_in(name) {
        Some(_) => Ok(()),
        None => Ok(transaction.delete(Bucket::Members, &member(name, principal))?),
    }
}

/// A group's name as a request has it. The grammar is that of principals.
fn read_name(name: &str) -> Result<(), Refusal> {
    let grammar = "1 to 64 of A-Z a-z 0-9 _ -";
    PrincipalId::parse(name).map(drop).map_err(|_| invalid(format!("group name {}", payload::shown(name)), grammar))
}

fn check_changeable(name: &str) -> Result<(), Refusal> {
    read_name(name)?;
    match built_in(name) {
        Some(_) => Err(Refusal::Denied(format!("group `{name}` is built in and stays as it is"))),
        None => Ok(()),
    }
}

fn check_description(description: Option<&str>) -> Result<(), Refusal> {
    match description.map_or(0, str::len) {
        size if size > MAX_DESCRIPTION => {
            Err(invalid("description", format!("at most {MAX_DESCRIPTION} bytes long; it has {size}")))
        }
        _ => Ok(()),
    }
}

fn texts(capabilities: &[Capability]) -> Vec<String> {
    capabilities.iter().map(|held| held.as_str().to_owned()).collect()
}

/// A group as others see it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub name: String,
    /// Sorted.
    pub capabilities: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    pub unsafe_admin: bool,
    pub builtin: bool,
}

impl Row {
    fn new(name: &str, group: Group) -> Self {
        let Group { capabilities, description, unsafe_admin, closing: _ } = group;
        Self { name: name.into(), capabilities, description, unsafe_admin, builtin: false }
    }

    fn built_in(name: &str, held: &[&str]) -> Self {
        let capabilities = held.iter().map(|&held| held.to_owned()).collect();
        Self { name: name.into(), capabilities, description: None, unsafe_admin: held == [EVERYTHING], builtin: true }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateRequest {
    name: String,
    capabilities: Vec<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default, deserialize_with = "payload::or_default")]
    unsafe_admin: bool,
}

/// Makes a group. A name that is taken, by a built-in one as well, is a conflict. What it shall hold must be the caller's to
/// give.
pub fn create<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Row, Refusal> {
    let CreateRequest { name, capabilities: held, description, unsafe_admin } = payload::read(payload)?;
    read_name(&name)?;
    check_description(description.as_deref())?;
    let held = capabilities("capabilities", &held)?;
    check_unbounded("capabilities", &held, unsafe_admin)?;
    let taken = || Refusal::Conflict(format!("there is a group `{name}` already"));
    transact(ports, |transaction| {
        let giver = principals::rights_of_caller(ports, transaction, caller)?;
        giver.check_giving("the group", &held)?;
        if built_in(&name).is_some() || transaction.get(Bucket::Groups, &name)?.is_some() {
            return Err(taken());
        }
        let group = Group { capabilities: texts(&held), description: description.clone(), unsafe_admin, closing: None };
        group.save(transaction, &name)?;
        Ok(Row::new(&name, group))
    })
}

/// The answer to `group.list`.
#[derive(Debug, Serialize)]
pub struct GroupList {
    /// The built-in ones, then the others by name.
    pub groups: Vec<Row>,
    /// Pass it as `after` to go on; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// The built-in groups, and those after `after`, at most `limit` (1 to 1000, 1000 unless given); from `after` on without the
/// built-in ones. With a target the groups that it is in, as far as they are defined.
pub fn list<P: Ports>(ports: &P, target: Option<&str>, payload: &[u8]) -> Result<GroupList, Refusal> {
    let request: listing::Request = payload::read(payload)?;
    let limit = request.limit.map_or(Ok(MAX_ROWS), |limit| bounded("limit", &limit, 1..=MAX_ROWS))?;
    if let Some(after) = &request.after {
        read_name(after)?;
    }
    if let Some(target) = target {
        let principal = principals::existing(ports, target)?;
        let rows = principal.groups.iter().map(|name| find(ports, name)).collect::<Result<Vec<_>, _>>()?;
        let after = |row: &Row| request.after.as_ref().is_none_or(|after| row.name > *after);
        return Ok(GroupList { groups: rows.into_iter().flatten().filter(after).collect(), next_after: None });
    }
    let mut groups: Vec<Row> = match request.after {
        Some(_) => Vec::new(),
        None => BUILT_IN.iter().map(|(name, held)| Row::built_in(name, held)).collect(),
    };
    let walked = listing::walk(ports, Bucket::Groups, request.after, limit as usize, |name, bytes| {
        Ok(Some(Row::new(name, Group::read(name, bytes)?)))
    })?;
    groups.extend(walked.rows);
    Ok(GroupList { groups, next_after: walked.next_after })
}

fn find<P: Ports>(ports: &P, name: &str) -> Result<Option<Row>, Refusal> {
    if let Some(held) = built_in(name) {
        return Ok(Some(Row::built_in(name, held)));
    }
    let Some(bytes) = ports.get(Bucket::Groups, name)? else { return Ok(None) };
    Ok(Some(Row::new(name, Group::read(name, &bytes)?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameRequest {
    name: String,
}

/// One group.
pub fn show<P: Ports>(ports: &P, payload: &[u8]) -> Result<Row, Refusal> {
    let NameRequest { name } = payload::read(payload)?;
    read_name(&name)?;
    find(ports, &name)?.ok_or_else(|| Refusal::NotFound(format!("no group {}", payload::shown(&name))))
}

/// A field that is not there stays as it is; null clears.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModifyRequest {
    name: String,
    #[serde(default, deserialize_with = "given")]
    capabilities: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "given")]
    description: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    unsafe_admin: Option<Option<bool>>,
}

/// Changes a group; its members hold what it holds then when this returns. What is added must be the caller's to give.
pub fn modify<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Row, Refusal> {
    let request: ModifyRequest = payload::read(payload)?;
    let name = &request.name;
    check_changeable(name)?;
    check_description(request.description.as_ref().and_then(Option::as_deref))?;
    let wanted = match &request.capabilities {
        None => None,
        Some(held) => Some(capabilities("capabilities", held.as_deref().unwrap_or_default())?),
    };
    transact(ports, |transaction| {
        let mut group = Group::load(transaction, name)?;
        if group.closing.is_some() {
            return Err(Refusal::Conflict(format!("group `{name}` is being deleted")));
        }
        if let Some(wanted) = &wanted {
            let before = parse_stored(&group.capabilities)?;
            let more: Vec<_> = wanted.iter().filter(|wanted| !before.contains(wanted)).cloned().collect();
            principals::rights_of_caller(ports, transaction, caller)?.check_giving("the change", &more)?;
            group.capabilities = texts(wanted);
        }
        if let Some(description) = &request.description {
            group.description = description.clone();
        }
        if let Some(unsafe_admin) = request.unsafe_admin {
            group.unsafe_admin = unsafe_admin.unwrap_or(false);
        }
        check_unbounded("capabilities", &parse_stored(&group.capabilities)?, group.unsafe_admin)?;
        group.save(transaction, name)?;
        Ok(Row::new(name, group))
    })
}

/// The answer to `group.delete`: an empty object.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Deleted {}

/// Deletes a group that nobody is in; else it is a conflict. First it is closed to those who join, then looked through:
/// nobody can slip in between. An attempt that was cut short leaves it closed, and the next one ends that.
pub fn delete<P: Ports>(ports: &P, payload: &[u8]) -> Result<Deleted, Refusal> {
    let NameRequest { name } = payload::read(payload)?;
    check_changeable(&name)?;
    let mut attempt = [0; 8];
    ports.random(&mut attempt)?;
    let attempt = Some(u64::from_le_bytes(attempt));
    transact(ports, |transaction| {
        let group = Group::load(transaction, &name)?;
        Group { closing: attempt, ..group }.save_record(transaction, &name)
    })?;
    let members = ports.scan(Bucket::Members, &member(&name, ""), None, 1)?;
    transact(ports, |transaction| {
        let group = Group::load(transaction, &name)?;
        if group.closing != attempt {
            return Err(Refusal::Conflict(format!("another request is deleting group `{name}` as well; try again")));
        }
        if members.entries.is_empty() {
            transaction.delete(Bucket::Groups, &name)?;
            return Ok(transaction.remove_group(&name)?);
        }
        Group { closing: None, ..group }.save_record(transaction, &name)
    })?;
    match members.entries.first() {
        None => Ok(Deleted {}),
        Some((key, _)) => {
            let one = key.split_once('/').map_or("", |(_, principal)| principal);
            Err(Refusal::Conflict(format!(
                "principals are in group `{name}`, `{one}` for example; take them out first"
            )))
        }
    }
}

#[cfg(test)]
mod tests;
