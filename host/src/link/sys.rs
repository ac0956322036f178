//! `astrid:sys`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use astrid_capsule::PrincipalId;
use astrid_capsule::distro::Distro;

use super::bindings::handler::astrid::env::env::Field;
use super::bindings::handler::astrid::sys::{audit, host, limit, log};
use super::{Call, Doing};
use crate::distro::{Icon, Shown};
use crate::host::Host;
use crate::journal::{Fact, Outcome, Wish};
use crate::limit::{Rate, Refused};
use crate::loader::{self, Applied, InstallError, Options, Overlap, Step};
use crate::log::Query;
use crate::meter::Usage;
use crate::meter::ledger::Totals;
use crate::process::Running;
use crate::{Boxed, buckets};

impl log::Host for Call {
    async fn log(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        let capsule = &*self.generation.id;
        let message = message.as_str();
        match level {
            log::Level::Error => tracing::error!(capsule, message),
            log::Level::Warn => tracing::warn!(capsule, message),
            log::Level::Info => tracing::info!(capsule, message),
            log::Level::Debug => tracing::debug!(capsule, message),
        }
        Ok(())
    }
}

impl audit::Host for Call {
    async fn detail(&mut self, json: String) -> wasmtime::Result<Result<(), String>> {
        Ok(crate::log::detail(&json).map(|detail| {
            if let Some(note) = &self.turn.inbound.note {
                note.say(detail);
            }
        }))
    }
}

impl limit::Host for Call {
    async fn take(
        &mut self,
        key: String,
        interval_ms: u32,
        burst: u32,
    ) -> wasmtime::Result<Result<(), limit::Refusal>> {
        if self.turn.sender.rehearsal {
            return Ok(Ok(()));
        }
        let rate = Rate { interval: Duration::from_millis(interval_ms.into()), burst };
        Ok(self.host.limits.take(&self.generation.id, &key, rate).map_err(|refused| match refused {
            // Rounded up: after that long there is one.
            Refused::Later(wait) => {
                limit::Refusal::Later(u32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u32::MAX))
            }
            Refused::Invalid(why) => limit::Refusal::Invalid(why),
        }))
    }
}

impl Call {
    /// What the host does for this call is done at the wish of whoever it is for.
    fn wish(&self) -> Wish {
        let Doing { principal, mandate, cause } = self.turn.doing();
        Wish {
            principal: principal.to_string(),
            session: mandate.name().map(str::to_owned),
            cause: cause.map(|cause| cause.to_string()),
        }
    }

    /// Changes what is installed, unless this is a rehearsal. A task of its own: a caller that goes away must not leave it
    /// half done; boxed, because a change calls capsules, whose calls hold this one's type again.
    fn change<T, F>(&self, change: impl FnOnce(Arc<Host>) -> F) -> Boxed<'static, Result<T, host::InstallError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, InstallError>> + Send + 'static,
    {
        let rehearsal = self.turn.sender.rehearsal;
        let wish = self.wish();
        let changing: Option<Boxed<'static, _>> =
            (!rehearsal).then(|| Box::pin(wish.within(change(self.host.clone()))) as _);
        let waited = self.turn.waited.clone();
        Box::pin(async move {
            let Some(changing) = changing else {
                return Err(host::InstallError::Failed("this is a rehearsal: nothing is changed".into()));
            };
            let outcome = waited.around(tokio::spawn(changing)).await;
            outcome.unwrap_or_else(|error| Err(InstallError::Failed(error.to_string()))).map_err(Into::into)
        })
    }
}

impl From<InstallError> for host::InstallError {
    fn from(error: InstallError) -> Self {
        match error {
            InstallError::Invalid(why) => Self::Invalid(why),
            InstallError::NotFound(why) => Self::NotFound(why),
            InstallError::Ungranted(list) => Self::Ungranted(list),
            InstallError::Untrusted(why) => Self::Untrusted(why),
            InstallError::Conflict(why) => Self::Conflict(why),
            InstallError::Failed(why) => Self::Failed(why),
        }
    }
}

