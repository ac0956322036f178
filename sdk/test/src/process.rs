//! `astrid:process`: programs of the paths that the test gives, which say what it gives and end when their input does.

use std::collections::BTreeMap;

use wasmtime::Result as Wasm;
use wasmtime::component::Resource;

use crate::bindings::astrid::process::process::{self, Error, Options, Outcome, Output, Piece};
use crate::engine::State;
use crate::stream::Caller;

/// The most bytes of one piece, as the host has it.
const MAX_PIECE: usize = 64 << 10;

/// What a program says, and how it ends.
#[derive(Debug, Clone, Default)]
pub struct FakeProgram {
    pub output: Vec<u8>,
    pub errors: Vec<u8>,
    pub code: u8,
}

/// A program that was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Started {
    pub program: String,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// What was written to it so far.
    pub input: Vec<u8>,
}

/// What may be started, and what was. The fields are the test's to set and to read.
#[derive(Debug, Default)]
pub struct FakeProcesses {
    /// Only those that stand here can be started, and only if the manifest names them.
    pub programs: BTreeMap<String, FakeProgram>,
    pub started: Vec<Started>,
}

#[allow(unreachable_pub, reason = "the generated bindings name it")]
pub struct Child {
    /// Among those that were started.
    place: usize,
    program: FakeProgram,
    open: bool,
    stopped: bool,
}

impl State {
    fn begin(&mut self, program: String, options: Options) -> Wasm<Result<Resource<Child>, Error>> {
        if !self.manifest.process.iter().any(|named| named.program == program) {
            return Ok(Err(Error::Denied(format!("the manifest has no [[process]] with the program {program}"))));
        }
        let processes = &mut self.fakes.processes;
        let Some(known) = processes.programs.get(&program).cloned() else {
            return Ok(Err(Error::Failed(format!("{program}: the test has no such program"))));
        };
        let place = processes.started.len();
        processes.started.push(Started { program, args: options.args, env: options.env, input: Vec::new() });
        Ok(Ok(self.table.push(Child { place, program: known, open: true, stopped: false })?))
    }
}

impl process::Host for State {
    fn start(&mut self, program: String, options: Options) -> Wasm<Result<Resource<Child>, Error>> {
        self.begin(program, options)
    }

    fn start_for(
        &mut self,
        caller: Resource<Caller>,
        program: String,
        options: Options,
    ) -> Wasm<Result<Resource<Child>, Error>> {
        self.table.get(&caller)?;
        self.begin(program, options)
    }
}

impl process::HostChild for State {
    fn id(&mut self, child: Resource<Child>) -> Wasm<String> {
        Ok(format!("{:016x}", self.table.get(&child)?.place))
    }

    fn write(&mut self, child: Resource<Child>, bytes: Vec<u8>, _timeout_ms: u32) -> Wasm<Option<u32>> {
        let child = self.table.get(&child)?;
        if !child.open || child.stopped {
            return Ok(None);
        }
        let taken = &bytes[..bytes.len().min(MAX_PIECE)];
        self.fakes.processes.started[child.place].input.extend(taken);
        Ok(Some(taken.len() as u32))
    }

    fn close_input(&mut self, child: Resource<Child>) -> Wasm<()> {
        self.table.get_mut(&child)?.open = false;
        Ok(())
    }

    fn read(&mut self, child: Resource<Child>, from: Output, most: u32, _timeout_ms: u32) -> Wasm<Piece> {
        let child = self.table.get_mut(&child)?;
        let left = match from {
            Output::Standard => &mut child.program.output,
            Output::Errors => &mut child.program.errors,
        };
        let rest = left.split_off(left.len().min((most as usize).clamp(1, MAX_PIECE)));
        let piece = std::mem::replace(left, rest);
        Ok(match (piece.is_empty(), child.open && !child.stopped) {
            (false, _) => Piece::Bytes(piece),
            (true, true) => Piece::Nothing,
            (true, false) => Piece::End,
        })
    }

    fn wait(&mut self, child: Resource<Child>, _timeout_ms: u32) -> Wasm<Option<Outcome>> {
        let child = self.table.get(&child)?;
        Ok(match (child.stopped, child.open) {
            (true, _) => Some(Outcome::Stopped),
            (false, false) => Some(Outcome::Exited(child.program.code)),
            (false, true) => None,
        })
    }

    fn stop(&mut self, child: Resource<Child>) -> Wasm<()> {
        self.table.get_mut(&child)?.stopped = true;
        Ok(())
    }

    fn drop(&mut self, child: Resource<Child>) -> Wasm<()> {
        self.table.delete(child)?;
        Ok(())
    }
}
