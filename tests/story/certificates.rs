//! Clients that show a certificate over TLS: whose it is, and who gets no connection.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use astrid_tests::DEADLINE;
use astrid_tests::daemon::{Daemon, Home};
use astrid_tests::http::{Request, raw};
use astrid_tests::tls::{Authority, Connection, Pair, shake, shake_as};
use serde_json::{Value, json};

use crate::{install_guests, join};

/// A home whose host speaks TLS and asks clients for certificates that `authority` vouches for, with more of `[http.tls]`.
fn asking(authority: &Authority, more: &str) -> (Home, Pair) {
    let (home, pair) = crate::tls::certified();
    let etc = home.path().join("etc");
    authority.write(&etc);
    let tls = format!("[http.tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\nclient-ca = \"ca.pem\"\n{more}\n");
    fs::write(etc.join("config.toml"), tls).unwrap();
    (home, pair)
}

/// A host that asks clients for certificates that `authority` vouches for.
fn start(authority: &Authority, required: bool) -> (Daemon, Pair) {
    let auth = if required { "required" } else { "optional" };
    let (home, pair) = asking(authority, &format!("client-auth = \"{auth}\""));
    (home.start(), pair)
}

/// A folder with a client's certificate and key.
fn written(daemon: &Daemon, name: &str, client: &Pair) -> PathBuf {
    let folder = daemon.home().beside().join(name);
    fs::create_dir_all(&folder).unwrap();
    client.write_cert(&folder);
    client.write_key(&folder);
    folder
}

fn me() -> Request {
    Request::get("/api/auth/me")
}

#[tokio::test]
async fn a_certificate_is_its_principal_and_one_that_is_nobodys_is_401() {
    let authority = Authority::new();
    let (daemon, pair) = start(&authority, false);
    let address = daemon.address();
    install_guests(&daemon, &["front"]);
    let ada = join_locally(&daemon, "ada").await;
    let (door, stranger) = (authority.client("ada's door"), authority.client("ada"));
    let folder = written(&daemon, "door", &door);
    let cert = folder.join("cert.pem");
    let bound = daemon.astrid(&["cert", "bind", "ada", cert.to_str().unwrap(), "--label", "door"]);
    assert_eq!(bound.out(), format!("{} stands for ada", door.fingerprint()));
    let conflict = daemon.astrid(&["cert", "bind", "default", &door.fingerprint()]);
    assert!(conflict.refusal(1).contains("already"), "{conflict:?}");

    let shown = Connection::open_as(address, &pair, &door).await;
    assert_eq!(shown.send(me()).await.unwrap().expect(200)["principal"], "ada");
    let told = shown.send(Request::get("/front/echo")).await.unwrap().expect(200);
    assert_eq!(told["certificate"], json!([door.fingerprint(), "ada's door"]));
    // What the host calls it, and what it must not be taken for.
    let unknown = Connection::open_as(address, &pair, &stranger).await;
    unknown.send(me()).await.unwrap().refusal(401, "unauthorized");
    let without = Connection::open(address, &pair, 65_535).await;
    without.send(me()).await.unwrap().refusal(401, "unauthorized");
    assert_eq!(without.send(Request::get("/front/echo")).await.unwrap().expect(200)["certificate"], Value::Null);
    // Whoever says something of themselves is held to that.
    shown.send(me().bearer("rubbish")).await.unwrap().refusal(401, "unauthorized");
    assert_eq!(unknown.send(me().bearer(&ada)).await.unwrap().expect(200)["principal"], "ada");

    // The command line shows one, too.
    let url = format!("https://localhost:{}", address.port());
    let ca = daemon.home().path().join("etc/cert.pem");
    let key = folder.join("key.pem");
    let [ca, cert, key] = [&ca, &cert, &key].map(|path| path.to_str().unwrap());
    let client = ["--url", &url, "--ca", ca, "--client-cert", cert, "--client-key", key];
    let who = daemon.astrid(&[&client[..], &["who", "--json"]].concat());
    assert_eq!(who.json()["principal"], "ada");
    let unbound = written(&daemon, "stranger", &stranger);
    let [theirs, their_key] = ["cert.pem", "key.pem"].map(|name| unbound.join(name));
    let shows = ["--client-cert", theirs.to_str().unwrap(), "--client-key", their_key.to_str().unwrap()];
    let refused = daemon.astrid(&[&["--url", &url, "--ca", ca], &shows[..], &["who"]].concat());
    assert!(refused.refusal(1).contains("stands for nobody"), "{refused:?}");
    let listed = daemon.astrid(&[&client[..], &["cert", "list"]].concat());
    assert!(listed.out().contains(&door.fingerprint()) && listed.out().contains("door"), "{listed:?}");

    // From the next request on, on connections that are open already.
    daemon.astrid(&["agent", "disable", "ada"]).out();
    shown.send(me()).await.unwrap().refusal(401, "unauthorized");
    daemon.astrid(&["agent", "enable", "ada"]).out();
    assert_eq!(shown.send(me()).await.unwrap().expect(200)["principal"], "ada");
    daemon.astrid(&["cert", "remove", "ada", cert]).out();
    shown.send(me()).await.unwrap().refusal(401, "unauthorized");
    assert!(daemon.astrid(&["cert", "remove", "ada", cert]).refusal(1).contains("no such certificate"));
}

