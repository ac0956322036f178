//! `astrid cert`: certificates that stand for a principal when a client shows them over TLS.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::agent::{names, path};
use super::failure::{Exit, Failure};
use super::{Context, table, text, time};
use crate::http::certificate;

/// The largest file of certificates that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Let whoever shows this certificate in as a principal
    Bind {
        principal: String,
        /// A PEM file, whose first certificate is meant, or the SHA-256 of one in hex
        certificate: String,
        /// A name for the certificate
        #[arg(long)]
        label: Option<String>,
        /// What it may use of what the principal holds, such as self:* or agent:list [default: all of it]
        #[arg(long, value_name = "CAP", num_args = 1..)]
        scope: Vec<String>,
    },
    /// List the certificates of a principal
    List {
        /// The principal [default: the caller]
        principal: Option<String>,
    },
    /// No longer let anybody in with a certificate
    Remove {
        principal: String,
        /// A PEM file or a fingerprint, as with `bind`
        certificate: String,
    },
}

#[derive(Deserialize)]
struct Me {
    principal: String,
}

#[derive(Deserialize)]
struct Listed {
    certificates: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    fingerprint: String,
    label: Option<String>,
    scope: Option<Vec<String>>,
    added_at_epoch: u64,
}

impl Verb {
    pub(super) async fn run(self, context: &mut Context<'_>) -> Result<Exit, Failure> {
        match self {
            Verb::Bind { principal, certificate, label, scope } => {
                let what = format!("bind a certificate to {principal}");
                let fingerprint = fingerprint(&certificate).map_err(|failure| failure.doing(&what))?;
                let mut body = json!({ "fingerprint": fingerprint });
                if let Some(label) = label {
                    body["label"] = json!(label);
                }
                if !scope.is_empty() {
                    body["scope"] = json!(scope);
                }
                let path = format!("{}/certificates", path(&principal));
                let answer = context.client.post(&what, &path, body.to_string()).await?;
                if context.console.json {
                    context.console.document(&answer.body)?;
                } else {
                    let row: Row = answer.read()?;
                    context.console.print(&text::shown(&format!("{} stands for {principal}", row.fingerprint)))?;
                }
            }
            Verb::List { principal } => list(context, principal).await?,
            Verb::Remove { principal, certificate } => {
                let what = format!("remove a certificate of {principal}");
                let fingerprint = fingerprint(&certificate).map_err(|failure| failure.doing(&what))?;
                let path = format!("{}/certificates/{}", path(&principal), text::encoded(&fingerprint));
                context.client.delete(&what, &path).await?;
                let document = json!({ "fingerprint": fingerprint, "removed": true }).to_string();
                let said = text::shown(&format!("removed {fingerprint}"));
                context.console.print(if context.console.json { &document } else { &said })?;
            }
        }
        Ok(Exit::Done)
    }
}

async fn list(context: &mut Context<'_>, principal: Option<String>) -> Result<(), Failure> {
    let what = "list certificates";
    let principal = match principal {
        Some(principal) => principal,
        None => context.client.get(what, "/api/auth/me").await?.read::<Me>()?.principal,
    };
    let answer = context.client.get(what, &format!("{}/certificates", path(&principal))).await?;
    if context.console.json {
        return context.console.document(&answer.body);
    }
    let Listed { certificates } = answer.read()?;
    if certificates.is_empty() {
        context.console.remark(&text::shown(&format!("no certificate stands for {principal}")));
        return Ok(());
    }
    let row = |row: Row| {
        let scope = row.scope.map_or_else(|| "everything".to_owned(), |scope| names(&scope));
        [row.fingerprint, time::moment(row.added_at_epoch), row.label.unwrap_or_else(|| "-".to_owned()), scope]
    };
    let rows: Vec<[String; 4]> = certificates.into_iter().map(row).collect();
    context.console.print(&table::table(["FINGERPRINT", "BOUND", "LABEL", "SCOPE"], &rows))
}

/// What was said, if it has the form of a fingerprint; else that of the first certificate in the file of this name.
fn fingerprint(said: &str) -> Result<String, Failure> {
    let hex = said.replace(':', "");
    if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(hex.to_ascii_lowercase());
    }
    let wrong =
        |why: String| Failure::usage(format!("{said} is neither a fingerprint nor a certificate in PEM: {why}"));
    let mut pem = Vec::new();
    let file = File::open(Path::new(said)).map_err(|error| wrong(error.to_string()))?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut pem).map_err(|error| wrong(error.to_string()))?;
    let first = CertificateDer::from_pem_slice(&pem).map_err(|error| wrong(error.to_string()))?;
    Ok(certificate::fingerprint(&first))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cli::testing::Host;

    #[test]
    fn a_certificate_is_named_by_a_file_or_by_its_fingerprint() {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let print = certificate::fingerprint(made.cert.der());
        let host = Host::answering(201, &format!(r#"{{"fingerprint":"{print}","added_at_epoch":1}}"#));
        let file = host.home.root().join("client.pem");
        fs::write(&file, made.signing_key.serialize_pem() + &made.cert.pem()).unwrap();
        let file = file.to_str().unwrap();
        let bind = |certificate: &str| host.astrid(&["cert", "bind", "bo", certificate, "--label", "door"]);
        let ran = bind(file);
        assert_eq!(ran.out, format!("{print} stands for bo\n"), "{ran:?}");
        let upper = print.to_ascii_uppercase();
        let colons: Vec<&str> = (0..32).map(|n| &upper[2 * n..2 * n + 2]).collect();
        bind(&colons.join(":"));
        let want = format!(r#"POST /api/sys/principals/bo/certificates {{"fingerprint":"{print}","label":"door"}}"#);
        assert_eq!(host.requests(), [want.clone(), want]);
        for bad in ["nowhere.pem", &print[1..], host.home.root().to_str().unwrap()] {
            let ran = bind(bad);
            assert!(ran.exit == Exit::Usage && ran.err.contains("neither a fingerprint"), "{ran:?}");
        }
        assert_eq!(host.astrid(&["cert", "remove", "bo", file]).out, format!("removed {print}\n"));
        assert_eq!(host.requests().pop().unwrap(), format!("DELETE /api/sys/principals/bo/certificates/{print}"));
    }

    #[test]
    fn certificates_are_a_table() {
        let host = Host::with(|request| {
            let body = if request.contains("/auth/me") {
                r#"{"principal":"bo"}"#
            } else {
                r#"{"certificates":[{"fingerprint":"ab","label":"door","scope":["self:*"],"added_at_epoch":0}]}"#
            };
            (200, body.to_owned())
        });
        let out = host.astrid(&["cert", "list"]).out;
        assert!(out.contains("ab           1970-01-01 00:00:00Z  door   self:*"), "{out}");
    }
}
