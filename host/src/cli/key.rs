//! `astrid key`: the key that signs bearers.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;

use super::Context;
use super::failure::{Exit, Failure};

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Sign with a new key from now on
    Rotate {
        /// End every earlier bearer at once; without this each is good until it expires
        #[arg(long)]
        now: bool,
    },
}

#[derive(Deserialize)]
struct Rotated {
    generation: u64,
    ended: bool,
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        let Verb::Rotate { now } = self;
        let body = json!({ "now": now }).to_string();
        let answer = context.client.post("change the signing key", "/api/sys/sessions/rotate", body).await?;
        if context.console.json {
            context.console.document(&answer.body)?;
            return Ok(Exit::Done);
        }
        let Rotated { generation, ended } = answer.read()?;
        let old = if ended { "have ended" } else { "are good until they expire" };
        context.console.print(&format!("key {generation} signs; bearers of before {old}"))?;
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::Host;

    #[test]
    fn a_rotation_says_what_becomes_of_the_bearers_of_before() {
        let host = Host::with(|request| (200, format!(r#"{{"generation":3,"ended":{}}}"#, request.contains("true"))));
        assert_eq!(host.astrid(&["key", "rotate"]).out, "key 3 signs; bearers of before are good until they expire\n");
        assert_eq!(host.astrid(&["key", "rotate", "--now"]).out, "key 3 signs; bearers of before have ended\n");
        assert_eq!(
            host.requests(),
            [r#"POST /api/sys/sessions/rotate {"now":false}"#, r#"POST /api/sys/sessions/rotate {"now":true}"#]
        );
    }
}
