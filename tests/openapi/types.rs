//! The types of the first-party components' topics, as they stand in their folders: schemas by `capsule.interface.type`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use astrid_capsule::manifest::{Manifest, Subscribe};
use astrid_capsule::schema::{self, Schemas, TypeName};
use serde_json::{Value, json};
use wit_parser::Resolve;

/// Where schemas stand in the document.
pub(crate) const PLACE: &str = "#/components/schemas/";

/// Bounds that WIT has no words for, by the type and its field.
fn bounds() -> Vec<(&'static str, &'static str, Value)> {
    let number = |least: u64, most: u64| json!({ "minimum": least, "maximum": most });
    let many = |least: u64, most: u64| json!({ "minItems": least, "maxItems": most });
    let id = || json!({ "pattern": "^[A-Za-z0-9_-]{1,64}$" });
    let hex = |digits: u64| json!({ "pattern": format!("^[0-9A-Fa-f]{{{digits}}}$") });
    let long = |most: u64| json!({ "maxLength": most });
    let segment = "(\\*|[A-Za-z0-9_-]+)";
    let capability = json!({ "type": "string", "maxLength": 256, "pattern": format!("^{segment}(:{segment})*$") });
    let capabilities = |least: u64, most: u64| json!({ "minItems": least, "maxItems": most, "items": capability });
    let capsule = || json!({ "pattern": "^[a-z][a-z0-9-]*$", "maxLength": 64 });
    let field = || json!({ "pattern": "^[A-Z][A-Z0-9_]*$", "maxLength": 64 });
    vec![
        ("identity.invites.issue-request", "max_uses", number(1, 10_000)),
        ("identity.invites.issue-request", "expires_secs", number(1, 2_592_000)),
        ("identity.invites.list-request", "after", hex(32)),
        ("identity.invites.list-request", "limit", number(1, 10_000)),
        ("identity.invites.revoke-request", "fingerprint", hex(32)),
        ("identity.invites.redeem-request", "public_key", hex(64)),
        ("identity.invites.redeem-request", "display_name", long(256)),
        ("identity.principals.list-request", "limit", number(1, 1000)),
        ("identity.principals.create-request", "name", id()),
        ("identity.principals.create-request", "groups", many(0, 64)),
        ("identity.principals.create-request", "grants", capabilities(0, 256)),
        ("identity.groups.list-request", "limit", number(1, 1000)),
        ("identity.groups.create-request", "name", id()),
        ("identity.groups.create-request", "capabilities", capabilities(0, 256)),
        ("identity.groups.create-request", "description", long(1024)),
        ("identity.groups.modify-request", "capabilities", capabilities(0, 256)),
        ("identity.groups.modify-request", "description", long(1024)),
        ("identity.caps.change-request", "capabilities", capabilities(1, 256)),
        ("identity.devices.pair-request", "expires_secs", number(1, 3600)),
        ("identity.devices.pair-request", "label", long(128)),
        ("identity.devices.pair-request", "scope", capabilities(1, 32)),
        ("identity.devices.redeem-request", "public_key", hex(64)),
        ("identity.devices.login-request", "public_key", hex(64)),
        ("identity.devices.login-request", "signature", hex(128)),
        (
            "identity.certificates.bind-request",
            "fingerprint",
            json!({ "pattern": "^([0-9A-Fa-f]{64}|[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){31})$" }),
        ),
        (
            "identity.certificates.remove-request",
            "fingerprint",
            json!({ "pattern": "^([0-9A-Fa-f]{64}|[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){31})$" }),
        ),
        ("identity.certificates.bind-request", "label", long(128)),
        ("identity.certificates.bind-request", "scope", capabilities(1, 32)),
        ("identity.quotas.quotas", "max_timeout_secs", number(0, 86_400)),
        ("system.host.logs-request", "limit", number(1, 1000)),
        ("system.host.load-request", "limit", number(1, 1000)),
        ("system.capsules.install-request", "source", json!({ "pattern": "^/", "maxLength": 4096 })),
        ("system.env.get-request", "capsule", capsule()),
        ("system.env.set-request", "capsule", capsule()),
        ("system.env.set-request", "field", field()),
        ("system.env.clear-request", "capsule", capsule()),
        ("system.env.clear-request", "field", field()),
        ("audit.facts.query", "limit", number(1, 1000)),
        ("audit.facts.proofs", "limit", number(1, 500)),
        (
            "audit.facts.tile",
            "path",
            json!({ "pattern": "^(entries|[0-9]{1,2})/(x[0-9]{3}/)*[0-9]{3}(\\.p/[0-9]{1,3})?$" }),
        ),
    ]
}

/// The types of a topic that somebody handles, and what its binding requires.
pub(crate) struct Topic {
    capsule: &'static str,
    payload: TypeName,
    answer: Option<TypeName>,
    pub requires: Vec<String>,
}

