//! Why a call failed, in words, and what to do about it.

use std::io;
use std::path::Path;

use super::{Client, Place, TcpAddress};
use crate::cli::BEARER_VARIABLE;
use crate::cli::failure::Failure;
use crate::cli::text::quoted;

impl Client {
    pub(super) fn broken(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        let place = self.place();
        match error.downcast_ref::<hyper::Error>() {
            Some(e) if e.is_parse() => {
                Failure::failed("protocol", format!("what listens at {place} speaks no HTTP: {e}"))
                    .next("is that address another program's?")
            }
            _ => {
                let mut reason = format!("{place} ended the connection before the answer was complete: {error}");
                if let Some(cause) = error.source() {
                    reason += &format!(": {cause}");
                }
                Failure::failed("disconnected", reason).next(self.see_log())
            }
        }
    }

    fn see_log(&self) -> String {
        if self.is_at_home() {
            format!("is the host ending? Its log has the cause: {}", self.home.log().display())
        } else {
            "is the host ending? Its log has the cause".to_owned()
        }
    }

    pub(super) fn socket_failure(&self, error: &io::Error) -> Failure {
        let (home, socket) = (self.home.root(), self.home.socket());
        let at = socket.display();
        match error.kind() {
            io::ErrorKind::NotFound => Failure::failed(
                "not_running",
                format!("no host is running for {}: there is no socket {at}", home.display()),
            )
            .next(start(home)),
            io::ErrorKind::ConnectionRefused => {
                Failure::failed("stale_socket", format!("the host that made the socket {at} is gone"))
                    .next(format!("{} (a new host replaces the socket)", start(home)))
            }
            io::ErrorKind::PermissionDenied => Failure::failed("permission", format!("this user may not open {at}"))
                .next("run as the user who runs the host, or pass --socket with its `http.shared-socket`, or --url"),
            // The listener's queue is full.
            io::ErrorKind::WouldBlock => Failure::failed("overloaded", format!("{at} takes no more connections now"))
                .next("try again in a moment"),
            _ => Failure::failed("unreachable", format!("{at}: {error}")).next("see `astrid doctor`"),
        }
    }

    pub(super) fn unauthorized(&self, failure: Failure) -> Failure {
        let (reason, next) = if self.authorization.is_some() {
            (
                "the bearer was not accepted: it may have expired or been revoked, or another host made it".to_owned(),
                "get a new one: `astrid login PRINCIPAL`, or `astrid invite redeem TOKEN`; if `astrid agent current` names who \
                 it was, `astrid agent switch default` speaks as the host's owner again"
                    .to_owned(),
            )
        } else if self.shows_certificate {
            (
                "the certificate that was shown stands for nobody there, or for somebody who is disabled".to_owned(),
                "an administrator binds it: `astrid cert bind PRINCIPAL FILE`; or pass --bearer".to_owned(),
            )
        } else if self.is_remote() {
            (
                "no bearer was sent".to_owned(),
                format!("set ${} or pass --bearer; `astrid invite redeem TOKEN` makes one", BEARER_VARIABLE),
            )
        } else {
            let owner = match &self.place {
                Place::Home => format!("run as the user who owns {}", self.home.root().display()),
                _ => "log in with a key: `astrid login PRINCIPAL`, then `astrid agent switch PRINCIPAL`".to_owned(),
            };
            ("the host does not take this user for its owner".to_owned(), format!("{owner}, or pass --bearer"))
        };
        failure.because(reason).next(next)
    }
}

/// How a host of this home is started.
pub(in crate::cli) fn start(home: &Path) -> String {
    let home = quoted(&home.to_string_lossy());
    format!("start it with `cargo astrid up --home {home}` or `astrid-daemon --home {home}`")
}

pub(super) fn shared_failure(socket: &Path, error: &io::Error) -> Failure {
    let at = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Failure::failed("not_running", format!("no host listens at {at}"))
                .next("does it run, and is that its `http.shared-socket`? Who runs it knows")
        }
        io::ErrorKind::PermissionDenied => Failure::failed("permission", format!("this user may not open {at}"))
            .next("ask who runs the host: `http.shared-socket-users` and the folder's mode say who may"),
        io::ErrorKind::WouldBlock => {
            Failure::failed("overloaded", format!("{at} takes no more connections now")).next("try again in a moment")
        }
        _ => Failure::failed("unreachable", format!("{at}: {error}")).next("is it a socket, and a host's?"),
    }
}

pub(super) fn tcp_failure(address: &TcpAddress, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        Failure::failed("not_running", format!("nothing listens at {address}"))
            .next("start the host with `cargo astrid up`, or check host and port")
    } else {
        Failure::failed("unreachable", format!("{address}: {error}")).next("check host and port")
    }
}
