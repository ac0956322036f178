//! Who somebody is and what they hold: principals, built-in groups, invites and bearers.
//!
//! This file is the table of contents: which handler is which function. The host has checked what a binding requires
//! before it calls one.
//!
//! - [`principals`]: records, groups, the bootstrap principal, ids for new ones
//! - [`invites`]: issue, list, revoke, redeem
//! - [`quotas`]: what a principal may use
//! - [`policy`]: what the distribution says of invites and of how many principals there are
//! - [`bearer`]: signing bearers and telling whose a credential is
//! - [`keys`], [`payload`], [`listing`], [`refusal`]: public keys, strict requests, bounded answers, refusals
//! - [`ports`]: what all of these need from outside; the `imports` module is the component's answer, and the domain
//!   never sees it

pub mod bearer;
mod imports;
pub mod invites;
pub mod keys;
pub mod listing;
pub mod payload;
pub mod policy;
pub mod ports;
pub mod principals;
pub mod quotas;
pub mod refusal;
#[cfg(test)]
mod testing;

use astrid_sdk::authority::{Identified, Presented};
use astrid_sdk::bus::RefusalCode;
use astrid_sdk::prelude::*;

use crate::imports::Imports;

handlers! {
    "invite-issue" => invite_issue,
    "invite-list" => invite_list,
    "invite-revoke" => invite_revoke,
    "invite-redeem" => invite_redeem,
    "principal-list" => principal_list,
    "me" => me,
    "quota-get" => quota_get,
    "quota-set" => quota_set,
}
authenticator!(authenticate);
starter!(start);

fn invite_issue(message: Message) -> Answer {
    answer(invites::issue(&Imports, &message.principal, &message.payload))
}

fn invite_list(message: Message) -> Answer {
    answer(invites::list(&Imports, &message.payload))
}

fn invite_revoke(message: Message) -> Answer {
    answer(invites::revoke(&Imports, &message.payload))
}

fn invite_redeem(message: Message) -> Answer {
    answer(invites::redeem(&Imports, &message.payload))
}

fn principal_list(message: Message) -> Answer {
    answer(principals::list(&Imports, message.target.as_deref(), &message.payload))
}

fn me(message: Message) -> Answer {
    answer(principals::me(&Imports, &message.principal, &message.payload))
}

fn quota_get(message: Message) -> Answer {
    let principal = message.target.as_deref().unwrap_or(&message.principal);
    answer(quotas::get(&Imports, principal, &message.payload))
}

fn quota_set(message: Message) -> Answer {
    answer(quotas::set(&Imports, message.target.as_deref(), &message.payload))
}

fn start() -> Result<(), String> {
    principals::bootstrap(&Imports).map_err(|refusal| refusal.reason().into())
}

fn authenticate(presented: Presented) -> Option<Identified> {
    let identified = match presented {
        Presented::Bearer(text) => bearer::authenticate(&Imports, &text),
        Presented::Unix(peer) => Ok(bearer::unix_peer(&Imports, peer.owner)),
    };
    match identified {
        Ok(identified) => identified.map(|who| Identified { principal: who.principal, expires_at: who.expires_at }),
        // None would say that the credential is bad. A trap says that it could not be judged.
        Err(refusal) => panic!("{}", refusal.reason()),
    }
}

fn answer<T: Serialize>(result: Result<T, refusal::Refusal>) -> Answer {
    let refusal = match result {
        Ok(value) => return json(&value),
        Err(refusal) => refusal,
    };
    let code = match refusal {
        refusal::Refusal::Invalid(_) => RefusalCode::Invalid,
        refusal::Refusal::Denied(_) => RefusalCode::Denied,
        refusal::Refusal::NotFound(_) => RefusalCode::NotFound,
        refusal::Refusal::Conflict(_) => RefusalCode::Conflict,
        refusal::Refusal::Unavailable(_) => RefusalCode::Unavailable,
        refusal::Refusal::Internal(_) => {
            log::error!("{}", refusal.reason());
            RefusalCode::Internal
        }
    };
    Err(Refusal::new(code, refusal.reason()))
}
