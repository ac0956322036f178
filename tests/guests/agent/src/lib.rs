//! Answers prompts as an agent would. The first word of a prompt says what it does, beside the response that ends it: `count
//! N` says N deltas, `ask` elicits something, `move` says that the session has changed, `approve` asks for consent and
//! waits, `trace` says what the prompt came of. `silent` takes the prompt and says nothing, `die` says one delta and traps.

use astrid_sdk::bus;
use astrid_sdk::prelude::*;
use serde_json::{Value, json as value};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    session_id: String,
    principal: String,
    text: String,
    #[serde(default)]
    context: Option<Value>,
}

impl Prompt {
    /// Publishes something of the session, and fails where nobody hears it.
    fn say(&self, topic: &str, mut what: Value) -> Result<(), Refusal> {
        what["session_id"] = self.session_id.as_str().into();
        bus::publish(&format!("agent.v1.{topic}"), &what)?;
        Ok(())
    }
}

fn prompt(message: Message) -> Answer {
    let prompt: Prompt = message.object()?;
    let mut words = prompt.text.split_whitespace();
    let mut response = value!({ "text": prompt.text, "principal": prompt.principal, "context": prompt.context });
    match words.next() {
        Some("count") => {
            let to = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            for n in 1..=to {
                prompt.say("stream.delta", value!({ "n": n }))?;
            }
        }
        Some("ask") => prompt.say("elicit", value!({ "id": "q1", "message": "Which one?" }))?,
        Some("move") => prompt.say("session_changed", value!({ "title": "A new name" }))?,
        Some("approve") => {
            let action = value!({ "action": "delete", "resource": "/notes" });
            response["approval"] = bus::request::<_, Value>("identity.v1.approval.request", &action)?;
        }
        Some("trace") => {
            response["cause"] = message.cause.clone().into();
            response["traceparent"] = message.traceparent.clone().into();
        }
        Some("silent") => return Ok(Vec::new()),
        Some("die") => {
            prompt.say("stream.delta", value!({ "n": 1 }))?;
            panic!("asked to by {}", prompt.principal);
        }
        _ => {}
    }
    prompt.say("response", response)?;
    Ok(Vec::new())
}

handlers! { "prompt" => prompt }
