//! What a program sees of the files: an empty root in memory, with the system's programs and libraries in it, read-only, and
//! a folder of its own.
//!
//! Bounded by [`WORK_BYTES`] and [`WORK_FILES`]. Needs a mount namespace of its own.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use uapi::c;

use super::{Fault, Part};

/// Where programs and their libraries lie. What is missing on this system is missing in the jail.
pub(super) const SYSTEM: [&str; 10] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
];
/// Devices that hold nothing.
pub(super) const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"];
/// The program's own folder, where it begins. Gone with it.
pub(super) const WORK: &str = "/work";
/// What fits into it, in bytes.
const WORK_BYTES: u64 = 64 << 20;
/// Files and folders in it.
const WORK_FILES: u64 = 4096;

/// Where the new root is put together: there on every Linux, and nothing below is needed any more.
const STAGE: &str = "/proc";

/// Makes the new root and moves into it, into the program's own folder.
pub(super) fn enter(program: &Path) -> Result<(), Fault> {
    mount("none", "/", "", c::MS_REC | c::MS_PRIVATE, "").part("keeping mounts to itself")?;
    let flags = c::MS_NOSUID | c::MS_NODEV;
    mount("root", STAGE, "tmpfs", flags, "mode=0755,size=1m,nr_inodes=256").part("the new root")?;
    for path in SYSTEM {
        show(Path::new(path), c::MS_NODEV).part(path)?;
    }
    for device in DEVICES {
        show(Path::new(device), c::MS_NOEXEC).part(device)?;
    }
    if !SYSTEM.iter().any(|system| program.starts_with(system)) {
        show(program, c::MS_NODEV).part("the program's file")?;
    }
    let work = staged(Path::new(WORK));
    fs::create_dir(&work).part(WORK)?;
    let bounds = format!("mode=0700,size={WORK_BYTES},nr_inodes={WORK_FILES}");
    let flags = c::MS_NOSUID | c::MS_NODEV | c::MS_NOEXEC;
    mount("work", text(&work).part(WORK)?, "tmpfs", flags, &bounds).part(WORK)?;
    leave().part("leaving the old root")?;
    let flags = c::MS_REMOUNT | c::MS_RDONLY | c::MS_NOSUID | c::MS_NODEV;
    mount("root", "/", "tmpfs", flags, "").part("making the new root read-only")?;
    std::env::set_current_dir(WORK).part(WORK)
}

/// The new root becomes the root, and the old one is gone with everything that was mounted there.
fn leave() -> io::Result<()> {
    std::env::set_current_dir(STAGE)?;
    // Both at one place: the old root lies over the new one, until it is taken off.
    uapi::pivot_root(".", ".")?;
    uapi::umount2(".", c::MNT_DETACH)?;
    std::env::set_current_dir("/")
}

fn staged(path: &Path) -> PathBuf {
    Path::new(STAGE).join(path.strip_prefix("/").unwrap_or(path))
}

/// Shows a file, a folder or a symbolic link at its own place in the new root, read-only. Nothing if there is none.
fn show(path: &Path, flags: c::c_ulong) -> io::Result<()> {
    let Ok(about) = fs::symlink_metadata(path) else { return Ok(()) };
    let place = staged(path);
    if let Some(folder) = place.parent() {
        fs::create_dir_all(folder)?;
    }
    if about.is_symlink() {
        return symlink(fs::read_link(path)?, place);
    }
    if about.is_dir() {
        fs::create_dir(&place)?;
    } else {
        fs::File::create_new(&place)?;
    }
    let place = text(&place)?;
    mount(text(path)?, place, "", c::MS_BIND | c::MS_REC, "")?;
    // What the host has forbidden on that mount can't be allowed again, and must be said again.
    let kept = rustix::fs::statvfs(place)?.f_flag;
    let kept = [
        (StatVfsMountFlags::NODEV, c::MS_NODEV),
        (StatVfsMountFlags::NOEXEC, c::MS_NOEXEC),
        (StatVfsMountFlags::NOATIME, c::MS_NOATIME),
        (StatVfsMountFlags::NODIRATIME, c::MS_NODIRATIME),
        (StatVfsMountFlags::RELATIME, c::MS_RELATIME),
    ]
    .into_iter()
    .filter(|(flag, _)| kept.contains(*flag))
    .fold(flags, |flags, (_, flag)| flags | flag);
    let read_only = c::MS_BIND | c::MS_REMOUNT | c::MS_RDONLY | c::MS_NOSUID;
    mount("none", place, "", read_only | kept, "")
}

/// `options` without a zero byte: they are ours.
fn mount(what: &str, place: &str, kind: &str, flags: c::c_ulong, options: &str) -> io::Result<()> {
    let options: Vec<_> = options.bytes().chain([0]).map(MaybeUninit::new).collect();
    uapi::mount(what, place, kind, flags, Some(&options)).map_err(io::Error::from)
}

fn text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::other("a path that is not UTF-8"))
}
