//! The file: making it, opening it, and saying what is wrong with one that cannot be opened.
//!
//! A new file is made under another name and gets its own once it is complete, so that a host killed meanwhile leaves
//! nothing that the next start would take for damage.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, StorageBackend, StorageError, TableDefinition};

/// Keys to versions and values; see [`super::VERSION_BYTES`].
pub(super) const ENTRIES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("entries");
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// In [`META`]: the version of the latest commit.
pub(super) const VERSION: &str = "version";
/// In [`META`]: the format of the file.
pub(super) const FORMAT: &str = "format";
/// The one format there is.
pub(super) const CURRENT_FORMAT: u64 = 1;

/// Why a store could not be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} is open in another process; stop that one, or use another file", .path.display())]
    Locked { path: PathBuf },
    #[error(
        "{} is not a store of this program ({reason}); move it away to begin with an empty store, or use another file",
        .path.display()
    )]
    Foreign { path: PathBuf, reason: String },
    #[error(
        "{} has format {found}, and this program knows {CURRENT_FORMAT} at most; start the version that wrote it, or a later one",
        .path.display()
    )]
    Newer { path: PathBuf, found: u64 },
    #[error(
        "{} is damaged ({reason}); put a backup in its place, or move it away to begin with an empty store",
        .path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("{}: {source}; check the disk, the folder and its permissions", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// An open file and the version of its latest commit.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) version: u64,
}

/// Where the file is and how much memory its pages may take.
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) cache_bytes: u64,
}

impl Place {
    pub(super) fn open_or_create<B: StorageBackend>(
        &self,
        wrap: &impl Fn(FileBackend) -> B,
    ) -> Result<Opened, OpenError> {
        match self.path.try_exists() {
            Ok(true) => self.open(wrap),
            Ok(false) => self.create(wrap),
            Err(source) => Err(self.io(source)),
        }
    }

    /// Opens a file that exists. Never makes one: after a failure a missing file is no empty store.
    pub(super) fn open<B: StorageBackend>(&self, wrap: &impl Fn(FileBackend) -> B) -> Result<Opened, OpenError> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path).map_err(|e| self.io(e))?;
        let metadata = file.metadata().map_err(|e| self.io(e))?;
        if !metadata.is_file() {
            return Err(self.foreign("it is not a plain file"));
        }
        if metadata.len() == 0 {
            return Err(self.foreign("it is empty"));
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            tracing::warn!(path = %self.path.display(), "others could read the store; it is now its owner's alone");
            file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(|e| self.io(e))?;
        }
        let database = self.database(file, wrap)?;
        let version = self.version(&database)?;
        Ok(Opened { database, version })
    }

    fn create<B: StorageBackend>(&self, wrap: &impl Fn(FileBackend) -> B) -> Result<Opened, OpenError> {
        let mut unfinished = self.path.clone().into_os_string();
        unfinished.push(".new");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&unfinished);
        let file = file.map_err(|e| self.io(e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked { path: self.path.clone() }),
            Err(TryLockError::Error(source)) => return Err(self.io(source)),
        }
        // Another process may have finished it since; it held this lock until then.
        if self.path.try_exists().map_err(|e| self.io(e))? {
            drop(file);
            return self.open(wrap);
        }
        file.set_len(0).map_err(|e| self.io(e))?;
        let database = self.database(file, wrap)?;
        initialise(&database).map_err(|e| self.damaged(e.to_string()))?;
        fs::rename(&unfinished, &self.path).map_err(|e| self.io(e))?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| self.io(e))?;
        Ok(Opened { database, version: 0 })
    }

    fn database<B: StorageBackend>(&self, file: File, wrap: &impl Fn(FileBackend) -> B) -> Result<Database, OpenError> {
        let (path, once) = (self.path.clone(), Once::new());
        let mut builder = Database::builder();
        builder.set_cache_size(usize::try_from(self.cache_bytes).unwrap_or(usize::MAX));
        builder.set_repair_callback(move |_| {
            let path = path.display();
            once.call_once(|| tracing::warn!(%path, "the store was not closed properly; checking all of it"));
        });
        // redb may panic on a file that was altered behind its back.
        let opened = catch_unwind(AssertUnwindSafe(|| builder.create_with_backend(wrap(FileBackend::new(file)?))));
        opened.map_err(|_| self.damaged("its structure makes no sense"))?.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                OpenError::Locked { path: self.path.clone() }
            }
            DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
                io::ErrorKind::InvalidData => self.foreign(error.to_string()),
                io::ErrorKind::UnexpectedEof => self.damaged("it ends early"),
                _ => self.io(error),
            },
            DatabaseError::UpgradeRequired(_) => self.foreign(error.to_string()),
            other => self.damaged(other.to_string()),
        })
    }

    /// Checks the format.
    fn version(&self, database: &Database) -> Result<u64, OpenError> {
        let meta = || -> Result<(Option<u64>, Option<u64>), redb::Error> {
            let meta = database.begin_read()?.open_table(META)?;
            let number = |key| Ok::<_, redb::Error>(meta.get(key)?.map(|value| value.value()));
            Ok((number(FORMAT)?, number(VERSION)?))
        };
        match meta() {
            Ok((Some(CURRENT_FORMAT), Some(version))) => Ok(version),
            Ok((Some(found), _)) if found > CURRENT_FORMAT => Err(OpenError::Newer { path: self.path.clone(), found }),
            Ok(_) => Err(self.foreign("it does not say which format it has")),
            Err(
                error @ (redb::Error::TableDoesNotExist(_)
                | redb::Error::TableTypeMismatch { .. }
                | redb::Error::TableIsMultimap(_)),
            ) => Err(self.foreign(error.to_string())),
            Err(redb::Error::Io(source)) => Err(self.io(source)),
            Err(other) => Err(self.damaged(other.to_string())),
        }
    }

    fn io(&self, source: io::Error) -> OpenError {
        OpenError::Io { path: self.path.clone(), source }
    }

    fn foreign(&self, reason: impl Into<String>) -> OpenError {
        OpenError::Foreign { path: self.path.clone(), reason: reason.into() }
    }

    fn damaged(&self, reason: impl Into<String>) -> OpenError {
        OpenError::Damaged { path: self.path.clone(), reason: reason.into() }
    }
}

fn initialise(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(ENTRIES)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(FORMAT, CURRENT_FORMAT)?;
        meta.insert(VERSION, 0)?;
    }
    Ok(transaction.commit()?)
}
