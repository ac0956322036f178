//! The `astrid` command line: each verb is one call of the HTTP surface, over the Unix socket of a home, another one or TCP.
//!
//! Owns the verbs, how answers and errors look, and the user's own key pairs. Bounded by a deadline for every call and
//! 64 MiB for every answer. Refuses to know how the host does what it asks for: there is no other way in than the
//! surface that everybody has.
//!
//! Exit codes: 0 done, 1 failed, 2 used wrongly.

mod agent;
mod approval;
mod audit;
mod bus;
mod caps;
mod capsule;
mod cert;
mod client;
mod completions;
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
mod policy;
mod process;
mod quota;
mod sessions;
mod table;
#[cfg(test)]
mod testing;
mod text;
mod time;
mod tls;
mod top;
mod trust;
mod version;
mod watch;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, value_parser};

use self::client::{Client, Place, TcpAddress};
use self::console::Console;
use self::failure::{Exit, Failure};
use self::sessions::Book;
use crate::home::{self, Home};

/// The environment variable that holds the bearer for `--url` where `--bearer` does not.
const BEARER_VARIABLE: &str = "ASTRID_BEARER";

/// The environment variable that names the socket to call where neither `--socket` nor `--url` nor `--home` does.
const SOCKET_VARIABLE: &str = "ASTRID_SOCKET";

/// What the command line takes from the environment, beside the home.
#[derive(Debug, Clone, Default)]
struct Variables {
    bearer: Option<String>,
    socket: Option<PathBuf>,
}

impl Variables {
    /// An empty one counts as unset.
    fn read() -> Self {
        Self {
            bearer: std::env::var(BEARER_VARIABLE).ok().filter(|bearer| !bearer.is_empty()),
            socket: std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from),
        }
    }
}

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
    /// The host's home, or the user's own with another's host [default: $ASTRID_HOME, else ~/.astrid]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Print JSON documents of one line; errors too
    #[arg(long, global = true)]
    json: bool,
    /// How many seconds a call may take in all [default: 30; 300 for what installs]
    #[arg(long, global = true, value_name = "SECS", value_parser = value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,
    /// Call https://HOST:PORT or http://HOST:PORT instead of the home's socket
    #[arg(long, global = true, value_name = "URL", value_parser = TcpAddress::parse)]
    url: Option<TcpAddress>,
    /// Believe the certificates in this PEM file, and not those that the machine trusts
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Show this certificate to the host
    #[arg(long, global = true, value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, global = true, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// Call another user's host at this Unix socket [default: without --home $ASTRID_SOCKET]
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "url")]
    socket: Option<PathBuf>,
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
    /// Log in as a principal with a local key pair, and remember the session
    Login {
        principal: String,
        #[arg(long, value_name = "NAME", default_value = "default", value_parser = keystore::KeyName::parse)]
        key: keystore::KeyName,
    },
    /// Pair, list and remove devices: keys by which a principal proves who it is
    #[command(subcommand)]
    Device(device::Verb),
    /// Bind, list and remove certificates that stand for a principal over TLS
    #[command(subcommand)]
    Cert(cert::Verb),
    /// Answer what capsules ask your consent for
    #[command(subcommand)]
    Approval(approval::Verb),
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
    /// Show the configuration, check it, and have it read again
    #[command(subcommand)]
    Config(config::Verb),
    /// List and install capsules
    #[command(subcommand)]
    Capsule(capsule::Verb),
    /// List, add and remove the keys whose signatures of capsules count; no host is needed
    #[command(subcommand)]
    Trust(trust::Verb),
    /// List and stop the sandboxed programs that capsules have started
    #[command(subcommand)]
    Process(process::Verb),
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
    /// Show how much capsules and principals use, again and again
    Top(top::Options),
    /// Show the versions of this program and of the host
    Version,
    /// Print a script by which a shell completes this command line; no host is needed
    Completions(completions::Options),
}

/// What every verb is given.
struct Context<'a> {
    home: Home,
    client: Client,
    sessions: Book,
    console: Console<'a>,
    /// How to call this program again for the same host: `astrid`, with `--home`, `--socket` or `--url` if that was said.
    command: String,
}

/// Parses `args` (the first is the program's name), runs the verb and answers with the process's exit code. Prints to
/// stdout and stderr; a stdout whose reader is gone ends it quietly.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (mut out, mut err, mut input) = (io::stdout(), io::stderr(), io::stdin());
    let terminals = console::Terminals { input: input.is_terminal(), output: out.is_terminal() };
    let console = Console::new(&mut out, &mut err, &mut input, terminals);
    execute(args, Variables::read(), console).into()
}

/// All of [`run`] but the process: the streams and the environment's variables are the caller's.
fn execute(args: impl IntoIterator<Item = OsString>, variables: Variables, mut console: Console<'_>) -> Exit {
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
    let mut context = match resolve(cli.global, variables) {
        Ok((home, client, sessions, command)) => Context { home, client, sessions, console, command },
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
        Verb::Approval(verb) => verb.run(context).await,
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
        Verb::Process(verb) => verb.run(context).await,
        Verb::Quota(verb) => verb.run(context).await,
        Verb::Env(verb) => verb.run(context).await,
        Verb::Audit(verb) => verb.run(context).await,
        Verb::Bus(verb) => verb.run(context).await,
        Verb::Logs(options) => options.run(context).await,
        Verb::Cert(verb) => verb.run(context).await,
        Verb::Top(options) => options.run(context).await,
        Verb::Version => version::run(context).await,
        Verb::Completions(options) => options.run(context),
    }
}

