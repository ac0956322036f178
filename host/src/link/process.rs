//! `astrid:process`.

use std::time::Duration;

use astrid_capsule::manifest::{Process, grant};
use tokio::time::Instant;
use wasmtime::component::Resource;

use super::bindings::handler::astrid::process::process;
use super::bus::CallerOfCall;
use super::{Call, OfCall};
use crate::bus::Sender;
use crate::journal::{Decision, Fact, Outcome};
use crate::process::{Child, End, Error, Piece, Stream, Wish};

/// What handles of children stand for.
pub type ChildOfCall = OfCall<Child>;

impl From<Error> for process::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(why) => Self::Invalid(why),
            Error::Quota(most) => Self::Quota(u32::try_from(most).unwrap_or(u32::MAX)),
            Error::Busy => Self::Busy,
            Error::Failed(why) => Self::Failed(why),
        }
    }
}

impl From<End> for process::Outcome {
    fn from(end: End) -> Self {
        match end {
            End::Exited(code) => Self::Exited(code),
            End::Killed(signal) => Self::Killed(signal),
            End::TimedOut => Self::TimedOut,
            End::Stopped | End::Dropped | End::Shutdown | End::Lost => Self::Stopped,
        }
    }
}

impl Call {
    /// Why the capsule may not start it for this principal.
    fn may_start(&self, sender: &Sender, program: &str) -> Result<(), String> {
        let named = self.generation.manifest.process.iter().find(|named| named.program == program);
        let Some(named) = named else {
            let (id, program) = (&self.generation.id, crate::log::clean(program));
            return Err(format!("the manifest of `{id}` has no [[process]] with the program {program}"));
        };
        let granted = named.grant().is_some_and(|grant| self.generation.granted(grant.as_str()));
        if !granted {
            let needed = named.grant().map_or_else(|| grant::START.to_owned(), |grant| grant.to_string());
            return Err(format!("the grant {needed} is needed"));
        }
        if sender.principal.is_anonymous() {
            return Err("nobody is known for whom it would run".to_owned());
        }
        Ok(())
    }

    /// That a child is to be there, and that it is gone. Neither says yet how that went.
    fn facts_of_child(&self, sender: &Sender, program: &str, args: &[String]) -> (Fact, Fact) {
        let fact = |action: &str| Fact {
            target: Some(crate::log::clean(program)),
            // What stands between arguments is in none of them.
            payload: Some(self.host.journal.digest(args.join("\0").as_bytes())),
            ..self.fact_of(sender, action)
        };
        let requires = Process { program: program.to_owned() }.grant().map(|grant| grant.to_string());
        (Fact { requires, decision: Some(Decision::Allowed), ..fact("process.start") }, fact("process.end"))
    }

    async fn begin_child(
        &mut self,
        sender: Sender,
        program: String,
        options: process::Options,
    ) -> wasmtime::Result<Result<Resource<ChildOfCall>, process::Error>> {
        if sender.rehearsal {
            return Ok(Err(process::Error::Failed("this is a rehearsal: nothing is started".to_owned())));
        }
        let (begins, ends) = self.facts_of_child(&sender, &program, &options.args);
        if let Err(why) = self.may_start(&sender, &program) {
            let (decision, outcome) = (Some(Decision::Denied), Outcome::Refused);
            self.record(Fact { decision, outcome, reason: Some(why.clone()), ..begins });
            return Ok(Err(process::Error::Denied(why)));
        }
        let journal = self.host.journal.clone();
        let ended = move |end: End, after: Duration| {
            let outcome = if end == End::Exited(0) { Outcome::Ok } else { Outcome::Failed };
            let duration = u64::try_from(after.as_nanos()).ok();
            let reason = Some(end.to_string());
            journal.append(Fact { time: journal.fact("process.end").time, outcome, duration, reason, ..ends });
        };
        let wish = Wish {
            principal: sender.principal.clone(),
            capsule: self.generation.id.clone(),
            program,
            args: options.args,
            env: options.env,
            life: Duration::from_millis(options.timeout_ms.into()),
        };
        let (host, waited) = (self.host.clone(), self.turn.waited.clone());
        let quota = host.meter.children(&sender.principal);
        let started = waited.around(host.processes.start(wish, quota, ended)).await;
        let outcome = match &started {
            Ok(_) => Outcome::Ok,
            Err(Error::Failed(_)) => Outcome::Failed,
            Err(_) => Outcome::Refused,
        };
        let detail = started.as_ref().ok().map(|child| format!("child {}", child.id()));
        let reason = started.as_ref().err().map(ToString::to_string);
        self.record(Fact { outcome, detail, reason, ..begins });
        match started {
            Ok(child) => Ok(Ok(self.push_of_call(child)?)),
            Err(error) => Ok(Err(error.into())),
        }
    }