/// The bearer of somebody new in the group of agents; TCP is encrypted here.
async fn join_locally(daemon: &Daemon, name: &str) -> String {
    let token = crate::invite(daemon, "agent", 1).await;
    let body = json!({ "token": token, "public_key": crate::public_hex(&crate::key(1)), "display_name": name });
    let redeemed = daemon.unix(Request::post("/api/auth/redeem", &body)).await.expect(200);
    redeemed["session_token"].as_str().unwrap().to_owned()
}

/// Whether a client with this certificate, or none, gets an answer.
async fn is_served(daemon: &Daemon, shown: &Pair, own: Option<&Pair>) -> bool {
    const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    // In TLS 1.3 a client has shaken hands before it hears that it was refused.
    match shake_as(daemon.address(), shown, &["http/1.1"], own).await {
        Ok(stream) => raw(stream, HEALTH).await.starts_with("HTTP/1.1 200 "),
        Err(_) => false,
    }
}

#[tokio::test]
async fn who_shows_a_certificate_that_nobody_vouches_for_gets_no_connection_nor_who_shows_none_where_one_is_required() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (ours, theirs) = (authority.client("bo"), other.client("bo"));
    for required in [false, true] {
        let (daemon, pair) = start(&authority, required);
        let served = async |own: Option<&Pair>| is_served(&daemon, &pair, own).await;
        assert!(served(Some(&ours)).await, "required: {required}");
        assert!(!served(Some(&theirs)).await, "required: {required}");
        assert_eq!(served(None).await, !required);
        assert_eq!(daemon.unix(Request::get("/healthz")).await.status, 200, "the owner's socket is no matter of TLS");
        assert!(shake(daemon.address(), &pair, &["spdy/3"]).await.is_err());
    }
}

#[tokio::test]
async fn only_who_may_binds_a_certificate_and_nobody_gives_more_than_their_session_has() {
    let authority = Authority::new();
    let (daemon, pair) = start(&authority, false);
    let plain = Home::new().start();
    let bob = join(&plain, "agent", "bob", 2).await;
    let path = |of: &str| format!("/api/sys/principals/{of}/certificates");
    let bind = |of: &str, scope: Value| {
        Request::post(&path(of), &json!({ "fingerprint": "ab".repeat(32), "scope": scope })).bearer(&bob.bearer)
    };
    // An agent's own, and nobody else's.
    plain.tcp(bind("default", Value::Null)).await.refusal(403, "forbidden");
    plain.tcp(bind("bob", json!(["self:agent:list"]))).await.expect(201);
    plain.tcp(Request::get(&path("default")).bearer(&bob.bearer)).await.refusal(403, "forbidden");
    let own = plain.tcp(Request::get(&path("bob")).bearer(&bob.bearer)).await.expect(200);
    assert_eq!(own["certificates"][0]["scope"], json!(["self:agent:list"]));
    plain
        .unix(Request::post(&path("nobody"), &json!({ "fingerprint": "cd".repeat(32) })))
        .await
        .refusal(404, "not_found");
    plain.unix(Request::post(&path("bob"), &json!({ "fingerprint": "cd" }))).await.refusal(400, "bad_request");

    // A session of a certificate with a scope is held to that.
    let door = authority.client("door");
    let ada = join_locally(&daemon, "ada").await;
    let scoped = json!({ "fingerprint": door.fingerprint(), "scope": ["self:agent:list"] });
    let body = Request::post(&path("ada"), &scoped).bearer(&ada);
    Connection::open(daemon.address(), &pair, 65_535).await.send(body).await.unwrap().expect(201);
    let shown = Connection::open_as(daemon.address(), &pair, &door).await;
    assert_eq!(shown.send(me()).await.unwrap().expect(200)["capabilities"], json!(["self:agent:list"]));
    let more = Request::post(&path("ada"), &json!({ "fingerprint": "ef".repeat(32) }));
    shown.send(more).await.unwrap().refusal(403, "forbidden");
    // Deleted with its principal.
    daemon.astrid(&["agent", "delete", "ada", "--yes"]).out();
    shown.send(me()).await.unwrap().refusal(401, "unauthorized");
}

