//! What a manifest takes, what it refuses and by which words.

use std::time::Duration;

use super::*;

const WHOLE: &str = r#"
    asks = ["http:mount", "keys:session"]
    [package]
    name = "notes"
    version = "1.2.3"
    description = "keeps notes"
    [[publish]]
    topic = "audit.v1.*"
    [[subscribe]]
    topic = "notes.v1.add"
    handler = "add"
    requires = ["notes:add"]
    [[subscribe]]
    topic = "notes.v1.hello"
    handler = "hello"
    public = true
    [[intercept]]
    topic = "notes.v1.*"
    handler = "judge"
    [[capability]]
    id = "notes:add"
    label = "Add notes"
    description = "Write a note"
    category = "notes"
    scope = "both"
    danger = "normal"
    [http]
    mounts = ["/notes"]
    [limits]
    timeout-ms = 500
"#;

#[test]
fn a_mount_has_its_own_limits_or_those_of_all() {
    let text = "asks = [\"http:mount\"]\n[package]\nname = \"a\"\nversion = \"1.0.0\"\n[http]\nmounts = [\"/a\", \"/b\"]\n\
                max-body-bytes = 100\nmax-concurrent = 9\nbody-timeout-secs = 7\n[http.limits.\"/b\"]\nmax-body-bytes = 5\n\
                body-timeout-secs = 3\ntimeout-ms = 20\n";
    let http = Manifest::parse(text).unwrap().http.unwrap();
    assert_eq!((http.body_bytes("/a"), http.concurrent("/a")), (100, Some(9)));
    assert_eq!((http.body_bytes("/b"), http.concurrent("/b")), (5, Some(9)));
    assert_eq!((http.body_time("/a"), http.answer_time("/a")), (Some(Duration::from_secs(7)), None));
    assert_eq!(
        (http.body_time("/b"), http.answer_time("/b")),
        (Some(Duration::from_secs(3)), Some(Duration::from_millis(20)))
    );
    let again = Manifest::parse(&toml::to_string(&Manifest::parse(text).unwrap()).unwrap()).unwrap();
    assert_eq!(again.http.unwrap().limits, http.limits);
}

#[test]
fn a_manifest_reads_and_its_packed_form_reads_the_same() {
    let manifest = Manifest::parse(WHOLE).unwrap();
    let packed = manifest.packed();
    assert_eq!(packed, Manifest::parse(&packed).unwrap().packed());
    assert_eq!(manifest.limits.timeout_ms, 500);
    assert_eq!(manifest.limits.max_memory_bytes, 64 << 20);
    assert!(manifest.may_send(&Topic::parse("audit.v1.a.b").unwrap()));
    assert!(!manifest.may_send(&Topic::parse("notes.v1.add").unwrap()));
    let interception = &manifest.intercept[0];
    assert_eq!((interception.priority, interception.fail), (100, Fail::Closed));
}

#[test]
fn a_manifest_without_limits_has_thirty_seconds_64_mib_and_ten_billion_units_of_fuel() {
    let limits = Manifest::parse("[package]\nname = \"a\"\nversion = \"0.1.0\"\n").unwrap().limits;
    assert_eq!((limits.timeout_ms, limits.max_memory_bytes), (30_000, 64 << 20));
    assert_eq!(limits.max_fuel, 10_000_000_000);
}

