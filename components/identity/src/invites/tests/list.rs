use serde_json::{Value, json};

use super::*;
use crate::listing;
use crate::ports::Bucket;
use crate::testing::{Fake, NOW};

#[test]
fn the_list_shows_live_invites_by_fingerprint_and_sweeps_expired_ones() {
    let fake = Fake::started();
    let short = issue_with(&fake, &json!({"group": "admin", "max_uses": 1, "expires_secs": 10})).unwrap().token;
    let long = issue_with(&fake, &json!({"group": "agent", "max_uses": 2, "metadata": {"a": "b"}})).unwrap().token;
    assert_eq!(listed(&fake, &json!({}))["invites"].as_array().unwrap().len(), 2);
    fake.set_now(NOW + 10);
    let row = json!({"token_fingerprint": &hash(&long)[..32], "group": "agent", "remaining_uses": 2,
                     "expires_at_epoch": NOW + 604_800, "issued_at_epoch": NOW, "issued_by": "default",
                     "metadata": {"a": "b"}});
    assert_eq!(listed(&fake, &json!({})), json!({"invites": [row]}));
    assert_eq!(fake.keys(Bucket::Invites), [hash(&long)]);
    not_valid(redeem_with(&fake, &short, 1));
}

/// All rows, and the size of each answer.
fn walk_pages(fake: &Fake, mut request: Value) -> (Vec<Value>, Vec<usize>) {
    let (mut rows, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let mut page = listed(fake, &request);
        sizes.push(page.to_string().len());
        rows.append(page["invites"].as_array_mut().unwrap());
        let Some(next) = page.get("next_after") else { return (rows, sizes) };
        request["after"] = next.clone();
    }
}

#[test]
fn the_list_pages_through_more_than_the_store_gives_at_once() {
    let fake = Fake::started();
    for _ in 0..2_500 {
        token(&fake, 1);
    }
    let whole = listed(&fake, &json!({}));
    assert_eq!(whole["invites"].as_array().unwrap().len(), 2_500);
    assert!(whole.get("next_after").is_none());

    let (paged, sizes) = walk_pages(&fake, json!({"limit": 1_200}));
    assert_eq!(sizes.len(), 3);
    assert_eq!(&paged, whole["invites"].as_array().unwrap());
}

#[test]
fn an_answer_stays_deliverable_however_large_and_however_many_the_invites_are() {
    let fake = Fake::started();
    let metadata: Value =
        (0..16).map(|n| (n.to_string(), json!("v".repeat(256)))).collect::<serde_json::Map<_, _>>().into();
    for _ in 0..400 {
        issue_with(&fake, &json!({"group": "agent", "max_uses": 1, "metadata": metadata})).unwrap();
    }
    let (rows, sizes) = walk_pages(&fake, json!({}));
    assert_eq!(rows.len(), 400);
    assert!(sizes.len() > 1 && sizes.iter().all(|size| *size <= listing::MAX_BYTES + 100), "{sizes:?}");
}

#[test]
fn one_list_reads_a_bounded_number_of_expired_invites_and_the_next_goes_on() {
    let fake = Fake::started();
    for _ in 0..listing::MAX_READ + 10 {
        issue_with(&fake, &json!({"group": "agent", "max_uses": 1, "expires_secs": 1})).unwrap();
    }
    fake.set_now(NOW + 1);
    let first = listed(&fake, &json!({}));
    assert!(first["invites"].as_array().unwrap().is_empty() && first["next_after"].is_string());
    assert_eq!(fake.keys(Bucket::Invites).len(), 10);
    assert_eq!(listed(&fake, &json!({})), json!({"invites": []}));
    assert!(fake.keys(Bucket::Invites).is_empty());
}

#[test]
fn a_list_takes_only_its_own_bounds() {
    let fake = Fake::started();
    for (request, want) in [
        (json!({"limit": 0}), "limit = 0 must be 1 to 10000"),
        (json!({"limit": 10_001}), "limit = 10001 must be 1 to 10000"),
        (json!({"after": "xyz"}), "after must be 32 hexadecimal characters; it has 3 bytes"),
        (json!({"all": true}), "unknown field `all`"),
    ] {
        let got = reason(list(&fake, request.to_string().as_bytes()));
        assert!(got.contains(want), "{got}");
    }
    assert!(list(&fake, b"").unwrap().invites.is_empty());
}

#[test]
fn an_invite_is_revoked_by_its_token_or_its_fingerprint_and_works_no_more() {
    let fake = Fake::started();
    let (first, second) = (token(&fake, 5), token(&fake, 5));
    redeem_with(&fake, &first, 1).unwrap();
    assert_eq!(serde_json::to_value(revoke_with(&fake, &json!({"token": first})).unwrap()).unwrap(), json!({}));
    revoke_with(&fake, &json!({"fingerprint": hash(&second)[..32].to_uppercase()})).unwrap();
    not_valid(redeem_with(&fake, &first, 2));
    not_valid(redeem_with(&fake, &second, 3));
    assert!(fake.keys(Bucket::Invites).is_empty());
    for request in [json!({"token": first}), json!({"fingerprint": &hash(&second)[..32]})] {
        assert!(matches!(revoke_with(&fake, &request), Err(Refusal::NotFound(_))), "{request}");
    }
}

#[test]
fn revoking_what_is_unknown_or_expired_is_not_found_and_needs_exactly_one_name() {
    let fake = Fake::started();
    let expired = issue_with(&fake, &json!({"group": "agent", "max_uses": 1, "expires_secs": 1})).unwrap().token;
    fake.set_now(NOW + 1);
    let foreign = format!("astrid-inv-{}", "A".repeat(43));
    for request in [
        json!({"token": expired}),
        json!({"token": foreign}),
        json!({"token": "rubbish"}),
        json!({"token": ""}),
        json!({"fingerprint": "0".repeat(32)}),
    ] {
        assert!(matches!(revoke_with(&fake, &request), Err(Refusal::NotFound(_))), "{request}");
    }
    for request in [json!({}), json!({"token": foreign, "fingerprint": "0".repeat(32)})] {
        assert!(reason(revoke_with(&fake, &request)).starts_with("exactly one of token and fingerprint"));
    }
    for bad in ["", "0", &"0".repeat(33), &"g".repeat(32), foreign.as_str()] {
        let got = reason(revoke_with(&fake, &json!({"fingerprint": bad})));
        assert!(got.starts_with("fingerprint must be 32 hexadecimal characters"), "{got}");
    }
}
