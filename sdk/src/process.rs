//! Programs of the system, each in a sandbox of its own. Each needs its `[[process]]` in the manifest and the operator's grant.
//!
//! [`start`] is for the call's principal, [`start_for`] for whoever sent a message. A [`Child`] that is dropped is ended.

pub use crate::bindings::imports::astrid::process::process::{
    Child, Error, Options, Outcome, Output, Piece, start, start_for,
};
use crate::bus::Refusal;

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::Denied(why) => Self::denied(why),
            Error::Invalid(why) => Self::invalid(why),
            Error::Quota(most) => {
                Self::denied(format!("the caller has {most} processes, which is max_background_processes"))
            }
            Error::Busy => Self::unavailable("the host has as many children as it can have"),
            Error::Failed(why) => Self::unavailable(why),
        }
    }
}

/// What a program has said, and how it ended.
#[derive(Debug, Clone)]
pub struct Finished {
    pub output: Vec<u8>,
    pub errors: Vec<u8>,
    pub outcome: Outcome,
}

/// How long a turn waits that has nothing to do, in milliseconds.
const PATIENCE_MS: u32 = 20;
/// The most bytes of one piece.
const PIECE: u32 = 64 << 10;

impl Child {
    /// Writes all of `input`, reads all that it says, and waits for its end, whichever of these it wants first.
    ///
    /// # Errors
    /// `unavailable` if it says more than `most` bytes. It is ended then, once it is dropped.
    pub fn finish(&self, input: &[u8], most: usize) -> Result<Finished, Refusal> {
        let mut input = input;
        let mut said = [(Output::Standard, Some(Vec::new())), (Output::Errors, Some(Vec::new()))];
        let mut done = [Vec::new(), Vec::new()];
        if input.is_empty() {
            self.close_input();
        }
        while said.iter().any(|(_, open)| open.is_some()) {
            let mut idle = true;
            if !input.is_empty() {
                let taken = self.write(input, 0).map_or(input.len(), |taken| taken as usize);
                input = &input[taken..];
                idle = taken == 0;
                if input.is_empty() {
                    self.close_input();
                }
            }
            for (n, (from, open)) in said.iter_mut().enumerate() {
                let Some(bytes) = open else { continue };
                match self.read(*from, PIECE, if idle { PATIENCE_MS } else { 0 }) {
                    Piece::Bytes(more) => {
                        bytes.extend(more);
                        idle = false;
                    }
                    Piece::Nothing => {}
                    Piece::End => done[n] = open.take().unwrap_or_default(),
                }
            }
            let so_far = said.iter().filter_map(|(_, open)| open.as_ref()).chain(&done).map(Vec::len).sum::<usize>();
            if so_far > most {
                return Err(Refusal::unavailable(format!("the program says more than {most} bytes")));
            }
        }
        let [output, errors] = done;
        loop {
            if let Some(outcome) = self.wait(1000) {
                return Ok(Finished { output, errors, outcome });
            }
        }
    }
}
