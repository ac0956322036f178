//! What somebody asks the agent that is installed, and what comes of it.

use serde_json::json;

use super::Answers::Events;
use super::{Operation, op};

pub(super) fn rows() -> Vec<Operation> {
    vec![
        op(
            "POST /api/agent/prompt",
            "promptAgent",
            "agent",
            "Prompt the agent that is installed, and follow what comes of it",
            json!({ "text": "What is new?", "session_id": "morning", "context": { "language": "en" } }),
            Events(&[
                ("ready", "gateway.prompt-ready", "First: somebody has taken the prompt."),
                ("delta", "gateway.prompt-event", "A piece of the answer, in order."),
                ("session_changed", "gateway.prompt-event", "The agent's session has changed."),
                ("elicit", "gateway.prompt-event", "The agent asks something; with `approval`, a request for approval waits."),
                ("response", "gateway.prompt-event", "The answer, which ends the stream."),
                ("gap", "gateway.gap", "At least so many messages are missing here, of whatever session."),
                ("error", "gateway.problem", "The last event, where there is no response."),
            ]),
        )
        .notes(
            "Requires `agent:prompt`; about oneself `self:agent:prompt` is enough. A comment comes after 15 s of silence. It ends \
             with its session, or when its principal's standing changes.",
        )
        .own(200, Some("gateway.prompt"), None),
    ]
}
