//! What must hold of any OpenAPI 3.1 document that people are to use, whatever it describes. Pure, and knows nothing of routes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

const METHODS: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];
const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "integer", "string"];
/// What a summary has at most, in characters: it is a line of a list.
const MAX_SUMMARY: usize = 80;

/// What is wrong with a document, and where; nothing if it is sound.
pub(crate) fn findings(document: &Value) -> Vec<String> {
    let mut lint = Lint { document, findings: Vec::new(), ids: BTreeMap::new(), tags: BTreeSet::new() };
    if document["openapi"].as_str().is_none_or(|version| !version.starts_with("3.1.")) {
        lint.finds("/openapi", "is not 3.1");
    }
    for field in ["title", "version", "description", "license"] {
        if document["info"][field].is_null() {
            lint.finds("/info", &format!("has no {field}"));
        }
    }
    for (path, item) in fields(&document["paths"]) {
        for (method, operation) in fields(item) {
            let at = format!("{method} {path}");
            if METHODS.contains(&method.as_str()) {
                lint.operation(&at, path, operation);
            } else {
                lint.finds(&at, "is no method");
            }
        }
    }
    for tag in list(&document["tags"]) {
        let name = tag["name"].as_str().unwrap_or_default();
        if tag["description"].is_null() || !lint.tags.contains(name) {
            lint.finds(name, "is a tag without a description, or of no operation");
        }
    }
    let mut used = BTreeSet::new();
    lint.references(document, &mut used);
    for (kind, components) in fields(&document["components"]) {
        for (name, component) in fields(components) {
            let place = format!("#/components/{kind}/{name}");
            if kind != "securitySchemes" && !used.contains(&place) {
                lint.finds(&place, "is what nobody refers to");
            }
            match kind.as_str() {
                "schemas" => lint.schema(&place, component),
                "responses" => lint.response(&place, name, component),
                _ => {}
            }
        }
    }
    lint.findings
}

struct Lint<'d> {
    document: &'d Value,
    findings: Vec<String>,
    /// Where each operation's id stands.
    ids: BTreeMap<String, String>,
    /// Those of operations.
    tags: BTreeSet<String>,
}

