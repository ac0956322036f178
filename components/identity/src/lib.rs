//! Who somebody is and what they hold: principals, groups, grants, invites and bearers.
//!
//! This file is the table of contents: which handler is which function. The host has checked what a binding requires
//! before it calls one.
//!
//! - [`principals`]: records and what changes them, the bootstrap principal, ids for new ones
//! - [`groups`], [`caps`]: names for sets of capabilities; grants and revokes of single principals
//! - [`rights`]: the order in which it is decided what somebody holds, and what they may give
//! - [`invites`]: issue, list, revoke, redeem
//! - [`quotas`]: what a principal may use
//! - [`policy`]: what the distribution says of invites and of how many principals there are
//! - [`bearer`]: signing bearers and telling whose a credential is
//! - [`sessions`], [`signing`]: what stands behind a bearer, renewing and ending it, and the keys that sign
//! - [`devices`], [`login`]: the keys of a principal, how it gets another, and sessions for whoever has one
//! - [`certificates`]: those that a principal shows over TLS instead of a bearer
//! - [`approvals`]: what capsules ask a principal's consent for, and its answers
//! - [`audit`]: what the record of a call says of it
//! - [`keys`], [`payload`], [`listing`], [`refusal`]: public keys, strict requests, bounded answers, refusals
//! - [`ports`]: what all of these need from outside; the `imports` module is the component's answer, and the domain
//!   never sees it

pub mod approvals;
pub mod audit;
pub mod bearer;
pub mod caps;
pub mod certificates;
pub mod devices;
pub mod groups;
mod imports;
pub mod invites;
pub mod keys;
pub mod listing;
pub mod login;
pub mod payload;
pub mod policy;
pub mod ports;
pub mod principals;
pub mod quotas;
pub mod refusal;
pub mod rights;
pub mod sessions;
pub mod signing;
#[cfg(test)]
mod testing;

use std::time::Duration;

use astrid_sdk::authority::{Identified, Presented};
use astrid_sdk::bus::RefusalCode;
use astrid_sdk::prelude::*;

use crate::imports::Imports;

handlers! {
    "invite-issue" => invite_issue,
    "invite-list" => invite_list,
    "invite-revoke" => invite_revoke,
    "invite-redeem" => invite_redeem,
    "principal-create" => principal_create,
    "principal-list" => principal_list,
    "principal-show" => principal_show,
    "principal-modify" => principal_modify,
    "principal-enable" => principal_enable,
    "principal-disable" => principal_disable,
    "principal-delete" => principal_delete,
    "group-create" => group_create,
    "group-list" => group_list,
    "group-show" => group_show,
    "group-modify" => group_modify,
    "group-delete" => group_delete,
    "caps-grant" => caps_grant,
    "caps-revoke" => caps_revoke,
    "caps-show" => caps_show,
    "caps-check" => caps_check,
    "me" => me,
    "device-pair" => device_pair,
    "device-redeem" => device_redeem,
    "device-list" => device_list,
    "device-remove" => device_remove,
    "certificate-bind" => certificate_bind,
    "certificate-list" => certificate_list,
    "certificate-remove" => certificate_remove,
    "login-challenge" => login_challenge,
    "login" => log_in,
    "session-refresh" => session_refresh,
    "session-end" => session_end,
    "session-rotate" => session_rotate,
    "approval-request" => approval_request,
    "approval-answer" => approval_answer,
    "approval-list" => approval_list,
    "approval-withdraw" => approval_withdraw,
    "quota-get" => quota_get,
    "quota-set" => quota_set,
}
authenticator!(authenticate);
starter!(start);

fn invite_issue(message: Message) -> Answer {
    answer(&message, invites::issue(&Imports, &message.principal, &message.payload))
}

fn invite_list(message: Message) -> Answer {
    answer(&message, invites::list(&Imports, &message.payload))
}

fn invite_revoke(message: Message) -> Answer {
    noted(&message, invites::revoke(&Imports, &message.payload))
}

fn invite_redeem(message: Message) -> Answer {
    attempted(&message, invites::redeem(&Imports, &message.payload))
}

