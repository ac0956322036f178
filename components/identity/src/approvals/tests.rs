use std::time::Duration;

use serde_json::{Value, json};

use super::ask::{MAX_ACTION, MAX_REASON, MAX_RESOURCE, close};
use super::*;
use crate::ports::{Bucket, transact};
use crate::principals;
use crate::refusal::Refusal;
use crate::sessions::MAX_AGE_SECS;
use crate::testing::{Fake, NOW};

const SOON: Duration = Duration::from_secs(20);

fn ask(fake: &Fake, who: &str, capsule: &str, action: &str) -> Result<Outcome, Refusal> {
    let payload = json!({ "action": action, "resource": "file:/a", "reason": "to tidy up" });
    request(fake, who, capsule, payload.to_string().as_bytes(), SOON)
}

fn listed(fake: &Fake, who: &str) -> Value {
    serde_json::to_value(list(fake, who, b"").unwrap()).unwrap()
}

fn first(fake: &Fake, who: &str) -> String {
    listed(fake, who)["requests"][0]["id"].as_str().expect("a request").to_owned()
}

fn reply(fake: &Fake, who: &str, id: &str, decision: &str) -> Result<Done, Refusal> {
    answer(fake, who, "gateway", json!({ "id": id, "decision": decision }).to_string().as_bytes())
}

/// Asks, and answers while it waits.
fn asked(fake: &Fake, who: &'static str, capsule: &str, decision: &'static str) -> Outcome {
    fake.while_waiting(move |fake| assert_eq!(reply(fake, who, &first(fake, who), decision), Ok(Done {})));
    ask(fake, who, capsule, "delete").unwrap()
}

#[test]
fn a_request_is_told_listed_answered_once_and_gone() {
    let fake = Fake::new();
    fake.while_waiting(|fake| {
        let row = json!({ "id": first(fake, "bo"), "capsule": "notes", "action": "delete", "resource": "file:/a",
                          "reason": "to tidy up", "asked_at_epoch": NOW, "expires_at_epoch": NOW + 20 });
        assert_eq!(listed(fake, "bo"), json!({ "requests": [row], "standing": [] }));
        assert_eq!(fake.published(), [(ASKED.to_owned(), row)]);
        let id = first(fake, "bo");
        assert!(matches!(reply(fake, "al", &id, "approve_always"), Err(Refusal::NotFound(_))), "not hers");
        assert!(matches!(reply(fake, "bo", &id, "yes"), Err(Refusal::Invalid(_))));
        reply(fake, "bo", &id, "approve_once").unwrap();
        assert!(matches!(reply(fake, "bo", &id, "deny"), Err(Refusal::Conflict(_))), "one answer counts");
    });
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), Outcome { approved: true, by: By::Once });
    assert_eq!(fake.published().len(), 2);
    assert!(fake.text().is_empty(), "{}", fake.text());
    assert_eq!(asked(&fake, "bo", "notes", "deny"), Outcome { approved: false, by: By::Denial });
}

#[test]
fn no_answer_in_time_is_a_denial_and_an_answer_afterwards_finds_nothing() {
    let fake = Fake::new();
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT);
    let events = fake.published();
    let id = events[0].1["id"].as_str().unwrap();
    assert_eq!(events[1], (OVER.into(), json!({ "id": id, "approved": false, "by": "timeout" })));
    assert!(matches!(reply(&fake, "bo", id, "approve_always"), Err(Refusal::NotFound(_))));
    assert!(fake.text().is_empty());
}

#[test]
fn of_an_answer_and_the_end_of_the_time_one_counts_whichever_commits_first() {
    let fake = Fake::new();
    // It commits after the time is over and before the request is withdrawn.
    fake.while_waiting(|fake| {
        fake.before_commit(|fake| assert_eq!(reply(fake, "bo", &first(fake, "bo"), "approve_once"), Ok(Done {})));
        fake.time_is_over();
    });
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), Outcome { approved: true, by: By::Once });
    // The other way round.
    fake.while_waiting(|fake| {
        let id = first(fake, "bo");
        fake.before_commit(move |fake| assert_eq!(close(fake, "bo", "notes", &id).unwrap(), TIMEOUT));
        assert!(matches!(reply(fake, "bo", &first(fake, "bo"), "approve_once"), Err(Refusal::NotFound(_))));
    });
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT);
}

#[test]
fn of_two_answers_at_once_one_counts() {
    let fake = Fake::new();
    fake.while_waiting(|fake| {
        let id = first(fake, "bo");
        fake.before_commit(|fake| assert_eq!(reply(fake, "bo", &first(fake, "bo"), "deny"), Ok(Done {})));
        assert!(matches!(reply(fake, "bo", &id, "approve_always"), Err(Refusal::Conflict(_))));
    });
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), Outcome { approved: false, by: By::Denial });
    assert!(fake.text().is_empty(), "nothing stands");
}

