//! `astrid bus`: a message to a topic. Payloads are checked here for being JSON and sent as they were written.

use astrid_capsule::{PrincipalId, Topic};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;

use super::failure::{Exit, Failure};
use super::{Context, json, text};

/// How much sooner than this side the host gives up, in milliseconds, so that its reason arrives.
const HEAD_START_MS: u128 = 500;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Ask whoever handles the topic, and print the answer
    Request(Message),
    /// Tell whoever listens to the topic
    Publish(Message),
}

#[derive(Args)]
pub(super) struct Message {
    /// Dot-separated segments, such as notes.v1.add
    #[arg(value_parser = Topic::parse)]
    topic: Topic,
    /// The payload; `-` reads it from stdin
    #[arg(value_name = "JSON", default_value = "{}", allow_negative_numbers = true)]
    payload: String,
    /// The principal that the message is about
    #[arg(long, value_name = "PRINCIPAL", value_parser = PrincipalId::parse)]
    target: Option<PrincipalId>,
}

#[derive(Deserialize)]
struct Published {
    delivered: u64,
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::Request(message) => request(context, message).await,
            Verb::Publish(message) => publish(context, message).await,
        }
    }
}

impl Message {
    fn payload(&self, context: &mut Context<'_>) -> Result<String, Failure> {
        let (text, place) = match self.payload.as_str() {
            "-" => (context.console.read_input()?, "stdin"),
            text => (text.to_owned(), "the JSON argument"),
        };
        // A value rather than a look: what the host would refuse for its nesting or its text is found here too.
        serde_json::from_str::<Value>(&text).map_err(|e| Failure::usage(format!("{place} is no JSON: {e}")))?;
        Ok(text)
    }

    fn path(&self, action: &str, mut query: Vec<String>) -> String {
        query.extend(self.target.iter().map(|target| format!("target={}", text::encoded(target.as_str()))));
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        format!("/api/bus/{action}/{}{query}", text::encoded(self.topic.as_str()))
    }
}

async fn request(context: &mut Context<'_>, message: Message) -> Result<Exit, Failure> {
    let payload = message.payload(context)?;
    let what = format!("request {}", message.topic);
    let timeout = context.client.deadline().as_millis() - HEAD_START_MS;
    let path = message.path("request", vec![format!("timeout_ms={timeout}")]);
    let answer = context.client.post(&what, &path, payload).await.map_err(|f| {
        let next = format!("is the capsule that handles it installed? `{} capsule list`", context.command);
        if f.code == "not_found" { f.next(next) } else { f }
    })?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let body = std::str::from_utf8(&answer.body)
        .map_err(|_| Failure::failed("protocol", "the answer is no text, and is not printed").doing(&what))?;
    let shown = match json::check(body) {
        Ok(()) => text::shown_json(&json::pretty(body)),
        Err(_) => text::shown(body),
    };
    context.console.print(&shown)?;
    Ok(Exit::Done)
}

async fn publish(context: &mut Context<'_>, message: Message) -> Result<Exit, Failure> {
    let payload = message.payload(context)?;
    let what = format!("publish to {}", message.topic);
    let answer = context.client.post(&what, &message.path("publish", Vec::new()), payload).await?;
    if context.console.json {
        context.console.document(&answer.body)?;
        return Ok(Exit::Done);
    }
    let Published { delivered } = answer.read()?;
    let handlers = if delivered == 1 { "handler" } else { "handlers" };
    context.console.print(&format!("delivered to {delivered} {handlers}"))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::{Host, astrid_at};

    #[test]
    fn a_request_carries_topic_target_time_and_the_payload_as_written() {
        let host = Host::answering(200, r#"{"z":1,"a":["\u001b"]}"#);
        let ran = host.astrid(&["bus", "request", "a.v1.b", "{ \"n\": 1.0 }", "--target", "p1", "--timeout", "10"]);
        assert_eq!(ran.out, "{\n  \"z\": 1,\n  \"a\": [\n    \"\\u001b\"\n  ]\n}\n", "{ran:?}");
        assert_eq!(host.astrid(&["bus", "request", "a.v1.b", "--json"]).out, "{\"z\":1,\"a\":[\"\\u001b\"]}\n");
        assert_eq!(astrid_at(&host.home, &["bus", "request", "a.v1.b", "-"], "[1]", false).exit, Exit::Done);
        assert_eq!(
            host.requests(),
            [
                "POST /api/bus/request/a.v1.b?timeout_ms=9500&target=p1 { \"n\": 1.0 }",
                "POST /api/bus/request/a.v1.b?timeout_ms=29500 {}",
                "POST /api/bus/request/a.v1.b?timeout_ms=29500 [1]",
            ]
        );
    }

    #[test]
    fn a_publication_says_how_many_took_it() {
        let host = Host::answering(202, r#"{"delivered":1}"#);
        assert_eq!(host.astrid(&["bus", "publish", "a.b", "-5"]).out, "delivered to 1 handler\n");
        assert_eq!(host.requests(), ["POST /api/bus/publish/a.b -5"]);
    }

    #[test]
    fn bad_json_topics_and_targets_are_usage_errors_that_send_nothing() {
        let host = Host::answering(200, "{}");
        let ran = host.astrid(&["bus", "request", "a.b", "{\"a\":\n oops}"]);
        assert_eq!(ran.exit, Exit::Usage);
        assert!(ran.err.contains("line 2 column 2"), "{}", ran.err);
        let ran = astrid_at(&host.home, &["bus", "publish", "a.b", "-"], "nope", false);
        assert!(ran.exit == Exit::Usage && ran.err.contains("stdin is no JSON"), "{ran:?}");
        assert_eq!(host.astrid(&["bus", "request", "a..b"]).exit, Exit::Usage);
        assert_eq!(host.astrid(&["bus", "request", "a.*"]).exit, Exit::Usage);
        assert_eq!(host.astrid(&["bus", "request", "a.b", "--target", "x/y"]).exit, Exit::Usage);
        assert!(host.requests().is_empty());
    }

    #[test]
    fn no_responder_is_a_failure_with_the_hosts_reason() {
        let host = Host::answering(404, r#"{"error":"not_found","reason":"no-responder"}"#);
        let ran = host.astrid(&["bus", "request", "a.b", "--json"]);
        assert_eq!((ran.exit, ran.out.as_str()), (Exit::Failed, ""));
        assert_eq!(ran.err, "{\"error\":\"not_found\",\"reason\":\"no-responder\"}\n");
    }
}
