//! What comes piece by piece: answers while the handler still works, and messages as they are published.

use std::marker::PhantomData;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Caller, Event, Failure, Options, decode, encode, raw};

/// Asks the handler of `topic` and reads its answer piece by piece, each of them JSON.
///
/// It begins at once; a request that fails does so at the first piece. Fails here only if the payload can't be written as
/// JSON.
///
/// ```
/// use astrid_sdk::prelude::*;
///
/// fn sum(_: Message) -> Answer {
///     let mut sum = 0;
///     for number in bus::request_stream::<_, u64>("numbers.v1.count", &10)? {
///         sum += number?;
///     }
///     json(&sum)
/// }
/// ```
pub fn request_stream<T, R>(topic: &str, payload: &T) -> Result<Pieces<R>, Failure>
where
    T: Serialize + ?Sized,
    R: DeserializeOwned,
{
    request_stream_with(topic, payload, &Options::default())
}

/// As [`request_stream`], about a target or with a shorter deadline.
pub fn request_stream_with<T, R>(topic: &str, payload: &T, options: &Options) -> Result<Pieces<R>, Failure>
where
    T: Serialize + ?Sized,
    R: DeserializeOwned,
{
    let pieces = request_stream_raw(topic, &encode(payload)?, options);
    Ok(Pieces { pieces, topic: topic.into(), of: PhantomData })
}

/// As [`request_stream_with`], with bytes.
pub fn request_stream_raw(topic: &str, payload: &[u8], options: &Options) -> RawPieces {
    raw::request_stream(topic, payload, options).into()
}

/// Hands a piece of the answer to whoever asked, if the message says `streams`.
///
/// Waits while 256 KiB or 1024 pieces of what came before are unread, and while the principal is over its rate of messages.
/// What the handler returns is the last piece, if it is not empty, and the end.
///
/// `Closed`: the sender reads no more, or never did. `TooLarge`: a piece has more than a message may hold.
pub fn send_piece(piece: &[u8]) -> Result<(), Failure> {
    raw::send_piece(piece)
}

/// As [`send_piece`], of JSON.
///
/// ```
/// use astrid_sdk::prelude::*;
///
/// fn count(message: Message) -> Answer {
///     for number in 0..message.json::<u64>()? {
///         bus::send_piece_json(&number)?;
///     }
///     Ok(Vec::new())
/// }
///
/// handlers! { "count" => count }
/// # fn main() {}
/// ```
pub fn send_piece_json<T: Serialize + ?Sized>(piece: &T) -> Result<(), Failure> {
    raw::send_piece(&encode(piece)?)
}

/// An answer that is on its way, piece by piece. Nothing comes after the end or a failure, which comes after every piece
/// that was sent. Dropping it ends the handler's call at once.
#[derive(Debug)]
pub struct RawPieces {
    answer: raw::Answer,
    ended: bool,
}

impl From<raw::Answer> for RawPieces {
    fn from(answer: raw::Answer) -> Self {
        Self { answer, ended: false }
    }
}

impl Iterator for RawPieces {
    type Item = Result<Vec<u8>, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.answer.next().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// As [`RawPieces`], each of them read as JSON. One that is no `R` is `Failure::Refused` with the code `internal`, and the
/// end.
#[derive(Debug)]
pub struct Pieces<R> {
    pieces: RawPieces,
    topic: String,
    of: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> Iterator for Pieces<R> {
    type Item = Result<R, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.pieces.next()?.and_then(|piece| decode(&self.topic, &piece));
        self.pieces.ended |= piece.is_err();
        Some(piece)
    }
}

/// Messages as they are published, in the order in which each principal sent them, until this is dropped.
///
/// The topics stand in the manifest: each is that of a `[[subscribe]]` with `delivery`, which says what becomes of messages
/// that are not taken as fast as they come. In a call it gets messages of the call's principal and nobody else's.
///
/// ```
/// use std::time::Duration;
///
/// use astrid_sdk::bus::{Event, Subscription};
/// use astrid_sdk::prelude::*;
///
/// fn watch(message: Message) -> Answer {
///     let changes = Subscription::open(&["notes.v1.changed"])?;
///     let mut seen = Vec::new();
///     while let Some(event) = changes.next(Duration::from_secs(1))? {
///         match event {
///             Event::Message(received) => seen.push(received.message.json::<u64>()?),
///             Event::Gap(gap) => log::warn!("{} of {} are missing", gap.lost, gap.principal),
///         }
///     }
///     json(&seen)
/// }
/// ```
#[derive(Debug)]
pub struct Subscription(raw::Subscription);

impl Subscription {
    /// The most topics of one subscription.
    pub const MAX_TOPICS: usize = 16;

    /// Opens one to 1 to 16 topics of the same `delivery`. What is published after this returns arrives.
    ///
    /// `Invalid`: too many topics, none, one twice, or of several deliveries. `Denied`: the manifest does not have one of them, or
    /// the principal may not reach it. `Overloaded`: the principal has 4096 open.
    pub fn open(topics: &[&str]) -> Result<Self, Failure> {
        let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
        raw::Subscription::open(&topics).map(Self)
    }

    /// The next event; none if nothing arrives within `patience`, counted in milliseconds. `Closed` when it has ended and
    /// everything that waited was taken.
    pub fn next(&self, patience: Duration) -> Result<Option<Event>, Failure> {
        let millis = patience.as_nanos().div_ceil(1_000_000);
        self.0.next(u32::try_from(millis).unwrap_or(u32::MAX))
    }

    /// Every event, however long it takes, until the subscription ends.
    ///
    /// ```
    /// # use astrid_sdk::bus::{Event, Failure, Subscription};
    /// # fn follow(changes: &Subscription) -> Result<(), Failure> {
    /// for event in changes.events() {
    ///     if let Event::Message(received) = event {
    ///         received.caller.publish_json("notes.v1.seen", &received.message.id)?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn events(&self) -> impl Iterator<Item = Event> {
        std::iter::from_fn(|| {
            loop {
                match self.0.next(u32::MAX) {
                    Ok(Some(event)) => return Some(event),
                    Ok(None) => {}
                    Err(_) => return None,
                }
            }
        })
    }
}

impl From<raw::Subscription> for Subscription {
    fn from(subscription: raw::Subscription) -> Self {
        Self(subscription)
    }
}

impl Caller {
    /// As [`super::request_with`], on behalf of whoever sent the message.
    pub fn request_json<T, R>(&self, topic: &str, payload: &T, options: &Options) -> Result<R, Failure>
    where
        T: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        decode(topic, &self.request(topic, &encode(payload)?, options)?)
    }

    /// As [`super::publish`], on behalf of whoever sent the message.
    pub fn publish_json<T: Serialize + ?Sized>(&self, topic: &str, payload: &T) -> Result<u32, Failure> {
        self.publish(topic, &encode(payload)?, None)
    }
}
