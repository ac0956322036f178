//! Compiled code, cached by component hash and engine under a MAC.
//!
//! A cached file is a 32-byte keyed BLAKE3 over the component's hash and the code, then the code. Only files that this
//! host wrote pass; anything else is compiled anew. See docs/decisions/0004-unsafe.md.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use anyhow::{Context, bail};
use astrid_capsule::archive::MAX_COMPONENT_BYTES;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::host::Host;
use crate::pool::Concurrency;

const MAC_BYTES: usize = 32;
/// Compiled code is a small multiple of the component.
const MAX_CACHED_BYTES: u64 = 16 * MAX_COMPONENT_BYTES;

/// From the cache, else compiled from `bin/<hash>.wasm`.
pub(super) fn load(host: &Host, hash: &str, concurrency: Concurrency) -> anyhow::Result<Component> {
    let engine = host.pool.engine(concurrency)?;
    if let Some(component) = cached(host, &engine, hash) {
        return Ok(component);
    }
    let path = host.home.bin().join(format!("{hash}.wasm"));
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let wasm = crate::files::read_capped(file, MAX_COMPONENT_BYTES)?;
    if blake3::hash(&wasm).to_hex().as_str() != hash {
        bail!("{} is not what its name says: it was changed after it was installed", path.display());
    }
    compile_anew(host, &engine, hash, &wasm)
}

/// Puts the component where [`load`] finds it, also over a file that is not what its name says.
pub(super) fn keep(host: &Host, hash: &str, wasm: &[u8]) -> anyhow::Result<()> {
    let path = host.home.bin().join(format!("{hash}.wasm"));
    let there = File::open(&path).and_then(|file| crate::files::read_capped(file, MAX_COMPONENT_BYTES));
    if there.is_ok_and(|bytes| bytes == wasm) {
        return Ok(());
    }
    crate::files::write(&path, wasm, 0o600).with_context(|| format!("writing {}", path.display()))
}

/// From the cache, else compiled from `wasm`, and cached. About 1 ms of CPU for each KiB.
pub(super) fn compile(host: &Host, hash: &str, wasm: &[u8], concurrency: Concurrency) -> anyhow::Result<Component> {
    let engine = host.pool.engine(concurrency)?;
    if let Some(component) = cached(host, &engine, hash) {
        return Ok(component);
    }
    compile_anew(host, &engine, hash, wasm)
}

/// Deletes what belongs to no component in `needed`. Returns how many files and bytes that were.
pub(super) fn clean(host: &Host, needed: &[String]) -> anyhow::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for folder in [host.home.bin(), host.home.cache()] {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let ours = name.ends_with(".wasm") || name.ends_with(".cwasm");
            if !ours || needed.iter().any(|hash| name.starts_with(hash.as_str())) {
                continue;
            }
            bytes += entry.metadata().map_or(0, |meta| meta.len());
            std::fs::remove_file(entry.path()).with_context(|| format!("deleting {}", entry.path().display()))?;
            files += 1;
        }
    }
    Ok((files, bytes))
}

fn compile_anew(host: &Host, engine: &Engine, hash: &str, wasm: &[u8]) -> anyhow::Result<Component> {
    let component =
        Component::new(engine, wasm).map_err(anyhow::Error::from).context("the component can't be compiled")?;
    let code = component.serialize().map_err(anyhow::Error::from).context("compiled code can't be kept")?;
    let mut bytes = mac(host, engine, hash, &code).as_bytes().to_vec();
    bytes.extend_from_slice(&code);
    if let Err(error) = crate::files::write(&path(host, engine, hash), &bytes, 0o600) {
        tracing::warn!("compiled code was not cached and will be compiled again: {error}");
    }
    Ok(component)
}

fn path(host: &Host, engine: &Engine, hash: &str) -> PathBuf {
    host.home.cache().join(format!("{hash}-{:016x}.cwasm", engine_key(engine)))
}

/// Changes with everything that makes code of one engine unfit for another.
fn engine_key(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

fn mac(host: &Host, engine: &Engine, hash: &str, code: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(&host.keys.mac_key("compiled-code"));
    hasher.update(hash.as_bytes()).update(&engine_key(engine).to_le_bytes()).update(code);
    hasher.finalize()
}

fn cached(host: &Host, engine: &Engine, hash: &str) -> Option<Component> {
    let path = path(host, engine, hash);
    let bytes = crate::files::read_capped(File::open(&path).ok()?, MAX_CACHED_BYTES).ok()?;
    let (claimed, code) = bytes.split_first_chunk::<MAC_BYTES>()?;
    // `blake3::Hash` compares in constant time.
    if mac(host, engine, hash, code) != blake3::Hash::from_bytes(*claimed) {
        tracing::error!(path = %path.display(), "cached code was not written by this host; compiling anew");
        return None;
    }
    #[allow(unsafe_code, reason = "docs/decisions/0004-unsafe.md")]
    // SAFETY: `deserialize` trusts its input to be code that this engine serialised. The MAC, made with a key that
    // never leaves the host, covers every byte of it, the component's hash and the engine's compatibility hash, and the
    // bytes checked are the bytes in memory that are used.
    let component = unsafe { Component::deserialize(engine, code) };
    component.inspect_err(|error| tracing::warn!("cached code is of no use and compiled anew: {error:#}")).ok()
}
