//! The `astrid` command line: each verb is one call of the HTTP surface, over the Unix socket of a home or over TCP.
//!
//! Owns the verbs, how answers and errors look, and the user's own key pairs. Bounded by a deadline for every call and
//! 64 MiB for every answer. Refuses to know how the host does what it asks for: there is no other way in than the
//! surface that everybody has.
//!
//! Exit codes: 0 done, 1 failed, 2 used wrongly.

mod agent;
mod audit;
mod bus;
mod caps;
mod capsule;
mod client;
mod config;
mod console;
mod daemon;
mod device;
mod distro;
mod doctor;
mod env;
mod facts;
mod failure;
mod group;
mod invite;
mod json;
mod key;
mod keypair;
mod keystore;
mod logs;
mod quota;
mod sessions;
mod table;
#[cfg(test)]
mod testing;
mod text;
mod time;
mod trust;
mod watch;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, value_parser};

use self::client::{Client, TcpAddress};
use self::console::Console;
use self::failure::{Exit, Failure};
use crate::home::Home;

/// The environment variable that holds the bearer for `--url` where `--bearer` does not.
const BEARER_VARIABLE: &str = "ASTRID_BEARER";

/// Operate an Astrid host
#[derive(Parser)]
#[command(name = "astrid", version)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Args)]
struct Global {
    /// The host's home [default: $ASTRID_HOME, else ~/.astrid]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Print JSON documents of one line; errors too
    #[arg(long, global = true)]
    json: bool,
    /// How long a call may take in all
    #[arg(long, global = true, value_name = "SECS", default_value_t = 30)]
    #[arg(value_parser = value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Call http://HOST:PORT instead of the home's socket
    #[arg(long, global = true, value_name = "URL", value_parser = TcpAddress::parse)]
    url: Option<TcpAddress>,
    /// Speak as the principal of this bearer [default: with --url $ASTRID_BEARER, else what `agent switch` says]
    #[arg(long, global = true, value_name = "TOKEN")]
    bearer: Option<String>,
}

#[derive(Subcommand)]
enum Verb {
    /// Show what the host is doing
    Status,
    /// Ask the host to drain and end, and wait until it has
    Stop,
    /// Make a home from a distribution; no host is needed
    Init(distro::Init),
    /// Show, apply, lock and carry the home's distribution
    #[command(subcommand)]
    Distro(distro::Verb),
    /// Check the home, the host and this machine; say what to do about each fault
    Doctor,
    /// Show who the host takes this command line for
    Who,
    /// Prove to be a principal by a local key pair, and remember the session
    Login {
        principal: String,
        #[arg(long, value_name = "NAME", default_value = "default", value_parser = keystore::KeyName::parse)]
        key: keystore::KeyName,
    },
    /// Pair, list and remove devices: keys by which a principal proves who it is
    #[command(subcommand)]
    Device(device::Verb),
    /// End the session that this command line speaks with, and forget it
    Logout,
    /// Change the key that signs bearers
    #[command(subcommand)]
    Key(key::Verb),
    /// Make, list and change principals; choose as which of them to speak
    #[command(subcommand)]
    Agent(agent::Verb),
    /// Make, list and change groups
    #[command(subcommand)]
    Group(group::Verb),
    /// Show, grant, revoke and explain what a principal holds
    #[command(subcommand)]
    Caps(caps::Verb),
    /// Issue, list, revoke and redeem invites
    #[command(subcommand)]
    Invite(invite::Verb),
    /// Manage your own key pairs; no host is needed
    #[command(subcommand)]
    Keypair(keypair::Verb),
    /// Show the configuration and check it
    #[command(subcommand)]
    Config(config::Verb),
    /// List and install capsules
    #[command(subcommand)]
    Capsule(capsule::Verb),
    /// List, add and remove those whose signatures of capsules count; no host is needed
    #[command(subcommand)]
    Trust(trust::Verb),
    /// Show what a principal may use and has used; change what it may
    #[command(subcommand)]
    Quota(quota::Verb),
    /// Set, list and delete what capsules are told: their environment, secrets included
    #[command(subcommand, visible_alias = "secret")]
    Env(env::Verb),
    /// Show what has happened; check and prove the log of facts from its files, without a host
    #[command(subcommand)]
    Audit(Box<audit::Verb>),
    /// Send a message to a topic
    #[command(subcommand)]
    Bus(bus::Verb),
    /// Show the host's log, or one capsule's
    Logs(logs::Options),
}

/// What every verb is given.
struct Context<'a> {
    home: Home,
    client: Client,
    console: Console<'a>,
    /// How to call this program again for the same host: `astrid`, with `--home` or `--url` if that was said.
    command: String,
}

/// Parses `args` (the first is the program's name), runs the verb and answers with the process's exit code. Prints to
/// stdout and stderr; a stdout whose reader is gone ends it quietly.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (mut out, mut err, mut input) = (io::stdout(), io::stderr(), io::stdin());
    let terminals = console::Terminals { input: input.is_terminal(), output: out.is_terminal() };
    let console = Console::new(&mut out, &mut err, &mut input, terminals);
    execute(args, std::env::var(BEARER_VARIABLE).ok(), console).into()
}