impl Lint<'_> {
    fn finds(&mut self, at: &str, what: &str) {
        self.findings.push(format!("{at}: {what}"));
    }

    fn operation(&mut self, at: &str, path: &str, operation: &Value) {
        let id = operation["operationId"].as_str().unwrap_or_default();
        let name = id.starts_with(|c: char| c.is_ascii_lowercase()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
        if !name {
            self.finds(at, &format!("`{id}` is no name for programs"));
        }
        if let Some(other) = self.ids.insert(id.to_owned(), at.to_owned()) {
            self.finds(at, &format!("its name stands twice: {other}"));
        }
        let summary = operation["summary"].as_str().unwrap_or_default();
        if summary.is_empty() || summary.chars().count() > MAX_SUMMARY {
            self.finds(at, "has no summary of a line");
        }
        if summary.ends_with('.') {
            self.finds(at, "its summary ends with a full stop");
        }
        if operation["description"].as_str().is_none_or(str::is_empty) {
            self.finds(at, "has no description");
        }
        let tags: Vec<&str> = list(&operation["tags"]).iter().filter_map(Value::as_str).collect();
        if tags.len() != 1 {
            self.finds(at, "has not one tag");
        }
        for tag in tags {
            if !list(&self.document["tags"]).iter().any(|known| known["name"] == tag) {
                self.finds(at, &format!("`{tag}` is no tag of the document"));
            }
            self.tags.insert(tag.to_owned());
        }
        let security = operation.get("security").unwrap_or(&self.document["security"]);
        for scheme in list(security).iter().flat_map(fields) {
            if self.document["components"]["securitySchemes"][scheme.0].is_null() {
                self.finds(at, &format!("`{}` is no security scheme", scheme.0));
            }
        }
        self.parameters(at, path, list(&operation["parameters"]));
        if !operation["requestBody"].is_null() {
            self.content(&format!("{at}, its body"), &operation["requestBody"]["content"]);
        }
        let takes = !operation["parameters"].is_null() || !operation["requestBody"].is_null();
        for (needed, status) in [(!list(security).is_empty(), "401"), (takes, "400")] {
            if needed && operation["responses"][status].is_null() {
                self.finds(at, &format!("can't answer {status}"));
            }
        }
        self.responses(at, &operation["responses"]);
    }

    fn parameters(&mut self, at: &str, path: &str, parameters: &[Value]) {
        let of_path: BTreeSet<&str> =
            path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}')).collect();
        let place = |place: &'static str| {
            parameters.iter().filter(move |one| one["in"] == place).filter_map(|one| one["name"].as_str())
        };
        let described: BTreeSet<&str> = place("path").collect();
        for name in of_path.symmetric_difference(&described) {
            self.finds(at, &format!("`{name}` of its path stands in one place alone"));
        }
        let mut names = BTreeSet::new();
        for parameter in parameters {
            let name = parameter["name"].as_str().unwrap_or_default();
            let at = format!("{at}, parameter {name}");
            if !names.insert((name, parameter["in"].as_str())) {
                self.finds(&at, "stands twice");
            }
            if parameter["in"] == "path" && parameter["required"] != true {
                self.finds(&at, "is of the path and not required");
            }
            for (field, what) in [("description", "no description"), ("schema", "no schema")] {
                if parameter[field].is_null() {
                    self.finds(&at, &format!("has {what}"));
                }
            }
            if parameter["in"] == "path" && parameter["example"].is_null() {
                self.finds(&at, "has no example");
            }
            self.schema(&at, &parameter["schema"]);
        }
    }

    fn responses(&mut self, at: &str, responses: &Value) {
        for (status, response) in fields(responses) {
            let here = format!("{at}, {status}");
            if status.starts_with('2') {
                self.response(&here, "", response);
            } else {
                let shared =
                    response["$ref"].as_str().is_some_and(|place| place.starts_with("#/components/responses/"));
                if !shared && response["content"]["application/json"]["schema"].is_null() {
                    self.finds(&here, "is not the one shape of failures");
                }
            }
        }
        if !fields(responses).any(|(status, _)| status.starts_with('2')) {
            self.finds(at, "has no success");
        }
    }

    fn response(&mut self, at: &str, name: &str, response: &Value) {
        let response = self.followed(response);
        if response["description"].as_str().is_none_or(str::is_empty) {
            self.finds(at, "has no description");
        }
        if response["headers"]["x-request-id"].is_null() {
            self.finds(at, "does not name the header x-request-id");
        }
        if ["rate_limited", "overloaded"].contains(&name) && response["headers"]["retry-after"].is_null() {
            self.finds(at, "does not name the header retry-after");
        }
        if !response["content"].is_null() {
            self.content(at, &response["content"]);
        }
    }

    fn content(&mut self, at: &str, content: &Value) {
        for (kind, media) in fields(content) {
            if media["schema"].is_null() {
                self.finds(at, "has no schema");
            }
            if media.get("example").is_none_or(Value::is_null) && kind != "application/octet-stream" {
                self.finds(at, "has no example");
            }
            self.schema(at, &media["schema"]);
        }
    }

    /// What a reference leads to, else the value itself.
    fn followed<'v>(&'v self, value: &'v Value) -> Value {
        let place = value["$ref"].as_str().and_then(|place| place.strip_prefix('#'));
        place.and_then(|place| self.document.pointer(place)).unwrap_or(value).clone()
    }

    fn references(&mut self, value: &Value, used: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                if let Some(place) = object.get("$ref").and_then(Value::as_str) {
                    let there = place.strip_prefix('#').and_then(|place| self.document.pointer(place));
                    if there.is_none() {
                        self.finds(place, "leads nowhere");
                    }
                    used.insert(place.to_owned());
                }
                object.values().for_each(|value| self.references(value, used));
            }
            Value::Array(values) => values.iter().for_each(|value| self.references(value, used)),
            _ => {}
        }
    }

    fn schema(&mut self, at: &str, schema: &Value) {
        if !schema.is_object() {
            return;
        }
        let kinds = match &schema["type"] {
            Value::Null => Vec::new(),
            Value::Array(kinds) => kinds.iter().map(|kind| kind.as_str().unwrap_or_default()).collect(),
            kind => vec![kind.as_str().unwrap_or_default()],
        };
        if let Some(kind) = kinds.iter().find(|kind| !TYPES.contains(kind)) {
            self.finds(at, &format!("`{kind}` is no type"));
        }
        for required in list(&schema["required"]).iter().filter_map(Value::as_str) {
            if schema["properties"][required].is_null() {
                self.finds(at, &format!("requires `{required}`, which it does not describe"));
            }
        }
        for (least, most) in [("minimum", "maximum"), ("minLength", "maxLength"), ("minItems", "maxItems")] {
            if let (Some(least), Some(most)) = (schema[least].as_f64(), schema[most].as_f64())
                && least > most
            {
                self.finds(at, "its minimum is above its maximum");
            }
        }
        if schema["enum"].as_array().is_some_and(Vec::is_empty) {
            self.finds(at, "is one of nothing");
        }
        for (name, property) in fields(&schema["properties"]) {
            self.schema(&format!("{at}/{name}"), property);
        }
        for part in ["items", "additionalProperties"] {
            self.schema(at, &schema[part]);
        }
        for parts in ["anyOf", "oneOf", "prefixItems"] {
            list(&schema[parts]).iter().for_each(|part| self.schema(at, part));
        }
    }
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