#[test]
fn always_stands_for_this_capsule_action_and_resource_until_it_is_withdrawn() {
    let fake = Fake::new();
    let always = Outcome { approved: true, by: By::Always };
    assert_eq!(asked(&fake, "bo", "notes", "approve_always"), always);
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), always, "nobody was asked");
    for (who, capsule, action) in [("al", "notes", "delete"), ("bo", "other", "delete"), ("bo", "notes", "read")] {
        assert_eq!(ask(&fake, who, capsule, action).unwrap(), TIMEOUT, "{who} {capsule} {action}");
    }
    let standing = listed(&fake, "bo")["standing"].clone();
    assert_eq!((standing.as_array().unwrap().len(), &standing[0]["session"]), (1, &json!(false)));
    let request = json!({ "id": standing[0]["id"] }).to_string();
    assert!(matches!(withdraw(&fake, "al", request.as_bytes()), Err(Refusal::NotFound(_))), "not hers");
    withdraw(&fake, "bo", request.as_bytes()).unwrap();
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT);
    assert!(matches!(withdraw(&fake, "bo", request.as_bytes()), Err(Refusal::NotFound(_))));
}

#[test]
fn what_stands_in_a_session_stands_in_no_other_and_not_for_another_whose_session_is_called_the_same() {
    let fake = Fake::new();
    fake.through_session(Some("one"));
    let session = Outcome { approved: true, by: By::Session };
    assert_eq!(asked(&fake, "bo", "notes", "approve_session"), session);
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), session);
    assert_eq!(ask(&fake, "al", "notes", "delete").unwrap(), TIMEOUT, "hers is called the same");
    for other in [Some("two"), None] {
        fake.through_session(other);
        assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT, "{other:?}");
    }
    fake.while_waiting(|fake| {
        let refused = reply(fake, "bo", &first(fake, "bo"), "approve_session");
        assert!(matches!(refused, Err(Refusal::Conflict(_))), "there is none to stand in");
    });
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT);
    fake.through_session(Some("one"));
    transact(&fake, |transaction| end_session(transaction, "bo", "one", NOW)).unwrap();
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT, "it ended");
    assert_eq!(asked(&fake, "bo", "notes", "approve_session"), session);
    fake.set_now(NOW + MAX_AGE_SECS);
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT, "no session is that old");
}

#[test]
fn a_capsule_never_answers_what_it_has_asked() {
    let fake = Fake::new();
    fake.while_waiting(|fake| {
        let payload = json!({ "id": first(fake, "bo"), "decision": "approve_once" }).to_string();
        assert!(matches!(answer(fake, "bo", "notes", payload.as_bytes()), Err(Refusal::Denied(_))));
    });
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT);
}

#[test]
fn open_requests_are_bounded_for_a_principal_and_for_a_capsule_and_forgotten_when_they_expire() {
    fn nested(fake: &Fake, left: usize) {
        if left == 0 {
            let more = ask(fake, "bo", "other", "delete");
            assert!(matches!(more, Err(Refusal::Conflict(why)) if why.contains("principal")));
            return;
        }
        fake.while_waiting(move |fake| nested(fake, left - 1));
        ask(fake, "bo", "notes", "delete").unwrap();
    }
    let fake = Fake::new();
    nested(&fake, MAX_OPEN);
    assert!(fake.text().is_empty());
    let open: Vec<_> = (0..MAX_ASKED).map(|n| (n.to_string(), NOW + 20)).collect();
    fake.set(Bucket::Asking, "notes", &json!(open));
    let more = ask(&fake, "bo", "notes", "delete");
    assert!(matches!(more, Err(Refusal::Conflict(why)) if why.contains("capsule")));
    assert_eq!(ask(&fake, "bo", "other", "delete").unwrap(), TIMEOUT);
    fake.set_now(NOW + 20);
    assert_eq!(ask(&fake, "bo", "notes", "delete").unwrap(), TIMEOUT);
    assert!(fake.text().is_empty());
}

#[test]
fn approvals_that_stand_are_bounded() {
    let fake = Fake::new();
    for n in 0..=MAX_STANDING {
        fake.while_waiting(move |fake| {
            let answered = reply(fake, "bo", &first(fake, "bo"), "approve_always");
            assert_eq!(answered.is_ok(), n < MAX_STANDING, "{n}");
        });
        ask(&fake, "bo", "notes", &format!("a{n}")).unwrap();
    }
}

#[test]
fn texts_are_bounded_and_show_what_they_are() {
    let fake = Fake::new();
    for wrong in [
        json!({}),
        json!({ "action": "" }),
        json!({ "action": "a".repeat(MAX_ACTION + 1) }),
        json!({ "action": "a", "resource": "r".repeat(MAX_RESOURCE + 1) }),
        json!({ "action": "a", "reason": "r".repeat(MAX_REASON + 1) }),
        json!({ "action": "a", "principal": "default" }),
    ] {
        let refused = request(&fake, "bo", "notes", wrong.to_string().as_bytes(), SOON);
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{wrong}");
    }
    let payload = json!({ "action": "rm\u{202e}\n\u{1b}[2J", "reason": "a\u{200b}b ä" }).to_string();
    request(&fake, "bo", "notes", payload.as_bytes(), SOON).unwrap();
    let event = &fake.published()[0].1;
    assert_eq!(event["action"], "rm\u{fffd}\u{fffd}\u{fffd}[2J");
    assert_eq!(event["reason"], "a\u{fffd}b ä");
}

#[test]
fn a_deleted_principals_approvals_go_with_it() {
    let fake = Fake::with(&["bo"]);
    asked(&fake, "bo", "notes", "approve_always");
    principals::delete(&fake, br#"{"principal":"bo"}"#).unwrap();
    assert!(fake.keys(Bucket::Approvals).is_empty());
}