impl From<&Shown> for host::Distribution {
    fn from(shown: &Shown) -> Self {
        let Distro { distro: about, variables, branding, .. } = &shown.distro;
        let icon = |icon: &Icon| host::Icon { media_type: icon.media_type.into(), bytes: icon.bytes.clone() };
        Self {
            id: about.id.clone(),
            name: about.name.clone(),
            description: about.description.clone(),
            homepage: about.homepage.clone(),
            open: shown.distro.is_open(),
            branding: branding.as_ref().map(|branding| host::Branding {
                icon: shown.icon.as_ref().map(icon),
                primary_color: branding.primary_color.clone(),
                accent_color: branding.accent_color.clone(),
            }),
            variables: variables
                .iter()
                .map(|(name, variable)| host::Variable {
                    name: name.clone(),
                    secret: variable.secret,
                    description: variable.description.clone(),
                    default: variable.default.clone(),
                })
                .collect(),
        }
    }
}

impl host::Host for Call {
    async fn status(&mut self) -> wasmtime::Result<host::HostStatus> {
        let connections = self.host.connections.summary();
        Ok(host::HostStatus {
            pid: std::process::id(),
            uptime_secs: self.host.started.elapsed().as_secs(),
            version: crate::VERSION.into(),
            connected_clients: connections.clients,
            connections_by_principal: connections.by_principal,
            loaded_capsules: self.host.loader.list().into_iter().map(|c| c.id).collect(),
        })
    }

    async fn usage(&mut self, principal: String) -> wasmtime::Result<Option<host::PrincipalUsage>> {
        let Ok(id) = PrincipalId::parse(&principal) else { return Ok(None) };
        let Some(Usage { totals, limits, exempt }) = self.host.meter.usage(&id) else { return Ok(None) };
        let Ok(storage_bytes) = buckets::held(&self.host.store, &id) else { return Ok(None) };
        Ok(Some(host::PrincipalUsage {
            fuel_total: totals.fuel,
            calls_total: totals.calls,
            wall_ms_total: u64::try_from(totals.wall.as_millis()).unwrap_or(u64::MAX),
            bus_bytes_total: totals.bus_bytes,
            memory_peak_bytes: totals.peak_memory_bytes,
            storage_bytes,
            exempt,
            fuel_per_sec_limit: limits.fuel_per_sec,
            bus_bytes_per_sec_limit: limits.bus_bytes_per_sec,
            memory_bytes_limit: limits.memory_bytes.min(self.host.pool_memory_bytes() as u64),
            timeout_secs_limit: limits.timeout_secs,
            storage_bytes_limit: limits.storage_bytes,
            concurrent_calls_limit: limits.concurrent_calls as u64,
            processes: u32::try_from(self.host.processes.count(&id)).unwrap_or(u32::MAX),
            processes_limit: u32::try_from(limits.processes).unwrap_or(u32::MAX),
        }))
    }

    async fn capsules(&mut self) -> wasmtime::Result<Vec<host::Capsule>> {
        let list = self.host.loader.list().into_iter();
        Ok(list.map(|c| host::Capsule { id: c.id, version: c.version, state: c.state.into(), hash: c.hash }).collect())
    }

    async fn topics(&mut self, capsule: String) -> wasmtime::Result<Option<Vec<host::Topic>>> {
        let of = |of: loader::Type| host::TopicType { name: of.name, schema: of.schema };
        let topic = |topic: loader::Topic| host::Topic {
            topic: topic.topic,
            direction: match topic.direction {
                loader::Direction::Publish => host::Direction::Publish,
                loader::Direction::Subscribe => host::Direction::Subscribe,
                loader::Direction::Intercept => host::Direction::Intercept,
            },
            handler: topic.handler,
            priority: topic.priority,
            payload: topic.payload.map(of),
            answer: topic.answer.map(of),
        };
        let host = self.host.clone();
        let reading = self.host.blocking.run(move || host.loader.topics(&capsule));
        let topics = self.turn.waited.around(reading).await?;
        Ok(topics.map(|topics| topics.into_iter().map(topic).collect()))
    }

    async fn capabilities(&mut self) -> wasmtime::Result<Vec<host::Capability>> {
        let declared = self.host.loader.declared().into_iter().map(|one| host::Capability {
            id: one.id.to_string(),
            label: one.label,
            description: one.description,
            category: one.category,
            scope: one.scope.as_str().to_owned(),
            danger: one.danger.as_str().to_owned(),
        });
        Ok(declared.collect())
    }

