//! Deleting the oldest entries. Hashes stay, so what is left can be proven, and the log goes on as it was.
//!
//! First it is a fact, durably, and the tail gives up what lies in whole bundles; then the host's own note of it (`pruned`)
//! moves; then files go. After a crash in between, the next time goes on where this one was. Refuses to know how long anything should be kept.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::tiles::{self, Kind, WIDTH};
use super::{Fact, Journal, pruned_path};
use crate::files;
use crate::runtime::Blocking;

/// What the host remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pruned {
    /// Everything before this is deleted.
    deleted: u64,
    /// The first index whose entry is kept.
    pub(super) first: u64,
}

pub(super) fn read(folder: &Path) -> io::Result<Pruned> {
    let bytes = match File::open(pruned_path(folder)) {
        Ok(file) => files::read_capped(file, 64)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Pruned::default()),
        Err(error) => return Err(error),
    };
    let numbers = std::str::from_utf8(&bytes).ok().and_then(|text| text.split_once(' '));
    let pruned = numbers
        .and_then(|(deleted, first)| Some(Pruned { deleted: deleted.parse().ok()?, first: first.parse().ok()? }));
    pruned.ok_or_else(|| io::Error::other("it does not hold two numbers"))
}

fn write(folder: &Path, pruned: Pruned) -> io::Result<()> {
    files::write_private(&pruned_path(folder), format!("{} {}", pruned.deleted, pruned.first).as_bytes())
}

impl Journal {
    /// The first index whose entry is kept.
    pub fn first(&self) -> u64 {
        self.shared.first.load(Ordering::Acquire)
    }

    /// Deletes whole bundles before index `before` that the last checkpoint covers; `wish` is a fact of [`super::verify::PRUNED`] by whoever
    /// wants it. The answer is the first index that is
    /// kept. The error says why nothing, or not everything, was deleted; trying again goes on.
    pub async fn prune(&self, before: u64, wish: Fact, blocking: &Blocking) -> Result<u64, String> {
        let _alone = self.pruning.lock().await;
        let first = (before.min(self.signed()) / WIDTH * WIDTH).max(self.first());
        if first > self.first() {
            self.shared.shorten.store(true, Ordering::Release);
            self.append_durable(Fact { target: Some(first.to_string()), ..wish })
                .await
                .map_err(|error| error.to_string())?;
        }
        let (shared, folder) = (self.shared.clone(), self.tiles.folder().to_owned());
        let deleting = move || {
            let Pruned { deleted, .. } = read(&folder)?;
            if deleted == first {
                return Ok(());
            }
            write(&folder, Pruned { deleted, first })?;
            shared.first.store(first, Ordering::Release);
            delete(&folder, deleted, first)?;
            write(&folder, Pruned { deleted: first, first })
        };
        let outcome: io::Result<()> = blocking.run(deleting).await.map_err(|error| error.to_string())?;
        outcome.map(|()| first).map_err(|error| format!("audit: {error}"))
    }
}

/// The bundles from `from` to before `to`, and summaries of none but those.
fn delete(folder: &Path, from: u64, to: u64) -> io::Result<()> {
    let remove = |path: &Path| match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    for bundle in from / WIDTH..to / WIDTH {
        remove(&folder.join(tiles::path(Kind::Entries, bundle, WIDTH)))?;
        if bundle % WIDTH == WIDTH - 1 {
            remove(&super::summary_place(folder, bundle).0)?;
        }
    }
    Ok(())
}