fn principal_create(message: Message) -> Answer {
    untargeted(&message)
        .and_then(|()| noted(&message, principals::create(&Imports, &message.principal, &message.payload)))
}

fn principal_list(message: Message) -> Answer {
    answer(&message, principals::list(&Imports, message.target.as_deref(), &message.payload))
}

fn principal_show(message: Message) -> Answer {
    answer(&message, principals::show(&Imports, about(&message), &message.payload))
}

fn principal_modify(message: Message) -> Answer {
    untargeted(&message)
        .and_then(|()| noted(&message, principals::modify(&Imports, &message.principal, &message.payload)))
}

fn principal_enable(message: Message) -> Answer {
    untargeted(&message).and_then(|()| noted(&message, principals::enable(&Imports, &message.payload)))
}

fn principal_disable(message: Message) -> Answer {
    untargeted(&message).and_then(|()| noted(&message, principals::disable(&Imports, &message.payload)))
}

fn principal_delete(message: Message) -> Answer {
    untargeted(&message).and_then(|()| noted(&message, principals::delete(&Imports, &message.payload)))
}

fn group_create(message: Message) -> Answer {
    untargeted(&message).and_then(|()| noted(&message, groups::create(&Imports, &message.principal, &message.payload)))
}

fn group_list(message: Message) -> Answer {
    answer(&message, groups::list(&Imports, message.target.as_deref(), &message.payload))
}

fn group_show(message: Message) -> Answer {
    untargeted(&message).and_then(|()| answer(&message, groups::show(&Imports, &message.payload)))
}

fn group_modify(message: Message) -> Answer {
    untargeted(&message).and_then(|()| noted(&message, groups::modify(&Imports, &message.principal, &message.payload)))
}

fn group_delete(message: Message) -> Answer {
    untargeted(&message).and_then(|()| noted(&message, groups::delete(&Imports, &message.payload)))
}

fn caps_grant(message: Message) -> Answer {
    untargeted(&message).and_then(|()| noted(&message, caps::grant(&Imports, &message.payload)))
}

fn caps_revoke(message: Message) -> Answer {
    untargeted(&message).and_then(|()| noted(&message, caps::revoke(&Imports, &message.payload)))
}

fn caps_show(message: Message) -> Answer {
    answer(&message, caps::show(&Imports, about(&message), &message.payload))
}

fn caps_check(message: Message) -> Answer {
    answer(&message, caps::check(&Imports, about(&message), &message.payload))
}

fn me(message: Message) -> Answer {
    answer(&message, principals::me(&Imports, &message.principal, &message.payload))
}

fn device_pair(message: Message) -> Answer {
    noted(&message, devices::pair(&Imports, about(&message), &message.payload))
}

fn device_redeem(message: Message) -> Answer {
    attempted(&message, devices::redeem(&Imports, &message.payload))
}

fn device_list(message: Message) -> Answer {
    answer(&message, devices::list(&Imports, about(&message), &message.payload))
}

fn device_remove(message: Message) -> Answer {
    noted(&message, devices::remove(&Imports, about(&message), &message.payload))
}

fn certificate_bind(message: Message) -> Answer {
    noted(&message, certificates::bind(&Imports, about(&message), &message.payload))
}

fn certificate_list(message: Message) -> Answer {
    answer(&message, certificates::list(&Imports, about(&message), &message.payload))
}

fn certificate_remove(message: Message) -> Answer {
    noted(&message, certificates::remove(&Imports, about(&message), &message.payload))
}

fn login_challenge(message: Message) -> Answer {
    answer(&message, login::challenge(&Imports, &message.payload))
}

fn log_in(message: Message) -> Answer {
    attempted(&message, login::login(&Imports, &message.payload))
}

fn session_refresh(message: Message) -> Answer {
    answer(&message, sessions::refresh(&Imports, &message.principal, &message.payload))
}

fn session_end(message: Message) -> Answer {
    noted(&message, sessions::end(&Imports, &message.principal, &message.payload))
}