    /// In so many milliseconds, and no later than the call ends.
    fn latest(&self, timeout_ms: u32) -> Instant {
        (Instant::now() + Duration::from_millis(timeout_ms.into())).min(self.turn.sender.deadline)
    }
}

impl process::Host for Call {
    async fn start(
        &mut self,
        program: String,
        options: process::Options,
    ) -> wasmtime::Result<Result<Resource<ChildOfCall>, process::Error>> {
        self.begin_child(self.turn.sender.clone(), program, options).await
    }

    async fn start_for(
        &mut self,
        caller: Resource<CallerOfCall>,
        program: String,
        options: process::Options,
    ) -> wasmtime::Result<Result<Resource<ChildOfCall>, process::Error>> {
        let sender = self.of_call(&caller)?.sender().clone();
        self.begin_child(sender, program, options).await
    }
}

impl process::HostChild for Call {
    async fn id(&mut self, child: Resource<ChildOfCall>) -> wasmtime::Result<String> {
        Ok(self.of_call(&child)?.id().to_owned())
    }

    async fn write(
        &mut self,
        child: Resource<ChildOfCall>,
        bytes: Vec<u8>,
        timeout_ms: u32,
    ) -> wasmtime::Result<Option<u32>> {
        let (until, waited) = (self.latest(timeout_ms), self.turn.waited.clone());
        let taken = waited.around(self.of_call_mut(&child)?.write(&bytes, until)).await;
        Ok(taken.map(|taken| u32::try_from(taken).unwrap_or(u32::MAX)))
    }

    async fn close_input(&mut self, child: Resource<ChildOfCall>) -> wasmtime::Result<()> {
        self.of_call_mut(&child)?.close_input();
        Ok(())
    }

    async fn read(
        &mut self,
        child: Resource<ChildOfCall>,
        from: process::Output,
        most: u32,
        timeout_ms: u32,
    ) -> wasmtime::Result<process::Piece> {
        let (until, waited) = (self.latest(timeout_ms), self.turn.waited.clone());
        let stream = match from {
            process::Output::Standard => Stream::Output,
            process::Output::Errors => Stream::Errors,
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(match waited.around(self.of_call(&child)?.read(stream, most, until)).await {
            Piece::Bytes(bytes) => process::Piece::Bytes(bytes),
            Piece::Nothing => process::Piece::Nothing,
            Piece::End => process::Piece::End,
        })
    }

    async fn wait(
        &mut self,
        child: Resource<ChildOfCall>,
        timeout_ms: u32,
    ) -> wasmtime::Result<Option<process::Outcome>> {
        let (until, waited) = (self.latest(timeout_ms), self.turn.waited.clone());
        Ok(waited.around(self.of_call(&child)?.wait(until)).await.map(Into::into))
    }

    async fn stop(&mut self, child: Resource<ChildOfCall>) -> wasmtime::Result<()> {
        self.of_call(&child)?.stop();
        Ok(())
    }

    async fn drop(&mut self, child: Resource<ChildOfCall>) -> wasmtime::Result<()> {
        self.table.delete(child)?;
        Ok(())
    }
}
