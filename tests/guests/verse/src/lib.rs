//! Answers `audit.v1.query` in place of `audit`: the caller's own facts, each as half a verse.

use astrid_sdk::journal::{Filter, query as facts, size};
use astrid_sdk::prelude::*;
use serde_json::{Value, json as value};

fn query(message: Message) -> Answer {
    let filter = Filter { principal: Some(message.principal), action: None, outcome: None, since: None, until: None };
    let page = facts(&filter, None, 100).map_err(|error| Refusal::unavailable(format!("{error:?}")))?;
    let verse = |fact: &str| {
        let fact: Value = serde_json::from_str(fact).unwrap_or_default();
        format!(
            "o {}, how {} you were",
            fact["action"].as_str().unwrap_or("deed"),
            fact["outcome"].as_str().unwrap_or("dim")
        )
    };
    let entries: Vec<Value> =
        page.facts.iter().map(|recorded| value!({ "index": recorded.index, "line": verse(&recorded.fact) })).collect();
    json(&value!({ "entries": entries, "size": size() }))
}

handlers! { "query" => query }
