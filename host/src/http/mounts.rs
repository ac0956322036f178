//! Which mount serves a path: the longest prefix of whole segments. What there may be of requests below it.

use std::sync::{Arc, RwLock};
use std::time::Duration;

use astrid_capsule::manifest::Http;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Mounted;

/// A prefix, what serves it, and how much of that there may be.
pub struct Mount<M: ?Sized = dyn Mounted> {
    pub prefix: Arc<str>,
    pub served: Arc<M>,
    pub room: Arc<Room>,
}

impl<M: ?Sized> Clone for Mount<M> {
    fn clone(&self) -> Self {
        Self { prefix: self.prefix.clone(), served: self.served.clone(), room: self.room.clone() }
    }
}

/// What requests below one mount may be. A new version of a capsule has a new one: requests to the version before don't count
/// against it.
pub struct Room {
    /// The largest body.
    pub max_body_bytes: u64,
    /// Time for a body; never more than what the operator allows.
    pub body_time: Option<Duration>,
    /// Time for an answer, from when the body is there; never more than for any call of the capsule.
    pub answer_time: Option<Duration>,
    places: Option<Arc<Semaphore>>,
}

/// A request's place below its mount, given up when it is dropped.
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Of one of a manifest's mounts.
    pub fn of(http: &Http, mount: &str) -> Arc<Self> {
        let times = (http.body_time(mount), http.answer_time(mount));
        Arc::new(Self::new(http.body_bytes(mount), http.concurrent(mount), times))
    }

    /// `max_concurrent`: how many requests at once; none for as many as come.
    fn new(max_body_bytes: u64, max_concurrent: Option<u32>, times: (Option<Duration>, Option<Duration>)) -> Self {
        let places = max_concurrent.map(|most| Arc::new(Semaphore::new(most as usize)));
        Self { max_body_bytes, body_time: times.0, answer_time: times.1, places }
    }

    /// None: as many are there as may be.
    pub fn enter(&self) -> Option<Place> {
        let permit = self.places.clone().map(Semaphore::try_acquire_owned).transpose();
        permit.ok().map(|permit| Place { _permit: permit })
    }
}

/// Mounts, longest first.
type Table<M> = Vec<Mount<M>>;

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
    pub fn set(&self, mut mounts: Table<M>) {
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.prefix.len()));
        *self.table.write().expect("no panic under this lock") = Arc::new(mounts);
    }

    pub fn find(&self, path: &str) -> Option<Mount<M>> {
        let table = self.table.read().expect("no panic under this lock").clone();
        table.iter().find(|mount| covers(&mount.prefix, path)).cloned()
    }
}

/// Whether a path lies at or below a prefix.
pub(super) fn covers(prefix: &str, path: &str) -> bool {
    prefix == "/" || path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(prefix: &str) -> Mount<str> {
        Mount { prefix: prefix.into(), served: Arc::from(prefix), room: Room::new(1, None, (None, None)).into() }
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let mounts = Mounts::<str>::default();
        mounts.set(["/", "/api", "/api/v2"].map(mount).to_vec());
        for (path, want) in [
            ("/api", "/api"),
            ("/api/x", "/api"),
            ("/apix", "/"),
            ("/api/v2/y", "/api/v2"),
            ("/api/v20", "/api"),
            ("/", "/"),
        ] {
            assert_eq!(&*mounts.find(path).unwrap().served, want, "{path}");
        }
        mounts.set(vec![mount("/api")]);
        assert!(mounts.find("/other").is_none());
    }

    #[test]
    fn a_place_is_free_again_when_its_request_is_over_and_without_a_bound_there_always_is_one() {
        let room = Room::new(1, Some(2), (None, None));
        let (first, second) = (room.enter(), room.enter());
        assert!(first.is_some() && second.is_some() && room.enter().is_none());
        drop(first);
        assert!(room.enter().is_some());
        let free = Room::new(1, None, (None, None));
        let all: Vec<_> = (0..1000).map(|_| free.enter()).collect();
        assert!(all.iter().all(Option::is_some));
    }
}
