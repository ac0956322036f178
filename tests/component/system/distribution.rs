//! What whoever has no session yet sees of the distribution.

use super::*;

#[test]
fn a_distribution_says_who_it_is_whether_it_is_open_and_what_it_asks_and_never_a_value() {
    let mut system = system();
    for handler in ["distribution-show", "distribution-onboarding"] {
        let refusal = system.as_principal("anonymous").handle(handler, json!({})).unwrap().unwrap_err();
        assert_eq!(refusal.code, RefusalCode::NotFound, "{}", refusal.reason);
    }
    let variable = |name: &str, secret, description: Option<&str>, default: Option<&str>| Variable {
        name: name.into(),
        secret,
        description: description.map(Into::into),
        default: default.map(Into::into),
    };
    let least = Distribution {
        id: "notes".into(),
        name: "Notes".into(),
        description: None,
        homepage: None,
        open: false,
        branding: None,
        variables: vec![variable("key", true, Some("Which?"), None), variable("region", false, None, Some("eu"))],
    };
    system.host().distribution = Some(least.clone());
    let want = json!({ "id": "notes", "name": "Notes", "invites_enabled": false });
    assert_eq!(ask(&mut system, "distribution-show", json!({})), Ok(want));
    let want = json!({ "fields": [
        { "key": "key", "secret": true, "description": "Which?" },
        { "key": "region", "secret": false, "default": "eu" },
    ] });
    assert_eq!(ask(&mut system, "distribution-onboarding", json!({})), Ok(want));

    let icon = Icon { media_type: "image/png".into(), bytes: b"\x89PNG".into() };
    system.host().distribution = Some(Distribution {
        description: Some("For teams".into()),
        homepage: Some("https://notes.example".into()),
        open: true,
        branding: Some(Branding { icon: Some(icon), primary_color: Some("#fa0".into()), accent_color: None }),
        ..least
    });
    let want = json!({
        "id": "notes", "name": "Notes", "description": "For teams", "homepage": "https://notes.example",
        "invites_enabled": true,
        "branding": { "icon": "data:image/png;base64,iVBORw==", "primary_color": "#fa0" },
    });
    assert_eq!(ask(&mut system, "distribution-show", json!({})), Ok(want));
}