/// All of [`run`] but the process: the streams and the environment's bearer are the caller's.
fn execute(args: impl IntoIterator<Item = OsString>, bearer: Option<String>, mut console: Console<'_>) -> Exit {
    let args: Vec<OsString> = args.into_iter().collect();
    console.json = args.iter().any(|a| a == "--json");
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return console.print(&e.to_string()).map_or_else(|f| console.fail(&f), |()| Exit::Done);
        }
        Err(e) if console.json => {
            // What is wrong, without the help after it.
            let text = e.to_string();
            let wrong = text.split("\n\n").next().unwrap_or_default();
            return console.fail(&Failure::usage(wrong.strip_prefix("error: ").unwrap_or(wrong)));
        }
        Err(e) => {
            console.complain(&e.to_string());
            return Exit::Usage;
        }
    };
    console.json = cli.global.json;
    let mut context = match resolve(cli.global, bearer) {
        Ok((home, client, command)) => Context { home, client, console, command },
        Err(failure) => return console.fail(&failure),
    };
    let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(perform(cli.verb, &mut context)),
        Err(e) => Err(Failure::failed("internal", format!("no runtime for input and output: {e}"))),
    };
    outcome.unwrap_or_else(|failure| context.console.fail(&failure))
}

async fn perform(verb: Verb, context: &mut Context<'_>) -> Result<Exit, Failure> {
    match verb {
        Verb::Status => daemon::status(context).await,
        Verb::Stop => daemon::stop(context).await,
        Verb::Init(init) => init.run(context).await,
        Verb::Distro(verb) => verb.run(context).await,
        Verb::Doctor => doctor::run(context).await,
        Verb::Who => agent::who(context).await,
        Verb::Login { principal, key } => device::login(context, &principal, &key).await,
        Verb::Device(verb) => verb.run(context).await,
        Verb::Logout => agent::logout(context).await,
        Verb::Key(verb) => verb.run(context).await,
        Verb::Agent(verb) => verb.run(context).await,
        Verb::Group(verb) => verb.run(context).await,
        Verb::Caps(verb) => verb.run(context).await,
        Verb::Invite(verb) => verb.run(context).await,
        Verb::Keypair(verb) => verb.run(context),
        Verb::Config(verb) => verb.run(context).await,
        Verb::Capsule(verb) => verb.run(context).await,
        Verb::Trust(verb) => verb.run(context),
        Verb::Quota(verb) => verb.run(context).await,
        Verb::Env(verb) => verb.run(context).await,
        Verb::Audit(verb) => verb.run(context).await,
        Verb::Bus(verb) => verb.run(context).await,
        Verb::Logs(options) => options.run(context).await,
    }
}

/// The home, the client and the command of a [`Context`].
fn resolve(global: Global, bearer: Option<String>) -> Result<(Home, Client, String), Failure> {
    let mut command = "astrid".to_owned();
    if let Some(home) = &global.home {
        command += &format!(" --home {}", text::quoted(&home.to_string_lossy()));
    }
    if let Some(url) = &global.url {
        command += &format!(" --url {url}");
    }
    let home = Home::resolve(global.home).map_err(|e| Failure::failed("home", e.to_string()))?;
    // On the socket the connection says who is calling; a variable that was set for another host must not.
    let bearer = match (global.bearer, &global.url) {
        (Some(bearer), _) => Some(bearer),
        (None, Some(_)) => bearer.filter(|b| !b.is_empty()),
        (None, None) => sessions::load(&home)?.bearer().map(str::to_owned),
    };
    let client = Client::new(home.clone(), global.url, bearer, Duration::from_secs(global.timeout))?;
    Ok((home, client, command))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::testing::{astrid, home};
    use super::*;

    #[test]
    fn help_and_version_are_no_errors_and_a_missing_verb_is_one() {
        let (_dir, home) = home();
        for args in [&["--help"][..], &["--version"], &["invite", "issue", "--help"]] {
            let ran = astrid(&home, args);
            assert!(ran.exit == Exit::Done && !ran.out.is_empty() && ran.err.is_empty(), "{ran:?}");
        }
        for args in [&[][..], &["invite"], &["nonsense"], &["status", "--timeout", "0"]] {
            let ran = astrid(&home, args);
            assert!(ran.exit == Exit::Usage && ran.out.is_empty() && !ran.err.is_empty(), "{ran:?}");
        }
        let ran = astrid(&home, &["keypair", "show", "--json"]);
        let document: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
        assert!(document["reason"].as_str().unwrap().ends_with("<NAME>"), "{document}");
    }

    #[test]
    fn the_verbs_fit_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn a_url_is_called_over_tcp_with_the_bearer_of_the_environment() {
        let (_dir, home) = home();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
            String::from_utf8(request).unwrap()
        });
        let ran = astrid(&home, &["--url", &url, "invite", "list", "--json"]);
        assert_eq!((ran.exit, ran.out.as_str()), (Exit::Done, "{}\n"), "{}", ran.err);
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /api/sys/invites HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer from-the-environment\r\n"), "{request}");
        assert!(request.contains(&format!("host: {}\r\n", &url["http://".len()..])), "{request}");
        let gone = astrid(&home, &["--url", &url, "status"]);
        assert!(gone.exit == Exit::Failed && gone.err.contains("nothing listens at http://127"), "{gone:?}");
    }
}