    async fn config(&mut self) -> wasmtime::Result<Vec<host::Setting>> {
        let settings = self.host.config.now().settings().into_iter();
        Ok(settings.map(|s| host::Setting { key: s.key, value: s.value, source: s.source.into() }).collect())
    }

    async fn reload_config(&mut self) -> wasmtime::Result<Result<Vec<host::Change>, String>> {
        if self.turn.sender.rehearsal {
            return Ok(Err("this is a rehearsal: nothing is changed".into()));
        }
        let (host, wish) = (self.host.clone(), self.wish());
        let reloading = self.host.blocking.run(move || wish.around(|| crate::reload::reload(&host)));
        let reloaded = self.turn.waited.around(reloading).await?;
        let change = |c: crate::config::Change| host::Change {
            key: c.key,
            before: c.before,
            value: c.value,
            source: c.source.into(),
            applied: c.applied,
        };
        Ok(reloaded
            .map(|changes| changes.into_iter().map(change).collect())
            .map_err(|error| format!("nothing was changed: {error:#}")))
    }

    async fn measure(&mut self, principals: u32) -> wasmtime::Result<host::Load> {
        let (host, used) = (&self.host, self.host.meter.capsules());
        let capsule = |(id, queue_bytes): (String, usize)| {
            let used = used.iter().find(|(known, _)| **known == *id).map(|(_, totals)| *totals).unwrap_or_default();
            host::CapsuleLoad {
                id,
                calls_total: used.calls,
                fuel_total: used.fuel,
                memory_peak_bytes: used.peak_memory_bytes,
                queue_bytes: queue_bytes as u64,
            }
        };
        let principal = |(id, totals): (PrincipalId, Totals)| host::PrincipalLoad {
            principal: id.to_string(),
            calls_total: totals.calls,
            fuel_total: totals.fuel,
            memory_peak_bytes: totals.peak_memory_bytes,
            bus_bytes_total: totals.bus_bytes,
        };
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(host::Load {
            uptime_ms: u64::try_from(host.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            instances: host.pool.probe().instances,
            instances_in_use: count(host.pool.in_use()),
            calls_waiting: count(host.pool.waiting() as u64),
            capsules: host.loader.queues().into_iter().map(capsule).collect(),
            principals: host.meter.latest(principals.clamp(1, 1000) as usize).into_iter().map(principal).collect(),
        })
    }

    async fn install(
        &mut self,
        path: String,
        options: host::InstallOptions,
    ) -> wasmtime::Result<Result<host::Installed, host::InstallError>> {
        let options = Options { grants: options.grants, shadow: options.shadow };
        let install =
            move |host: Arc<Host>| async move { host.loader.install(&host, Path::new(&path), &options).await };
        let target_dir = self.host.home.bin().display().to_string();
        Ok(self.change(install).await.map(|done| host::Installed {
            id: done.id,
            version: done.version,
            previous_version: done.previous_version,
            hash: done.hash,
            grants: done.grants,
            asks: done.asks,
            target_dir,
            env_needs_prompt: done.env_needs_prompt,
            unhandled: done.unhandled,
            overlaps: done
                .overlaps
                .into_iter()
                .map(|Overlap { interface, existing_capsule }| host::Overlap { interface, existing_capsule })
                .collect(),
            shadowed: done.shadowed.map_or(0, |compared| compared.calls),
            publisher: done.publisher,
        }))
    }

    async fn rollback(&mut self, id: String) -> wasmtime::Result<Result<(String, String), host::InstallError>> {
        Ok(self.change(move |host: Arc<Host>| async move { host.loader.rollback(&host, &id).await }).await)
    }

    async fn swap(&mut self, id: String) -> wasmtime::Result<Result<String, host::InstallError>> {
        Ok(self.change(move |host: Arc<Host>| async move { host.loader.swap(&host, &id).await }).await)
    }

    async fn remove(&mut self, id: String, purge: bool) -> wasmtime::Result<Result<(), host::InstallError>> {
        Ok(self.change(move |host: Arc<Host>| async move { host.loader.remove(&host, &id, purge).await }).await)
    }

    async fn history(&mut self, id: String) -> wasmtime::Result<Vec<host::Step>> {
        let steps = self.host.loader.history(&self.host, &id).unwrap_or_else(|error| {
            tracing::error!(id, "the history of a capsule can't be read: {error:#}");
            Vec::new()
        });
        let step =
            |s: Step| host::Step { time_ms: s.time_ms, what: s.what, version: s.version, hash: s.hash, why: s.why };
        Ok(steps.into_iter().map(step).collect())
    }

    async fn gc(&mut self) -> wasmtime::Result<Result<(u64, u64), String>> {
        let gc = |host: Arc<Host>| async move {
            host.loader.gc(&host).await.map_err(|error| InstallError::Failed(format!("{error:#}")))
        };
        Ok(self.change(gc).await.map_err(|error| match error {
            host::InstallError::Failed(why) => why,
            other => format!("{other:?}"),
        }))
    }

    async fn apply_distro(&mut self) -> wasmtime::Result<Result<Vec<host::Applied>, host::InstallError>> {
        let applied = self.change(|host: Arc<Host>| async move { host.loader.apply(&host).await }).await;
        let row = |done: Applied| host::Applied {
            name: done.name,
            version: done.version,
            what: done.what.into(),
            why: done.why,
        };
        Ok(applied.map(|applied| applied.into_iter().map(row).collect()))
    }

    async fn distro(&mut self) -> wasmtime::Result<Option<host::Distribution>> {
        Ok(self.host.loader.shown().map(|shown| shown.as_ref().into()))
    }

    async fn logs(&mut self, query: host::LogQuery) -> wasmtime::Result<Vec<host::LogLine>> {
        let query = Query {
            capsule: query.capsule,
            level: query.level,
            since_ms: query.since_ms,
            after: query.after,
            limit: query.limit.clamp(1, 1000) as usize,
        };
        let lines = self.host.log.query(&query).into_iter();
        Ok(lines
            .map(|line| host::LogLine {
                sequence: line.sequence,
                time_ms: line.time_ms,
                level: line.level.into(),
                capsule: line.capsule,
                message: line.message,
            })
            .collect())
    }

    async fn env_fields(
        &mut self,
        capsule: String,
        principal: String,
    ) -> wasmtime::Result<Result<Vec<Field>, host::EnvError>> {
        Ok(Call::env_fields(self, &capsule, &principal))
    }

    async fn env_set(
        &mut self,
        capsule: String,
        field: String,
        principal: String,
        value: String,
    ) -> wasmtime::Result<Result<(), host::EnvError>> {
        Ok(self.env_write(capsule, field, &principal, Some(value.into())).await)
    }

    async fn env_clear(
        &mut self,
        capsule: String,
        field: String,
        principal: String,
    ) -> wasmtime::Result<Result<(), host::EnvError>> {
        Ok(self.env_write(capsule, field, &principal, None).await)
    }

    async fn processes(&mut self, principal: Option<String>) -> wasmtime::Result<Vec<host::Process>> {
        let seen = |child: &Running| principal.as_deref().is_none_or(|only| child.principal.as_str() == only);
        let started = |child: &Running| child.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let row = |child: Running| host::Process {
            started_ms: u64::try_from(started(&child)).unwrap_or(u64::MAX),
            id: child.id,
            principal: child.principal.to_string(),
            capsule: child.capsule.to_string(),
            program: child.program,
        };
        Ok(self.host.processes.list().into_iter().filter(seen).map(row).collect())
    }

    async fn stop_process(&mut self, id: String, principal: Option<String>) -> wasmtime::Result<bool> {
        if self.turn.sender.rehearsal {
            return Ok(false);
        }
        let stopped = self.host.processes.stop(&id, principal.as_deref());
        let target = Some(crate::log::clean(id.get(..64).unwrap_or(&id)));
        let fact = Fact { target, ..self.fact("process.stop") };
        self.record(match &stopped {
            Some(child) => Fact { detail: Some(format!("{} of {}", child.program, child.principal)), ..fact },
            None => Fact { outcome: Outcome::Refused, reason: Some("no such child runs".to_owned()), ..fact },
        });
        Ok(stopped.is_some())
    }

    async fn shutdown(&mut self) -> wasmtime::Result<()> {
        if !self.turn.sender.rehearsal {
            self.host.shutdown.begin("asked for by the surface");
        }
        Ok(())
    }
}