#[test]
fn sending_to_what_is_not_ones_own_is_asked_of_the_operator() {
    let asked = |publish: &str| {
        let text = WHOLE.replacen("audit.v1.*", publish, 1);
        let asked = Manifest::parse(&text).unwrap().asked();
        asked.iter().skip(2).map(|c| c.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(asked("audit.v1.*"), ["bus:send:audit:v1:*"]);
    assert_eq!(asked("*"), ["bus:send:*"]);
    assert_eq!(asked("notes"), ["bus:send:notes"]);
    assert!(asked("notes.v1.changed").is_empty());
    assert!(asked("notes.*").is_empty());
}

#[test]
fn intercepting_what_is_not_ones_own_is_asked_of_the_operator() {
    let asked = |topic: &str| {
        let text = WHOLE.replacen("\"notes.v1.*\"", &format!("\"{topic}\""), 1);
        let asked = Manifest::parse(&text).unwrap().asked();
        asked.iter().skip(3).map(|c| c.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(asked("audit.v1.*"), ["bus:intercept:audit:v1:*"]);
    assert_eq!(asked("*"), ["bus:intercept:*"]);
    assert!(asked("notes.v1.*").is_empty());
}

#[test]
fn isolation_is_by_call_unless_it_is_said_and_only_for_what_has_a_principal() {
    assert_eq!(Manifest::parse(WHOLE).unwrap().component.isolation, Isolation::Call);
    let warm = WHOLE.replacen("[http]", "[component]\nisolation = \"principal\"\n[http]", 1);
    let packed = Manifest::parse(&warm).unwrap().packed();
    assert_eq!(Manifest::parse(&packed).unwrap().component.isolation, Isolation::Principal);
    let front = "asks = [\"http:mount\"]\n[package]\nname = \"a\"\nversion = \"0.1.0\"\n\
                 [component]\nisolation = \"principal\"\n[http]\nmounts = [\"/a\"]\n";
    assert!(Manifest::parse(front).unwrap_err().to_string().contains("component.isolation"));
}

#[test]
fn what_is_wrong_is_named() {
    let with = |from: &str, to: &str| {
        assert!(WHOLE.contains(from), "{from}");
        Manifest::parse(&WHOLE.replacen(from, to, 1)).unwrap_err().to_string()
    };
    let cases = [
        ("handler = \"add\"", "handler = \"add\"\nhandlre = 1", "handlre"),
        ("name = \"notes\"", "name = \"Notes\"", "package.name"),
        ("name = \"notes\"", "name = \"host\"", "package.name"),
        ("version = \"1.2.3\"", "version = \"1.2\"", "line"),
        ("topic = \"notes.v1.add\"", "topic = \"notes..add\"", "empty segment"),
        ("requires = [\"notes:add\"]", "requires = [\"notes:*\"]", "can't hold a `*`"),
        ("requires = [\"notes:add\"]", "requires = [\"self:notes\"]", "plain form"),
        ("public = true", "public = true\nrequires = [\"a\"]", "holds nothing"),
        ("\"keys:session\"", "\"keys:*\"", "no host offers"),
        ("\"keys:session\"", "\"root\"", "no host offers"),
        ("\"keys:session\"", "\"keys:Session\"", "no host offers"),
        ("topic = \"notes.v1.hello\"", "topic = \"notes.v1.add\"", "bound twice"),
        ("\"keys:session\"", "\"bus:intercept:a\"", "no host offers"),
        ("handler = \"judge\"", "handler = \"\"", "1 to 64 bytes"),
        ("handler = \"judge\"", "handler = \"judge\"\npriority = 1001", "0 to 1000"),
        ("handler = \"judge\"", "handler = \"judge\"\npriority = -1", "line"),
        ("handler = \"judge\"", "handler = \"judge\"\nfail = \"maybe\"", "maybe"),
        ("[http]", "[component]\nisolation = \"none\"\n[http]", "none"),
        (
            "handler = \"judge\"",
            "handler = \"judge\"\n[[intercept]]\ntopic = \"notes.v1.*\"\nhandler = \"b\"",
            "intercepted twice",
        ),
        ("\"/notes\"", "\"/notes/\"", "http.mounts"),
        ("\"/notes\"", "\"/../x\"", "http.mounts"),
        ("\"/notes\"", "\"/metrics/x\"", "the host's own"),
        ("\"/notes\"", "\"/notes\", \"/notes\"", "twice"),
        ("[\"/notes\"]", "[\"/notes\"]\nmax-concurrent = 0", "http.max-concurrent = 0"),
        ("[\"/notes\"]", "[\"/notes\"]\n[http.limits.\"/other\"]", "none of http.mounts"),
        ("[\"/notes\"]", "[\"/notes\"]\nlimits.\"/notes\".max-body-bytes = 0", "max-body-bytes = 0"),
        ("[\"/notes\"]", "[\"/notes\"]\nlimits.\"/notes\".max-concurrent = 100001", "max-concurrent = 100001"),
        ("[\"/notes\"]", "[\"/notes\"]\nbody-timeout-secs = 3601", "http.body-timeout-secs = 3601"),
        ("[\"/notes\"]", "[\"/notes\"]\nlimits.\"/notes\".timeout-ms = 0", "timeout-ms = 0"),
        ("\"http:mount\", ", "", "needs asks"),
        ("timeout-ms = 500", "timeout-ms = 0", "limits.timeout-ms"),
        ("timeout-ms = 500", "max-memory-bytes = 1", "limits.max-memory-bytes"),
        ("timeout-ms = 500", "max-fuel = -1", "max-fuel"),
        ("danger = \"normal\"", "danger = \"none\"", "danger"),
    ];
    for (from, to, want) in cases {
        let error = with(from, to);
        assert!(error.contains(want), "{to}: {error}");
    }
}
