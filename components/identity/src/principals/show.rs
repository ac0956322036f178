//! Principals as others see them, and as they see themselves.

use astrid_capsule::principal::ANONYMOUS;
use serde::Serialize;

use super::{Principal, existing, load, read, rights_of_caller};
use crate::listing;
use crate::payload::{self, bounded};
use crate::ports::{Bucket, Ports};
use crate::refusal::Refusal;

/// The most rows of one list.
const MAX_ROWS: u32 = 1_000;

/// The answer to `principal.list`.
#[derive(Debug, Serialize)]
pub struct PrincipalList {
    /// Sorted by id.
    pub principals: Vec<Row>,
    /// Pass it as `after` to go on; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_after: Option<String>,
}

/// A principal as others see it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub principal: String,
    pub enabled: bool,
    pub groups: Vec<String>,
    pub grants: Vec<String>,
    pub revokes: Vec<String>,
}

impl Row {
    pub(super) fn new(id: &str, principal: Principal) -> Self {
        let Principal { enabled, groups, grants, revokes, .. } = principal;
        Self { principal: id.into(), enabled, groups, grants, revokes }
    }
}

/// Principals after `after`, at most `limit` (1 to 1000, 1000 unless given); with a target that one alone, which is
/// not found if it does not exist.
pub fn list<P: Ports>(ports: &P, target: Option<&str>, payload: &[u8]) -> Result<PrincipalList, Refusal> {
    let request: listing::Request = payload::read(payload)?;
    let limit = request.limit.map_or(Ok(MAX_ROWS), |limit| bounded("limit", &limit, 1..=MAX_ROWS))?;
    if let Some(after) = &request.after {
        payload::principal("after", after)?;
    }
    if let Some(target) = target {
        let found = existing(ports, target)?;
        let after = request.after.is_none_or(|after| *target > *after);
        let principals = after.then(|| Row::new(target, found)).into_iter().collect();
        return Ok(PrincipalList { principals, next_after: None });
    }
    let walked = listing::walk(ports, Bucket::Principals, request.after, limit as usize, |id, bytes| {
        Ok(Some(Row::new(id, read(id, bytes)?)))
    })?;
    Ok(PrincipalList { principals: walked.rows, next_after: walked.next_after })
}

/// One principal.
pub fn show<P: Ports>(ports: &P, id: &str, payload: &[u8]) -> Result<Row, Refusal> {
    payload::read_empty(payload)?;
    Ok(Row::new(id, existing(ports, id)?))
}

/// The answer to `me`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Me {
    pub principal: String,
    pub groups: Vec<String>,
    /// What it holds through this session, sorted.
    pub capabilities: Vec<String>,
}

/// Who the caller is. `anonymous` is nobody, which is denied.
pub fn me<P: Ports>(ports: &P, caller: &str, payload: &[u8]) -> Result<Me, Refusal> {
    payload::read_empty(payload)?;
    let found = if caller == ANONYMOUS { None } else { load(ports, caller)? };
    let principal = found.ok_or_else(|| Refusal::Denied("the caller is not a known principal".into()))?;
    let capabilities = rights_of_caller(ports, &mut ports.begin(), caller)?.held();
    Ok(Me { principal: caller.into(), groups: principal.groups, capabilities })
}
