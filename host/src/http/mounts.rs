//! Which mount serves a path: the longest prefix of whole segments.

use std::sync::{Arc, RwLock};

use super::Mounted;

/// Prefixes and what serves them, longest first.
type Table<M> = Vec<(Arc<str>, Arc<M>)>;

pub struct Mounts<M: ?Sized = dyn Mounted> {
    table: RwLock<Arc<Table<M>>>,
}

impl<M: ?Sized> Default for Mounts<M> {
    fn default() -> Self {
        Self { table: RwLock::new(Arc::new(Vec::new())) }
    }
}

impl<M: ?Sized> Mounts<M> {
    /// Replaces all mounts at once; requests that run go on where they are.
    pub fn set(&self, mut mounts: Vec<(String, Arc<M>)>) {
        mounts.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        let longest_first = mounts.into_iter().map(|(prefix, mount)| (prefix.into(), mount)).collect();
        *self.table.write().expect("no panic under this lock") = Arc::new(longest_first);
    }

    /// The prefix, and what serves it.
    pub fn find(&self, path: &str) -> Option<(Arc<str>, Arc<M>)> {
        let table = self.table.read().expect("no panic under this lock").clone();
        table.iter().find(|(prefix, _)| covers(prefix, path)).cloned()
    }
}

/// Whether a path lies at or below a prefix.
pub(super) fn covers(prefix: &str, path: &str) -> bool {
    prefix == "/" || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let mounts = Mounts::<str>::default();
        let table = ["/", "/api", "/api/v2"].map(|p| (p.to_owned(), Arc::from(p)));
        mounts.set(table.to_vec());
        for (path, want) in [
            ("/api", "/api"),
            ("/api/x", "/api"),
            ("/apix", "/"),
            ("/api/v2/y", "/api/v2"),
            ("/api/v20", "/api"),
            ("/", "/"),
        ] {
            let (prefix, served) = mounts.find(path).unwrap();
            assert_eq!((&*prefix, &*served), (want, want), "{path}");
        }
        mounts.set(vec![("/api".into(), Arc::from("/api"))]);
        assert!(mounts.find("/other").is_none());
    }
}