fn session_rotate(message: Message) -> Answer {
    untargeted(&message).and_then(|()| noted(&message, sessions::rotate(&Imports, &message.payload)))
}

fn approval_request(message: Message) -> Answer {
    untargeted(&message)?;
    let remaining = Duration::from_millis(message.remaining_ms.into());
    let outcome = approvals::request(&Imports, &message.principal, &message.sender, &message.payload, remaining);
    noted(&message, outcome)
}

fn approval_answer(message: Message) -> Answer {
    noted(&message, approvals::answer(&Imports, about(&message), &message.sender, &message.payload))
}

fn approval_list(message: Message) -> Answer {
    answer(&message, approvals::list(&Imports, about(&message), &message.payload))
}

fn approval_withdraw(message: Message) -> Answer {
    noted(&message, approvals::withdraw(&Imports, about(&message), &message.payload))
}

fn quota_get(message: Message) -> Answer {
    answer(&message, quotas::get(&Imports, about(&message), &message.payload))
}

fn quota_set(message: Message) -> Answer {
    noted(&message, quotas::set(&Imports, message.target.as_deref(), &message.payload))
}

fn start() -> Result<(), String> {
    principals::bootstrap(&Imports).map_err(|refusal| refusal.reason().into())
}

fn authenticate(presented: Presented) -> Option<Identified> {
    let identified = match presented {
        Presented::Bearer(text) => bearer::authenticate(&Imports, &text),
        Presented::Unix(peer) => Ok(bearer::unix_peer(&Imports, peer.owner)),
        Presented::Certificate(shown) => certificates::authenticate(&Imports, &shown.fingerprint),
    };
    match identified {
        Ok(identified) => identified.map(|who| Identified {
            principal: who.principal,
            expires_at: who.expires_at,
            ceiling: who.ceiling,
            session: Some(who.session),
        }),
        // None would say that the credential is bad. A trap says that it could not be judged.
        Err(refusal) => panic!("{}", refusal.reason()),
    }
}

/// Whom a message is about.
fn about(message: &Message) -> &str {
    message.target.as_deref().unwrap_or(&message.principal)
}

/// Refuses a target where the payload names who is meant: about oneself the `self:` form of a capability could be enough,
/// and nobody raises themselves with that.
fn untargeted(message: &Message) -> Result<(), Refusal> {
    match message.target {
        Some(_) => Err(Refusal::invalid("this takes no target; the payload names what is meant")),
        None => Ok(()),
    }
}

/// Answers, and logs a change: what, by whom, about what, and why not.
fn noted<T: Serialize>(message: &Message, result: Result<T, refusal::Refusal>) -> Answer {
    let (topic, caller, subject) = (&message.topic, &message.principal, subject(message));
    match &result {
        Ok(_) => log::info!("{topic} by `{caller}`{subject}"),
        Err(refusal) => log::warn!("{topic} by `{caller}`{subject} refused: {}", refusal.reason()),
    }
    answer(message, result)
}

/// Answers, and logs what strangers tried in vain; quietly, since anybody can make as many such lines as they like.
fn attempted<T: Serialize>(message: &Message, result: Result<T, refusal::Refusal>) -> Answer {
    if let Err(refusal) = &result {
        log::debug!("{}{} refused: {}", message.topic, subject(message), refusal.reason());
    }
    answer(message, result)
}

/// What a message is about, as a log may repeat it: by fields that name something and never hold a token or a key, and
/// nothing of the length of one.
fn subject(message: &Message) -> String {
    let payload = serde_json::from_slice::<serde_json::Value>(&message.payload).unwrap_or_default();
    let named = ["principal", "name", "fingerprint"].iter().find_map(|field| payload.get(field)?.as_str());
    let subject = named.or(message.target.as_deref()).map(payload::shown);
    subject.map_or_else(String::new, |subject| format!(" about the name {subject}"))
}

/// Answers, and says for the record what was asked for and what came of it.
fn answer<T: Serialize>(message: &Message, result: Result<T, refusal::Refusal>) -> Answer {
    astrid_sdk::audit::attach(&audit::detail(&message.payload, &result));
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