/// The home, the client, the sessions and the command of a [`Context`].
fn resolve(global: Global, variables: Variables) -> Result<(Home, Client, Book, String), Failure> {
    let mut command = "astrid".to_owned();
    if let Some(home) = &global.home {
        command += &format!(" --home {}", text::quoted(&home.to_string_lossy()));
    }
    // A variable that was set for another host must not count where a host was named.
    let elsewhere = variables.socket.filter(|_| global.home.is_none());
    let place = match (global.url, global.socket.or(elsewhere)) {
        (Some(url), _) => Place::Tcp(url),
        (None, Some(socket)) => Place::Socket(absolute(&socket)?),
        (None, None) => Place::Home,
    };
    match &place {
        Place::Home => {}
        Place::Socket(socket) => command += &format!(" --socket {}", text::quoted(&socket.to_string_lossy())),
        Place::Tcp(url) => command += &format!(" --url {url}"),
    }
    let speaks_tls = matches!(&place, Place::Tcp(url) if url.tls);
    for (flag, file) in
        [("--ca", &global.ca), ("--client-cert", &global.client_cert), ("--client-key", &global.client_key)]
    {
        let Some(file) = file else { continue };
        if !speaks_tls {
            return Err(Failure::usage(format!("{flag} is for --url https://HOST:PORT")));
        }
        command += &format!(" {flag} {}", text::quoted(&file.to_string_lossy()));
    }
    let tls = tls::Options { ca: global.ca, own: global.client_cert.zip(global.client_key) };
    let home = Home::resolve(global.home).map_err(|e| Failure::failed("home", e.to_string()))?;
    let sessions = Book::of(&home, &place);
    // On a socket the connection or a session that is remembered says who is calling.
    let bearer = match (global.bearer, &place) {
        (Some(bearer), _) => Some(bearer),
        (None, Place::Tcp(_)) => variables.bearer,
        (None, Place::Home | Place::Socket(_)) => sessions.load()?.bearer().map(str::to_owned),
    };
    let mut client = Client::new(home.clone(), place, bearer, global.timeout.map(Duration::from_secs))?;
    if speaks_tls {
        client = client.over_tls(tls.connector()?, tls.own.is_some());
    }
    Ok((home, client, sessions, command))
}

fn absolute(socket: &Path) -> Result<PathBuf, Failure> {
    let named = |why: String| Failure::usage(format!("--socket or ${SOCKET_VARIABLE}: {why}"));
    let socket = std::path::absolute(socket).map_err(|e| named(format!("{}: {e}", socket.display())))?;
    home::check_socket_path(&socket).map_err(|e| named(e.to_string()))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::testing::{Host, astrid, home};
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
    fn a_socket_is_called_with_a_session_of_its_own_and_the_homes_is_not_shown_to_it() {
        let (_dir, home) = home();
        let host = Host::with(|request| match request {
            r if r.contains("/auth/challenge") => (200, r#"{"challenge":"sign-me","expires_at_epoch":9}"#.to_owned()),
            r if r.contains("/auth/login") => {
                (200, r#"{"principal":"bo","session_token":"a.b","session_expires_at_epoch":9}"#.to_owned())
            }
            _ => (401, r#"{"error":"unauthorized"}"#.to_owned()),
        });
        let socket = host.home.socket();
        let socket = socket.to_str().unwrap();
        let at = |args: &[&str]| astrid(&home, &[&["--socket", socket], args].concat());
        assert!(at(&["who"]).err.contains("astrid login PRINCIPAL"));
        assert_eq!(at(&["agent", "current"]).out, "default (if the host runs as this user)\n");
        astrid(&home, &["keypair", "generate", "default"]);
        let ran = at(&["login", "bo"]);
        assert!(ran.out.starts_with("bo has a session until") && ran.err.is_empty(), "{ran:?}");
        assert!(at(&["agent", "current"]).out.starts_with("bo (until"));
        at(&["who"]);
        assert_eq!(host.requests().last().unwrap(), "GET /api/auth/me Bearer a.b");
        assert!(astrid(&home, &["agent", "current"]).out.starts_with("default"), "the home's own host is another");
        for (args, exit) in [
            (&["--socket", socket, "--url", "http://h:1", "who"][..], Exit::Usage),
            (&["--socket", "/", "who"], Exit::Usage),
            (&["--socket", &format!("/{}", "s".repeat(107)), "who"], Exit::Usage),
            (&["--socket", "/nowhere/astrid.sock", "who"], Exit::Failed),
            (&["--socket", socket, "trust", "list"], Exit::Usage),
        ] {
            let ran = astrid(&home, args);
            assert!(ran.exit == exit && !ran.err.is_empty(), "{args:?}: {ran:?}");
        }
    }

    #[test]
    fn a_socket_of_the_environment_counts_only_where_no_host_was_named() {
        let (_dir, home) = home();
        let place = |args: &[&str]| {
            let cli = Cli::try_parse_from(["astrid"].iter().chain(args).chain(&["who"])).unwrap();
            let variables = Variables { bearer: None, socket: Some("/run/a/a.sock".into()) };
            resolve(cli.global, variables).unwrap().3
        };
        let root = home.root().to_str().unwrap();
        assert_eq!(place(&[]), format!("astrid --socket {}", text::quoted("/run/a/a.sock")));
        assert_eq!(place(&["--home", root]), format!("astrid --home {}", text::quoted(root)));
        assert_eq!(place(&["--url", "http://h:1"]), "astrid --url http://h:1");
        assert!(place(&["--home", root, "--socket", "/run/b/b.sock"]).ends_with(&text::quoted("/run/b/b.sock")));
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
