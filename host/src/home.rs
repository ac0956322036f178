//! A host's home: the one folder that holds everything a host keeps, and the names of what is in it.
//!
//! Owns how the folder is found (`--home`, `$ASTRID_HOME`, `~/.astrid`) and which folders are safe to trust: real
//! folders of this user that nobody else may write to. Refuses to know what the files hold.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The longest path that a Unix socket can be bound to, in bytes: `sun_path` without its final NUL.
pub const MAX_SOCKET_BYTES: usize = 107;

/// The environment variable that names the home where `--home` does not.
pub const VARIABLE: &str = "ASTRID_HOME";

/// The folders of a home, all made by [`Home::create`].
const FOLDERS: [&str; 9] = ["etc", "etc/trust", "run", "bin", "cache", "keys", "log", "audit", "distro"];

/// A folder that can't be a home, or part of one: which, why, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}; {fix}", .path.display())]
pub struct HomeError {
    /// The folder, file or value that does not fit.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// What would make it acceptable.
    pub fix: String,
}

impl HomeError {
    fn new(path: &Path, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { path: path.to_owned(), problem: problem.into(), fix: fix.into() }
    }
}

/// The home of one host. Always an absolute path; the folder itself need not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

/// Every variable of the process. What is not Unicode is replaced, and refused where a value is read from it.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

impl Home {
    /// `flag` (relative to the current folder), else `$ASTRID_HOME`, else `~/.astrid`. An empty variable counts as
    /// unset. Fails if the result is not absolute or leaves no room for the socket's path; touches no file.
    pub fn resolve(flag: Option<PathBuf>) -> Result<Home, HomeError> {
        Self::choose(flag, std::env::var_os(VARIABLE), std::env::home_dir())
    }

