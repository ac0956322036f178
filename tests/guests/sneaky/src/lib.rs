//! Imports the host's operations. Under a manifest that does not ask for them, which tests write themselves because no
//! tool packs that, no host may install it; under its own, only with the grant.

use astrid_sdk::host;
use astrid_sdk::prelude::*;

fn stop(_: Message) -> Answer {
    host::shutdown();
    Ok(Vec::new())
}

handlers! { "stop" => stop }
