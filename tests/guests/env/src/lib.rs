//! Tells what its environment and its rights are, the secret included: whoever may call it knows what it was told.

use astrid_sdk::authority::held;
use astrid_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    capability: String,
    target: Option<String>,
}

#[derive(Serialize)]
struct Value {
    value: Option<String>,
}

#[derive(Serialize)]
struct Fields {
    /// Names, and whether each is set.
    fields: Vec<(String, bool)>,
}

#[derive(Serialize)]
struct Held {
    capabilities: Vec<String>,
    grants: Vec<String>,
}

fn get(message: Message) -> Answer {
    let Name { name } = message.object()?;
    json(&Value { value: env::get(&name)? })
}

fn list(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&Fields { fields: env::list()?.into_iter().map(|field| (field.name, field.is_set)).collect() })
}

fn require(message: Message) -> Answer {
    let Name { name } = message.object()?;
    json(&Value { value: Some(env::require(&name)?) })
}

fn holds(message: Message) -> Answer {
    let Question { capability, target } = message.object()?;
    json(&held::holds(&capability, target.as_deref()))
}

fn held(message: Message) -> Answer {
    let Nothing {} = message.object()?;
    json(&Held { capabilities: held::capabilities(), grants: held::grants() })
}

handlers! {
    "get" => get,
    "list" => list,
    "require" => require,
    "holds" => holds,
    "held" => held,
}
