//! TLS to a host: whose certificates are believed, and what is shown of oneself.
//!
//! Believed are the roots that this machine trusts, or those of a file alone; the name in the URL must stand in the host's
//! certificate. Bounded by: [`MAX_FILE_BYTES`] a file. Refuses to know: what is said over it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{CertificateError, ClientConfig, Error, RootCertStore};

use super::failure::Failure;

/// The largest file of certificates or of a key, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What the command line says of TLS.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    /// Certificates that are believed, instead of the machine's.
    pub(super) ca: Option<PathBuf>,
    /// A certificate of one's own, and its key.
    pub(super) own: Option<(PathBuf, PathBuf)>,
}

impl Options {
    /// # Errors
    /// A file that is missing or something else, by its name; a machine that trusts nobody.
    pub(super) fn connector(&self) -> Result<TlsConnector, Failure> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca {
            for root in certificates("--ca", path)? {
                roots.add(root).map_err(|error| unusable("--ca", path, &error))?;
            }
        } else {
            // Some machines have certificates among theirs that no longer read.
            let found = rustls_native_certs::load_native_certs();
            if roots.add_parsable_certificates(found.certs).0 == 0 {
                return Err(Failure::failed("tls", "this machine trusts no certificate at all")
                    .next("pass --ca FILE with the certificate that vouches for the host's"));
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::failed("internal", error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates("--client-cert", cert)?;
                let private = PrivateKeyDer::from_pem_slice(&read("--client-key", key)?)
                    .map_err(|error| unusable("--client-key", key, &error))?;
                builder.with_client_auth_cert(chain, private).map_err(|error| unusable("--client-key", key, &error))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config).into())
    }
}

/// Why a handshake with `place` failed.
pub(super) fn failure(place: &str, error: &io::Error) -> Failure {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let (why, next) = match tls {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => (
            "nobody whom this machine trusts vouches for its certificate".to_owned(),
            "if you have a certificate that does, pass it with --ca FILE",
        ),
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => ("its certificate is for another name".to_owned(), "write the name that stands in it into the URL"),
        Some(Error::InvalidCertificate(error)) => {
            (format!("its certificate is not good: {error}"), "whoever runs the host must renew it")
        }
        Some(Error::InvalidMessage(_)) => ("what listens there speaks no TLS".to_owned(), "is it http:// instead?"),
        _ => (format!("no handshake: {error}"), "does it speak TLS, and must clients show a certificate?"),
    };
    Failure::failed("tls", format!("{place}: {why}")).next(next)
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let pem = read(flag, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| unusable(flag, path, &error))?;
    if found.is_empty() { Err(unusable(flag, path, &"it holds no certificate in PEM")) } else { Ok(found) }
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| unusable(flag, path, &error))?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|error| unusable(flag, path, &error))?;
    Ok(bytes)
}

fn unusable(flag: &str, path: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("{flag} {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio_rustls::rustls::{ServerConfig, ServerConnection, Stream};

    use super::*;
    use crate::cli::failure::Exit;
    use crate::cli::testing::{astrid, home};

    /// A server that shows a certificate for `name` to so many clients, and where it listens.
    fn server(made: &rcgen::CertifiedKey<rcgen::KeyPair>, clients: usize) -> (u16, std::thread::JoinHandle<usize>) {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        let config = Arc::new(builder.with_single_cert(vec![made.cert.der().clone()], key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let mut answered = 0;
            for _ in 0..clients {
                let (mut socket, _) = listener.accept().unwrap();
                let mut session = ServerConnection::new(config.clone()).unwrap();
                let mut stream = Stream::new(&mut session, &mut socket);
                let mut request = [0; 1024];
                if stream.read(&mut request).is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                    answered += usize::from(std::io::Write::write_all(&mut stream, answer).is_ok());
                }
            }
            answered
        });
        (port, thread)
    }

    #[test]
    fn a_host_over_tls_must_have_a_certificate_for_its_name_that_somebody_vouches_for() {
        let (_dir, home) = home();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (port, served) = server(&made, 4);
        let ca = home.root().join("ca.pem");
        std::fs::write(&ca, made.cert.pem()).unwrap();
        let other = home.root().join("other.pem");
        let others = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&other, others.cert.pem()).unwrap();
        let at = |host: &str, ca: &Path| {
            let url = format!("https://{host}:{port}");
            astrid(&home, &["--url", &url, "--ca", ca.to_str().unwrap(), "--json", "capsule", "list"])
        };
        let ran = at("localhost", &ca);
        assert_eq!((ran.exit, ran.out.as_str()), (Exit::Done, "{}\n"), "{ran:?}");
        let ran = at("127.0.0.1", &ca);
        assert!(ran.exit == Exit::Failed && ran.err.contains("another name"), "{ran:?}");
        let ran = at("localhost", &other);
        assert!(ran.exit == Exit::Failed && ran.err.contains("\"tls\""), "{ran:?}");
        let in_the_clear = astrid(&home, &["--url", &format!("http://localhost:{port}"), "capsule", "list"]);
        assert_eq!(in_the_clear.exit, Exit::Failed);
        assert_eq!(served.join().unwrap(), 1);
    }

    #[test]
    fn files_that_are_missing_or_something_else_are_named_with_their_flag() {
        let (_dir, home) = home();
        let key = home.root().join("key.pem");
        std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let key = key.to_str().unwrap();
        for (flags, want) in [
            (&["--ca", "none.pem"][..], "--ca none.pem"),
            (&["--ca", key], "holds no certificate"),
            (&["--client-cert", key, "--client-key", key], "--client-cert"),
            (&["--client-cert", key], "--client-key"),
        ] {
            let ran = astrid(&home, &[&["--url", "https://localhost:1", "status"], flags].concat());
            assert!(ran.exit == Exit::Usage && ran.err.contains(want), "{ran:?}");
        }
        let ran = astrid(&home, &["--url", "http://localhost:1", "--ca", key, "status"]);
        assert!(ran.exit == Exit::Usage && ran.err.contains("https"), "{ran:?}");
    }
}
