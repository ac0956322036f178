//! Numbered events through open streams: which were lost, and which came twice.

use std::io::Read;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use serde_json::{Value, json};

use crate::daemon::{self, Server};
use crate::relay;

const STREAMS: usize = 100;
/// Between two events.
const EVERY: Duration = Duration::from_millis(20);
const TOPIC: &str = "/api/bus/publish/live.v1.said";
/// What ends a stream's count.
const END: &str = "end";

/// What all streams together were not given, or were given again.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
}

pub(crate) struct Events {
    over: Arc<AtomicBool>,
    broken: Arc<AtomicBool>,
    publisher: JoinHandle<anyhow::Result<u64>>,
    readers: Vec<JoinHandle<anyhow::Result<Told>>>,
}

impl Events {
    /// Opens a hundred streams of the capsule `live` and publishes for them.
    pub(crate) fn start(server: &Server) -> anyhow::Result<Self> {
        let read = |stream| thread::spawn(move || read(stream));
        let readers = relay::open(server, STREAMS)?.into_iter().map(read).collect();
        let (over, broken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (requests, address) = (server.requests(), server.address());
        let (ended, may_fail) = (over.clone(), broken.clone());
        let publisher = thread::spawn(move || {
            let mut stream = TcpStream::connect(address)?;
            let mut publish =
                |event: Value| daemon::exchange(&mut stream, &requests.post(TOPIC, &event)).map(|(status, _)| status);
            let mut number = 0;
            while !ended.load(Ordering::Relaxed) {
                match publish(json!(number))? {
                    202 => number += 1,
                    _ if may_fail.load(Ordering::Relaxed) => {}
                    status => bail!("a publication was answered {status}"),
                }
                thread::sleep(EVERY);
            }
            let status = publish(json!(END))?;
            ensure!(status == 202, "the last publication was answered {status}");
            Ok(number)
        });
        Ok(Self { over, broken, publisher, readers })
    }

    /// From now on a publication may fail, and is made again. One that has reached somebody nevertheless is told as doubled.
    pub(crate) fn may_fail(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// How many events were published, and what became of them.
    pub(crate) fn end(self) -> anyhow::Result<(u64, Told)> {
        self.over.store(true, Ordering::Relaxed);
        let published = self.publisher.join().map_err(|_| anyhow!("the publisher died"))??;
        let mut all = Told::default();
        for reader in self.readers {
            let Told { lost, doubled } = reader.join().map_err(|_| anyhow!("a reader died"))??;
            all.lost += lost;
            all.doubled += doubled;
        }
        Ok((published, all))
    }
}

/// Follows the numbers, which begin with 0, to their end.
fn read(mut stream: TcpStream) -> anyhow::Result<Told> {
    let (mut kept, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    let (mut next, mut told) = (0, Told::default());
    loop {
        let read = stream.read(&mut buffer).context("reading a stream")?;
        ensure!(read > 0, "a stream ended");
        kept.extend_from_slice(&buffer[..read]);
        while let Some((event, rest)) = cut(&kept)? {
            kept.drain(..rest);
            let Value::Number(number) = event else { return Ok(told) };
            let number = number.as_u64().context("an event that nobody published")?;
            told.lost += number.saturating_sub(next);
            told.doubled += u64::from(number < next);
            next = next.max(number + 1);
        }
    }
}

/// The first whole event and how much there is up to its end. A stream's chunks hold whole events, so that what frames them
/// lies between.
fn cut(bytes: &[u8]) -> anyhow::Result<Option<(Value, usize)>> {
    const DATA: &[u8] = b"data: ";
    let Some(at) = bytes.windows(DATA.len()).position(|window| window == DATA) else { return Ok(None) };
    let data = &bytes[at + DATA.len()..];
    let Some(length) = data.windows(2).position(|window| window == b"\n\n") else { return Ok(None) };
    let event = serde_json::from_slice(&data[..length]).context("an event that is no JSON")?;
    Ok(Some((event, at + DATA.len() + length + 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_cut_out_of_its_frame_once_it_is_whole() {
        let bytes = b"1a\r\nevent: message\nid: x\ndata: 7\n\n\r\n1b\r\nevent: message\ndata: \"en";
        let (event, rest) = cut(bytes).unwrap().unwrap();
        assert_eq!(event, json!(7));
        assert!(cut(&bytes[rest..]).unwrap().is_none());
        assert!(cut(b"data: bob 3\n\n").is_err());
    }
}
