//! How a fact reads on one line: OCSF, CEF, or for people. Pure.
//!
//! Whatever a fact holds, a line stays one, and its fields keep their bounds: text of a fact never becomes syntax.

use std::fmt::Write;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::fact::{Fact, Outcome};

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Json,
    Ocsf,
    Cef,
    Line,
}

/// A fact as an entry of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    pub index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fact: Option<Fact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
}

impl Format {
    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "ocsf" => Some(Self::Ocsf),
            "cef" => Some(Self::Cef),
            "line" => Some(Self::Line),
            _ => None,
        }
    }
}

impl Entry {
    pub fn new(index: u64, fact: Fact, format: Format) -> Self {
        let line = match format {
            Format::Json => return Self { index, fact: Some(fact), line: None },
            Format::Ocsf => ocsf(index, &fact).to_string(),
            Format::Cef => cef(index, &fact),
            Format::Line => line(&fact),
        };
        Self { index, fact: None, line: Some(line) }
    }
}

/// An event of OCSF 1.3: Authentication for sessions, API Activity for all else.
fn ocsf(index: u64, fact: &Fact) -> Value {
    let session = fact.action.strip_prefix("session.");
    let by = fact.capsule.as_deref().unwrap_or("host");
    let (class, category) = if session.is_some() { (3002, 3) } else { (6003, 6) };
    let activity = match session {
        Some("begin") => 1,
        Some("end") => 2,
        _ => activity(&fact.action),
    };
    let (status, status_id) = match fact.outcome {
        Outcome::Ok => ("Success", 1),
        Outcome::Refused | Outcome::Failed => ("Failure", 2),
        Outcome::Began | Outcome::Unknown => ("Unknown", 0),
    };
    let mut event = json!({
        "class_uid": class,
        "category_uid": category,
        "activity_id": activity,
        "type_uid": class * 100 + activity,
        "time": fact.time / 1_000_000,
        "severity_id": severity(fact.outcome).0,
        "status": status,
        "status_id": status_id,
        "metadata": {
            "version": "1.3.0",
            "product": { "name": "Astrid", "vendor_name": "Astrid", "version": VERSION },
            "uid": index.to_string(),
            "correlation_uid": fact.cause,
        },
        "actor": {
            "user": { "name": fact.principal, "uid": fact.principal },
            "session": { "uid": fact.session },
            "app_name": by,
        },
        "src_endpoint": { "name": by },
        "status_detail": fact.reason,
        "duration": fact.duration.map(|nanos| nanos / 1_000_000),
        "unmapped": {
            "id": fact.id, "hash": fact.hash, "requires": fact.requires, "decision": fact.decision, "rule": fact.rule,
            "detail": fact.detail, "payload": fact.payload,
        },
    });
    if session.is_some() {
        event["user"] = match &fact.principal {
            Some(principal) => json!({ "name": principal, "uid": principal }),
            // Of the type "unknown": no principal is meant that is called so.
            None => json!({ "name": "unknown", "type_id": 0 }),
        };
        event["session"] = json!({ "uid": fact.session });
        event["service"] = json!({ "name": "Astrid" });
    } else {
        event["api"] = json!({ "operation": fact.action, "service": { "name": fact.capsule } });
        event["resources"] = json!(fact.target.as_ref().map(|target| json!([{ "name": target }])));
    }
    known(event)
}

/// Without what is null, and without objects that are empty then.
fn known(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (name, known(value)));
            Value::Object(fields.filter(|(_, value)| !value.is_null() && value != &json!({})).collect::<Map<_, _>>())
        }
        other => other,
    }
}

/// What OCSF calls the last word of an action: create, read, update, delete, or other.
fn activity(action: &str) -> u32 {
    match action.rsplit('.').next().unwrap_or_default() {
        "create" | "install" | "issue" | "load" | "redeem" | "pair" => 1,
        "read" | "get" | "list" | "show" | "status" | "usage" | "logs" | "config" | "check" => 2,
        "set" | "write" | "modify" | "grant" | "swap" | "rollback" | "enable" | "disable" | "rotate" => 3,
        "delete" | "remove" | "revoke" | "clear" | "prune" | "gc" => 4,
        _ => 99,
    }
}

/// As OCSF counts it, and as CEF does.
fn severity(outcome: Outcome) -> (u8, u8) {
    match outcome {
        Outcome::Began | Outcome::Ok => (1, 1),
        Outcome::Refused => (3, 5),
        Outcome::Failed | Outcome::Unknown => (2, 3),
    }
}

/// A line of the Common Event Format, version 0.
fn cef(index: u64, fact: &Fact) -> String {
    let action = header(&fact.action);
    let severity = severity(fact.outcome).1;
    let mut line = format!("CEF:0|Astrid|Astrid|{VERSION}|{action}|{action}|{severity}|");
    let _ = write!(line, "rt={} externalId={index}", fact.time / 1_000_000);
    let mut put = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            let _ = write!(line, " {key}={}", extension(value));
        }
    };
    put("act", Some(&fact.action));
    put("outcome", Some(fact.outcome.as_str()));
    put("suser", fact.principal.as_deref());
    put("duser", fact.target.as_deref());
    put("reason", fact.reason.as_deref());
    put("sproc", fact.capsule.as_deref());
    put("msg", fact.detail.as_deref());
    let custom = [
        ("requires", &fact.requires),
        ("decision", &fact.decision),
        ("rule", &fact.rule),
        ("session", &fact.session),
        ("cause", &fact.cause),
        ("payload", &fact.payload),
    ];
    for (n, (label, value)) in custom.into_iter().enumerate() {
        if let Some(value) = value {
            put(&format!("cs{}Label", n + 1), Some(label));
            put(&format!("cs{}", n + 1), Some(value));
        }
    }
    put("fileHash", fact.hash.as_deref());
    if let Some(nanos) = fact.duration {
        let _ = write!(line, " cn1Label=durationNanos cn1={nanos}");
    }
    line
}