    fn choose(flag: Option<PathBuf>, variable: Option<OsString>, user: Option<PathBuf>) -> Result<Home, HomeError> {
        let path = match (flag, variable.filter(|v| !v.is_empty())) {
            (Some(flag), _) => std::path::absolute(&flag)
                .map_err(|e| HomeError::new(&flag, format!("no absolute path: {e}"), "pass an absolute --home"))?,
            (None, Some(variable)) => PathBuf::from(variable),
            (None, None) => user.unwrap_or_default().join(".astrid"),
        };
        if !path.is_absolute() {
            let problem = format!("not absolute (from ${VARIABLE}, else the user's home folder)");
            return Err(HomeError::new(&path, problem, format!("pass --home, or set ${VARIABLE} to an absolute path")));
        }
        // Without a final slash, which would make the file system follow a symlink.
        let home = Home { root: path.components().collect() };
        fits(&home.socket(), "choose a shorter --home")?;
        Ok(home)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The Unix socket that serves the HTTP surface to this machine's users.
    pub fn socket(&self) -> PathBuf {
        self.root.join("run/astrid.sock")
    }

    /// Held by the one daemon of this home for as long as it lives.
    pub fn lock(&self) -> PathBuf {
        self.root.join("run/astrid.lock")
    }

    /// What a daemon that is ready says of itself.
    pub fn state_file(&self) -> PathBuf {
        self.root.join("run/daemon.json")
    }

    /// The log file.
    pub fn log(&self) -> PathBuf {
        self.root.join("log/astrid.log")
    }

    /// The log of facts.
    pub fn audit(&self) -> PathBuf {
        self.root.join("audit")
    }

    /// The folder of key files.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// The folder of components, each named by its hash.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// The folder of compiled code; may be deleted while no daemon runs.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The folder of the distribution: `Distro.toml` and its capsules.
    pub fn distro(&self) -> PathBuf {
        self.root.join("distro")
    }

    /// Where the distribution in the program's file is unpacked in safe mode.
    pub fn embedded(&self) -> PathBuf {
        self.root.join("run/embedded")
    }

    /// The store's one file.
    pub fn store(&self) -> PathBuf {
        self.root.join("store.redb")
    }

    /// What the operator gives the distribution's variables.
    pub fn variables(&self) -> PathBuf {
        self.root.join("etc/variables.toml")
    }

    /// What the operator writes.
    pub fn etc(&self) -> PathBuf {
        self.root.join("etc")
    }

    /// The operator's configuration.
    pub fn config(&self) -> PathBuf {
        self.root.join("etc/config.toml")
    }

    /// The folder of those who may sign capsules, a file for each.
    pub fn trust(&self) -> PathBuf {
        self.root.join("etc/trust")
    }

    /// Makes the home and its folders, each with mode 0700, and checks those that exist as [`Home::check`] does.
    pub fn create(&self) -> Result<(), HomeError> {
        create_folder(&self.root)?;
        FOLDERS.iter().try_for_each(|name| create_folder(&self.root.join(name)))
    }

    /// Refuses a home if it, or one of its folders, is a symlink or no folder, belongs to another user, or may be
    /// written by others. What does not exist is no fault.
    pub fn check(&self) -> Result<(), HomeError> {
        check_folder(&self.root)?;
        FOLDERS.iter().try_for_each(|name| check_folder(&self.root.join(name)).map(|_| ()))
    }
}

fn fits(socket: &Path, fix: &str) -> Result<(), HomeError> {
    let length = socket.as_os_str().as_bytes().len();
    if length > MAX_SOCKET_BYTES {
        let problem = format!("a path of {length} bytes, and a Unix socket takes {MAX_SOCKET_BYTES}");
        return Err(HomeError::new(socket, problem, fix));
    }
    Ok(())
}

/// Whether a Unix socket outside of a home can have this path. Touches no file.
pub fn check_socket_path(socket: &Path) -> Result<(), HomeError> {
    if !socket.is_absolute() || socket.file_name().is_none() {
        return Err(HomeError::new(socket, "no absolute path of a socket", "write it as /FOLDER/NAME"));
    }
    fits(socket, "choose a shorter path")
}

/// Refuses the folder of a socket outside of a home if others than its owner could put another socket in the place of
/// that one. Returns the owner's uid.
pub fn check_socket_folder(socket: &Path) -> Result<u32, HomeError> {
    check_socket_path(socket)?;
    let folder = socket.parent().unwrap_or(socket);
    let make = "make it, mode 0755 or 2750, as the user who runs the host";
    let meta = fs::symlink_metadata(folder).map_err(|e| HomeError::new(folder, e.to_string(), make))?;
    if !meta.is_dir() {
        return Err(HomeError::new(folder, "not a folder, or a symlink to one", "name the folder itself"));
    }
    if meta.mode() & 0o022 != 0 {
        let problem = format!("others may write to it (mode {:04o})", meta.mode() & 0o7777);
        return Err(HomeError::new(folder, problem, "use a folder that its owner alone may write to"));
    }
    Ok(meta.uid())
}

/// Makes one folder with mode 0700 unless it exists, and checks it.
pub(crate) fn create_folder(path: &Path) -> Result<(), HomeError> {
    if !check_folder(path)? {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(|e| {
            HomeError::new(path, format!("cannot be created: {e}"), "choose a --home where you may write")
        })?;
        check_folder(path)?;
    }
    Ok(())
}

/// Whether the folder exists; an error if it does and can't be trusted.
fn check_folder(path: &Path) -> Result<bool, HomeError> {
    let at = path.display();
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(HomeError::new(path, e.to_string(), "make it readable, or choose another --home")),
    };
    if meta.is_symlink() {
        let fix = match fs::canonicalize(path) {
            Ok(target) => format!("name the folder itself ({}) or put a real one in its place", target.display()),
            Err(_) => "put a real folder in its place".to_owned(),
        };
        return Err(HomeError::new(path, "a symlink, which could be turned elsewhere", fix));
    }
    if !meta.is_dir() {
        return Err(HomeError::new(path, "not a folder", "move it away, or choose another --home"));
    }
    let user = rustix::process::geteuid().as_raw();
    if meta.uid() != user {
        let problem = format!("belongs to user {}, and this program runs as {user}", meta.uid());
        return Err(HomeError::new(path, problem, "run as its owner, or choose another --home"));
    }
    if meta.mode() & 0o022 != 0 {
        let problem = format!("others may write to it (mode {:04o})", meta.mode() & 0o7777);
        return Err(HomeError::new(path, problem, format!("chmod 700 {at}")));
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn home(root: &Path) -> Home {
        Home::resolve(Some(root.to_owned())).unwrap()
    }

    #[test]
    fn the_flag_beats_the_variable_and_the_variable_beats_the_users_home() {
        let choose = |flag: Option<&str>, variable: Option<&str>| {
            Home::choose(flag.map(Into::into), variable.map(Into::into), Some("/home/u".into())).unwrap().root
        };
        assert_eq!(choose(Some("/flag/"), Some("/variable")), Path::new("/flag"));
        assert_eq!(choose(None, Some("/variable")), Path::new("/variable"));
        assert_eq!(choose(None, Some("")), Path::new("/home/u/.astrid"));
        assert_eq!(choose(None, None), Path::new("/home/u/.astrid"));
        assert_eq!(choose(Some("rel"), None), std::env::current_dir().unwrap().join("rel"));
    }

    #[test]
    fn a_home_is_absolute_and_has_room_for_its_socket() {
        let error = Home::choose(None, Some("relative".into()), None).unwrap_err().to_string();
        assert!(error.contains("relative") && error.contains("ASTRID_HOME"), "{error}");
        assert!(Home::choose(None, None, None).is_err());
        let fits = format!("/{}", "h".repeat(MAX_SOCKET_BYTES - 1 - "/run/astrid.sock".len()));
        assert!(Home::choose(Some(fits.clone().into()), None, None).is_ok());
        let error = Home::choose(Some(format!("{fits}h").into()), None, None).unwrap_err().to_string();
        assert!(error.contains("hh/run/astrid.sock") && error.contains("108") && error.contains("107"), "{error}");
    }

    #[test]
    fn create_makes_private_folders_and_is_safe_to_repeat() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir.path().join("new/home"));
        home.check().unwrap();
        home.create().unwrap();
        home.create().unwrap();
        for folder in [home.root().to_owned(), home.keys(), home.bin(), home.cache(), home.distro(), home.trust()] {
            assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o7777, 0o700, "{}", folder.display());
        }
        for file in [home.socket(), home.lock(), home.log(), home.config(), home.state_file(), home.store()] {
            assert!(file.parent().unwrap().is_dir(), "{}", file.display());
        }
    }

    #[test]
    fn a_symlinked_home_or_run_folder_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        fs::create_dir(&real).unwrap();
        let link = dir.path().join("link");
        symlink(&real, &link).unwrap();
        for spelled in [link.clone(), link.join("")] {
            let error = home(&spelled).create().unwrap_err().to_string();
            assert!(error.contains("/link: a symlink") && error.contains("/real"), "{error}");
        }
        symlink(dir.path(), real.join("run")).unwrap();
        let error = home(&real).check().unwrap_err().to_string();
        assert!(error.contains("real/run: a symlink"), "{error}");
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(&dir.path().join("home"));
        home.create().unwrap();
        for (path, mode) in [(home.root().to_owned(), 0o770), (home.root().join("run"), 0o702)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = home.create().unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 700 {}", path.display())), "{error}");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        home.check().unwrap();
    }

    #[test]
    fn the_folder_of_a_socket_outside_of_a_home_is_its_owners_alone_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("shared");
        let socket = folder.join("astrid.sock");
        assert!(check_socket_folder(&socket).unwrap_err().to_string().contains("make it"));
        fs::create_dir(&folder).unwrap();
        for (mode, safe) in [(0o755, true), (0o2750, true), (0o775, false), (0o1777, false)] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
            match check_socket_folder(&socket) {
                Ok(owner) => assert!(safe && owner == rustix::process::geteuid().as_raw(), "{mode:o}"),
                Err(error) => assert!(!safe && error.to_string().contains(&format!("mode {mode:04o}")), "{error}"),
            }
        }
        let link = dir.path().join("link");
        symlink(&folder, &link).unwrap();
        assert!(check_socket_folder(&link.join("astrid.sock")).is_err());
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(home(&file).create().unwrap_err().to_string().contains("not a folder"));
    }

    #[test]
    fn a_home_of_another_user_is_refused() {
        // Whoever runs the tests, one of these two belongs to somebody else or is not theirs to write.
        let user = rustix::process::geteuid().as_raw();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other");
        fs::create_dir(&path).unwrap();
        if user == 0 {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            let error = home(&path).create().unwrap_err().to_string();
            assert!(error.contains("belongs to user 12345"), "{error}");
        } else {
            let error = home(Path::new("/")).create().unwrap_err().to_string();
            assert!(error.contains("belongs to user 0"), "{error}");
        }
    }
}