#[tokio::test]
async fn who_shows_a_certificate_that_was_revoked_gets_no_connection_from_when_the_list_says_so_nor_anybody_by_an_old_list()
 {
    let authority = Authority::new();
    let (ada, thief) = (authority.client("ada"), authority.client("thief"));
    let (home, pair) = asking(&authority, "client-crl = \"crl.pem\"");
    let etc = home.path().join("etc");
    authority.write_list(&etc, &[&thief], 2100);
    let daemon = home.start();
    let served = async |own: Option<&Pair>| is_served(&daemon, &pair, own).await;
    assert!(served(Some(&ada)).await && !served(Some(&thief)).await && served(None).await);

    let open = Connection::open_as(daemon.address(), &pair, &ada).await;
    let health = async || open.send(Request::get("/healthz")).await.unwrap().expect(200);
    authority.write_list(&etc, &[&ada], 2100);
    daemon.astrid(&["config", "reload"]).out();
    assert!(!served(Some(&ada)).await && served(Some(&thief)).await);
    health().await;

    // An old list says nothing of anybody: nobody whom it could revoke gets in, and the log and the doctor tell.
    authority.write_list(&etc, &[], 2002);
    daemon.astrid(&["config", "reload"]).out();
    assert!(!served(Some(&ada)).await && !served(Some(&thief)).await && served(None).await);
    let told = |daemon: &Daemon| daemon.stderr().contains("holds a list that is out of date");
    let started = Instant::now();
    while !told(&daemon) {
        assert!(started.elapsed() < DEADLINE, "{}", daemon.stderr());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(daemon.astrid(&["doctor"]).stdout.contains("out of date"));

    // What is noticed by itself.
    authority.write_list(&etc, &[&thief], 2100);
    let started = Instant::now();
    while !served(Some(&ada)).await {
        assert!(started.elapsed() < DEADLINE, "the new list is not taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!served(Some(&thief)).await);
}

#[tokio::test]
async fn a_host_with_a_list_of_another_authority_does_not_start_and_one_that_runs_keeps_its_own() {
    let (authority, other) = (Authority::new(), Authority::named("another authority"));
    let (home, pair) = asking(&authority, "client-crl = \"crl.pem\"");
    let etc = home.path().join("etc");
    other.write_list(&etc, &[], 2100);
    let refused = home.try_start(&[]).err().expect("it does not start");
    let wants = ["http.tls.client-crl", "crl.pem", "no list of an authority"];
    assert!(refused.code == Some(1) && wants.iter().all(|want| refused.stderr.contains(want)), "{refused:?}");
    assert!(home.astrid(&["config", "check"]).refusal(1).contains("no list of an authority"));

    let thief = authority.client("thief");
    authority.write_list(&etc, &[&thief], 2100);
    let daemon = home.start();
    other.write_list(&etc, &[], 2100);
    assert!(daemon.astrid(&["config", "reload"]).refusal(1).contains("no list of an authority"));
    assert!(!is_served(&daemon, &pair, Some(&thief)).await && is_served(&daemon, &pair, None).await);
}
