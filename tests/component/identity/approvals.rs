//! A capsule asks for consent.

use super::*;

#[test]
fn nobody_answers_in_time_is_a_denial_and_the_principal_was_told() {
    let mut identity = identity();
    let ask = json!({ "action": "delete", "resource": "/a\nb" });
    let call = identity.as_principal("bo");
    let outcome = call.handle("approval-request", ask).unwrap().unwrap();
    crate::types::check_answer("identity", "approval-request", &outcome);
    assert_eq!(outcome, json!({ "approved": false, "by": "timeout" }));
    let told: Vec<_> = identity.published().iter().map(|p| (p.topic.clone(), p.principal.clone())).collect();
    let own = |topic: &str| (format!("identity.v1.approval.{topic}"), "bo".to_owned());
    assert_eq!(told, [own("asked"), own("over")]);
    let listed = ask_about(&mut identity, "bo", "bo", "approval-list", json!({})).unwrap();
    assert_eq!(listed, json!({ "requests": [], "standing": [] }));
    let late = json!({ "id": "x", "decision": "approve_once" });
    let late = ask_about(&mut identity, "bo", "bo", "approval-answer", late).unwrap_err();
    assert_eq!(late.code, RefusalCode::NotFound);
}
