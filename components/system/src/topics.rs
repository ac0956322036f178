//! The JSON of a capsule's topics and their types.

use astrid_sdk::bus::Refusal;
use astrid_sdk::host;
use serde::Serialize;
use serde_json::Value as Json;

/// As its manifest has them: what is published, what is subscribed to, what is intercepted.
#[derive(Debug, Serialize)]
pub struct Topics {
    pub topics: Vec<Topic>,
}

#[derive(Debug, Serialize)]
pub struct Topic {
    pub topic: String,
    pub direction: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wit: Option<Types<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Types<Json>>,
}

/// Of a topic's payload and answer.
#[derive(Debug, Serialize)]
pub struct Types<T> {
    pub payload: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<T>,
}

impl Topics {
    /// `unavailable` if a schema of the host's is not JSON.
    pub fn new(topics: Vec<host::Topic>) -> Result<Self, Refusal> {
        Ok(Self { topics: topics.into_iter().map(Topic::new).collect::<Result<_, _>>()? })
    }
}

impl Topic {
    fn new(topic: host::Topic) -> Result<Self, Refusal> {
        let read = |of: host::TopicType| match serde_json::from_str::<Json>(&of.schema) {
            Ok(schema) => Ok((of.name, schema)),
            Err(_) => Err(Refusal::unavailable(format!("the type `{}` can't be read", of.name))),
        };
        let answer = topic.answer.map(read).transpose()?.unzip();
        let payload = topic.payload.map(read).transpose()?;
        let (wit, schema) = payload
            .map(|(name, schema)| {
                (Types { payload: name, answer: answer.0 }, Types { payload: schema, answer: answer.1 })
            })
            .unzip();
        let direction = match topic.direction {
            host::Direction::Publish => "publish",
            host::Direction::Subscribe => "subscribe",
            host::Direction::Intercept => "intercept",
        };
        Ok(Self { topic: topic.topic, direction, handler: topic.handler, priority: topic.priority, wit, schema })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    fn topic(payload: Option<&str>, answer: Option<&str>) -> host::Topic {
        let of = |schema: &str| host::TopicType { name: "a.t".into(), schema: schema.into() };
        host::Topic {
            topic: "a.v1".into(),
            direction: host::Direction::Subscribe,
            handler: Some("a".into()),
            priority: None,
            payload: payload.map(of),
            answer: answer.map(of),
        }
    }

    #[test]
    fn a_topic_reads_with_what_it_has() {
        let whole = Topics::new(vec![topic(Some("{}"), Some("{\"type\":\"null\"}")), topic(None, None)]).unwrap();
        let want = json!({ "topics": [
            { "topic": "a.v1", "direction": "subscribe", "handler": "a", "wit": { "payload": "a.t", "answer": "a.t" },
              "schema": { "payload": {}, "answer": { "type": "null" } } },
            { "topic": "a.v1", "direction": "subscribe", "handler": "a" },
        ] });
        assert_eq!(to_value(&whole).unwrap(), want);
        let one = host::Topic {
            direction: host::Direction::Intercept,
            handler: None,
            priority: Some(7),
            ..topic(Some("{}"), None)
        };
        let want = json!({ "topic": "a.v1", "direction": "intercept", "priority": 7, "wit": { "payload": "a.t" },
                           "schema": { "payload": {} } });
        assert_eq!(to_value(Topics::new(vec![one]).unwrap()).unwrap()["topics"][0], want);
        assert!(Topics::new(vec![topic(Some("{"), None)]).unwrap_err().reason.contains("a.t"));
    }
}
