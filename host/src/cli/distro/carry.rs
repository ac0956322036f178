//! `astrid distro bundle`: a distribution in one file, out of a home and into another.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::Path;

use astrid_capsule::distro::bundle;
use serde_json::json;

use super::ready::{Given, Ready};
use super::{apply, say};
use crate::cli::Context;
use crate::cli::failure::{Exit, Failure};
use crate::files;

pub(super) fn export(context: &mut Context<'_>, file: &Path) -> Result<Exit, Failure> {
    let ready = Ready::read(context, &context.home.distro())?;
    let folder = &ready.folder;
    let at = |error: std::io::Error| Failure::failed("io", format!("{}: {error}", file.display()));
    let partial = file.with_extension(format!("partial.{}", std::process::id()));
    let written = (|| {
        let out = BufWriter::new(File::create(&partial)?);
        let read = |path: &Path| fs::read(folder.path.join(path));
        bundle::write(&folder.distro, (&folder.text, &ready.lock), read, out)?;
        let bytes = fs::metadata(&partial)?.len();
        if bytes > bundle::MAX_BYTES {
            return Err(std::io::Error::other(format!("it would be larger than {} bytes", bundle::MAX_BYTES)));
        }
        File::open(&partial)?.sync_all()?;
        fs::rename(&partial, file)?;
        Ok(bytes)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    let bytes = written.map_err(at)?;
    if context.console.json {
        say(context, &json!({ "file": file, "bytes": bytes }))?;
    } else {
        let about = &folder.distro.distro;
        context.console.remark(&format!("{} {} is in {}, {bytes} bytes", about.id, about.version, file.display()));
    }
    Ok(Exit::Done)
}

pub(super) async fn import(context: &mut Context<'_>, file: &Path, given: Given) -> Result<Exit, Failure> {
    context.home.create().map_err(|error| Failure::failed("home", error.to_string()))?;
    let source = files::open_regular(file);
    let source = source.map_err(|error| Failure::failed("io", format!("{}: {error}", file.display())))?;
    let staged = context.home.root().join(format!("import.{}", std::process::id()));
    let keep = |path: &Path, bytes: &[u8]| {
        let path = staged.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&staged))?;
        files::write_private(&path, bytes)
    };
    let read = bundle::read(BufReader::new(source), keep);
    let done = match read {
        Ok(_) => Ready::read(context, &staged).and_then(|ready| ready.put(context, given).map(|()| ready)),
        Err(error) => Err(Failure::failed("bundle", format!("{}: {error}", file.display()))),
    };
    let _ = fs::remove_dir_all(&staged);
    apply(context, &done?).await
}