/// Of a field between bars.
fn header(text: &str) -> String {
    escaped(text, &['\\', '|'])
}

/// Of the value of an extension.
fn extension(text: &str) -> String {
    escaped(text, &['\\', '='])
}

fn escaped(text: &str, special: &[char]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => out.push(' '),
            c => {
                if special.contains(&c) {
                    out.push('\\');
                }
                out.push(c);
            }
        }
    }
    out
}

/// For people: time, who, what, how it ended, and what else is known.
fn line(fact: &Fact) -> String {
    let who = fact.principal.as_deref().unwrap_or("host");
    let mut line = format!("{} {} {} {}", moment(fact.time), word(who), word(&fact.action), fact.outcome.as_str());
    let mut put = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            let _ = write!(line, " {key}={}", word(value));
        }
    };
    put("target", fact.target.as_deref());
    put("capsule", fact.capsule.as_deref());
    put("requires", fact.requires.as_deref());
    put("decision", fact.decision.as_deref());
    put("rule", fact.rule.as_deref());
    put("reason", fact.reason.as_deref());
    put("detail", fact.detail.as_deref());
    put("cause", fact.cause.as_deref());
    if let Some(nanos) = fact.duration {
        let _ = write!(line, " took={}.{:03}ms", nanos / 1_000_000, nanos / 1_000 % 1_000);
    }
    line
}

/// As it is, or in quotes where it would not be one word.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._-:*/@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("\"{}\"", text.escape_debug()) }
}

/// A moment in UTC, as RFC 3339 writes it, to the nanosecond.
pub(crate) fn moment(nanos: u64) -> String {
    let (seconds, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, so that a leap day is the last of its year, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{rest:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fact::tests::whole;

    fn bare(action: &str, outcome: Outcome) -> Fact {
        Fact::parse(&json!({ "id": "1", "time": 1, "action": action, "outcome": outcome }).to_string()).unwrap()
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_799, "2000-02-29T23:59:59"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_704_067_199, "2023-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(moment(seconds * 1_000_000_000 + 7), format!("{want}.000000007Z"));
        }
    }

    #[test]
    fn a_line_is_one_whatever_the_fact_holds() {
        let fact = Fact { principal: Some("a\nb c=\"|\u{2028}\r".into()), ..whole() };
        for format in [Format::Ocsf, Format::Cef, Format::Line] {
            let line = Entry::new(3, fact.clone(), format).line.unwrap();
            assert!(!line.chars().any(|c| c.is_control() || c == '\u{2028}') || format == Format::Ocsf, "{line}");
            assert!(!line.contains(['\n', '\r']), "{line}");
        }
        assert_eq!(line(&bare("host.start", Outcome::Ok)), "1970-01-01T00:00:00.000000001Z host host.start ok");
        assert!(line(&whole()).ends_with("cause=r-1 took=1.500ms"), "{}", line(&whole()));
        assert!(line(&whole()).contains(r#"reason="no\nright=|\\""#), "{}", line(&whole()));
    }

    #[test]
    fn cef_escapes_what_would_be_syntax() {
        let line = cef(9, &Fact { action: "a|b\\c".into(), ..whole() });
        let begin =
            format!(r"CEF:0|Astrid|Astrid|{VERSION}|a\|b\\c|a\|b\\c|5|rt=1700000000123 externalId=9 act=a|b\\c ");
        assert!(line.starts_with(&begin), "{line}");
        assert!(line.contains(r" reason=no\nright\=|\\ sproc=gateway "), "{line}");
        assert!(line.ends_with(" fileHash=cd34 cn1Label=durationNanos cn1=1500000"), "{line}");
    }

    #[test]
    fn ocsf_has_what_its_classes_require_and_nothing_that_is_unknown() {
        let event = ocsf(9, &whole());
        for (pointer, want) in [
            ("/class_uid", json!(6003)),
            ("/category_uid", json!(6)),
            ("/activity_id", json!(2)),
            ("/type_uid", json!(600_302)),
            ("/time", json!(1_700_000_000_123_u64)),
            ("/severity_id", json!(3)),
            ("/status_id", json!(2)),
            ("/metadata/version", json!("1.3.0")),
            ("/metadata/product/vendor_name", json!("Astrid")),
            ("/metadata/uid", json!("9")),
            ("/actor/user/name", json!("alice")),
            ("/api/operation", json!("bus.system.v1.status")),
            ("/src_endpoint/name", json!("gateway")),
            ("/resources/0/name", json!("bob")),
            ("/unmapped/requires", json!("system:status")),
        ] {
            assert_eq!(event.pointer(pointer), Some(&want), "{pointer}");
        }
        let session = ocsf(1, &Fact { action: "session.begin".into(), outcome: Outcome::Ok, ..whole() });
        assert_eq!((&session["type_uid"], &session["user"]["name"]), (&json!(300_201), &json!("alice")));
        let host = ocsf(1, &bare("host.start", Outcome::Ok));
        assert_eq!(host["actor"], json!({ "app_name": "host" }), "it is nobody's doing, and an actor is required");
        assert_eq!(host["src_endpoint"]["name"], "host");
        let stranger = ocsf(1, &bare("session.begin", Outcome::Refused));
        assert_eq!(stranger["user"], json!({ "name": "unknown", "type_id": 0 }));
    }
}