pub(crate) struct Types {
    capsules: BTreeMap<&'static str, Schemas>,
    topics: BTreeMap<String, Topic>,
    /// By `capsule.interface.type`, with references into the document.
    pub schemas: BTreeMap<String, Value>,
}

impl Types {
    /// Reads manifests and WIT. Panics where they do not read: `astrid-build` says why.
    pub(crate) fn read() -> Self {
        let mut types = Self { capsules: BTreeMap::new(), topics: BTreeMap::new(), schemas: BTreeMap::new() };
        for capsule in ["identity", "system", "audit"] {
            types.take(capsule);
        }
        for (name, field, bound) in bounds() {
            let schema = types.schemas.get_mut(name).unwrap_or_else(|| panic!("there is no type {name}"));
            let mut property = &mut schema["properties"][field];
            assert!(property.is_object(), "{name} has no field {field}");
            if property["anyOf"].is_array() {
                property = &mut property["anyOf"][0];
            }
            merge(property, &bound);
        }
        types
    }

    fn take(&mut self, capsule: &'static str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../components").join(capsule);
        let manifest = fs::read_to_string(folder.join("Capsule.toml")).expect("a manifest");
        let manifest = Manifest::parse(&manifest).expect(capsule);
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(folder.join("wit")).expect(capsule);
        let schemas = schema::wit::schemas(&resolve, package, manifest.types()).expect(capsule);
        let document: Value = serde_json::from_str(&schemas.document()).expect("it is written as JSON");
        for (name, schema) in document["$defs"].as_object().expect("its definitions") {
            self.schemas.insert(format!("{capsule}.{name}"), moved(capsule, schema));
        }
        for binding in manifest.subscribe {
            let topic = binding.topic.to_string();
            self.topics.extend(Topic::of(capsule, binding).map(|of| (topic, of)));
        }
        self.capsules.insert(capsule, schemas);
    }

    pub(crate) fn topic(&self, topic: &str) -> &Topic {
        self.topics.get(topic).unwrap_or_else(|| panic!("no first-party component handles {topic} with types"))
    }

    /// The schema of what a topic takes.
    pub(crate) fn payload(&self, topic: &Topic) -> Value {
        self.resolved(&topic.payload_name())
    }

    /// Where the schema of a topic's payload stands, if it has fields.
    pub(crate) fn payload_place(&self, topic: &Topic) -> Option<String> {
        let name = topic.payload_name();
        self.schemas.contains_key(&name).then_some(name)
    }

    /// The name of the schema of a topic's answer; none of an empty object.
    pub(crate) fn answer(&self, topic: &Topic) -> Option<String> {
        let name = topic.answer.as_ref()?;
        name.parts().map(|_| format!("{}.{name}", topic.capsule))
    }

    fn resolved(&self, name: &str) -> Value {
        let nothing = || json!({ "type": "object", "properties": {}, "required": [], "additionalProperties": false });
        self.schemas.get(name).cloned().unwrap_or_else(nothing)
    }

    /// Panics unless an example is what the topic takes.
    pub(crate) fn check_payload(&self, topic: &Topic, example: &Value) {
        self.check(topic.capsule, &topic.payload, example);
    }

    /// Panics unless an example is what the topic answers.
    pub(crate) fn check_answer(&self, topic: &Topic, example: &Value) {
        self.check(topic.capsule, topic.answer.as_ref().expect("it answers something"), example);
    }

    fn check(&self, capsule: &str, name: &TypeName, example: &Value) {
        let fits = self.capsules[capsule].fit(name, example.to_string().as_bytes());
        fits.unwrap_or_else(|misfit| panic!("{capsule}: the example {example} is no `{name}` {misfit}"));
    }
}

impl Topic {
    fn of(capsule: &'static str, binding: Subscribe) -> Option<Self> {
        let wit = binding.handler.and(binding.wit)?;
        let requires = binding.requires.iter().map(|capability| capability.as_str().to_owned()).collect();
        Some(Self { capsule, payload: wit.payload, answer: wit.answer, requires })
    }

    fn payload_name(&self) -> String {
        format!("{}.{}", self.capsule, self.payload)
    }
}

/// The schema of a type with references to where the types of `capsule` stand in the document.
fn moved(capsule: &str, schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| match (name.as_str(), value.as_str()) {
                ("$ref", Some(reference)) => {
                    let of = reference.strip_prefix("#/$defs/").expect("a reference to a definition");
                    (name.clone(), format!("{PLACE}{capsule}.{of}").into())
                }
                _ => (name.clone(), moved(capsule, value)),
            };
            fields.iter().map(field).collect()
        }
        Value::Array(values) => values.iter().map(|value| moved(capsule, value)).collect(),
        other => other.clone(),
    }
}

/// Puts the fields of one object into another.
pub(crate) fn merge(into: &mut Value, from: &Value) {
    for (name, value) in from.as_object().expect("an object") {
        into[name] = value.clone();
    }
}
