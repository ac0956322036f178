//! What a test holds: a capsule, its fakes, its clock, and how a call of it begins.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use astrid_capsule::archive::Archive;
use astrid_capsule::manifest::Manifest;
use astrid_capsule::principal::ANONYMOUS;
use astrid_capsule::schema::{Schemas, TypeName};
use astrid_capsule::{Capability, Pattern, Topic};
use ed25519_dalek::{Signer, VerifyingKey};
use serde::Serialize;
use serde_json::Value;
use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use crate::bindings::astrid::bus::types::Gap;
use crate::bindings::exports::astrid::authority::authenticator::GuestIndices as AuthenticatorExport;
use crate::bindings::exports::astrid::capsule::lifecycle::GuestIndices as LifecycleExport;
use crate::bindings::exports::astrid::http::handler::GuestIndices as HttpExport;
use crate::bus::{Arrival, Reply, from_test};
use crate::engine::{Caller, Clock, Fakes, State};
use crate::{
    Call, CallError, Failure, FakeHost, FakeJournal, FakeProcesses, FakeSinks, Identified, Logged, MemoryStore,
    Message, OpenError, Presented, Refusal, Registrar, Rejection, Request, Response, Standing, Verdict, engine, find,
    keys, usage,
};

/// What one call has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Units of fuel, instantiation included: about one per wasm instruction.
    pub fuel: u64,
    /// The most linear memory that the instance had.
    pub peak_memory_bytes: u64,
}

/// One capsule and everything that it believes to be a host. Every call runs in a fresh instance; what a call leaves
/// behind is what it put into the fakes.
pub struct Capsule {
    pub(crate) manifest: Arc<Manifest>,
    schemas: Schemas,
    pub(crate) linked: InstancePre<State>,
    fakes: Fakes,
    clock: Clock,
    last: Usage,
}

impl Capsule {
    /// Opens `<name>.capsule` from `$ASTRID_CAPSULES`, or else from the target directory's `capsules` folder, of this
    /// package or of a workspace around it.
    ///
    /// # Errors
    /// When there is none (the text says how to build it), and as [`Self::open`].
    pub fn named(name: &str) -> Result<Self, OpenError> {
        Self::open(find::packed(name)?)
    }

    /// Opens a `.capsule` file.
    ///
    /// # Errors
    /// When it can't be read, is no archive, or as [`Self::from_component`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|source| OpenError::Read { path: path.into(), source })?;
        let archive =
            Archive::read(BufReader::new(file)).map_err(|source| OpenError::Archive { path: path.into(), source })?;
        Ok(Self { schemas: archive.schemas, ..Self::from_component(archive.manifest, &archive.component)? })
    }

    /// A manifest and the bytes of a component, without types.
    ///
    /// # Errors
    /// When the bytes are no component, import what no host offers, or use an interface that the manifest does not ask
    /// for.
    pub fn from_component(manifest: Manifest, component: &[u8]) -> Result<Self, OpenError> {
        let linked = engine::link(&manifest, component)?;
        Ok(Self {
            manifest: Arc::new(manifest),
            schemas: Schemas::default(),
            linked,
            fakes: Fakes::default(),
            clock: Clock::default(),
            last: Usage::default(),
        })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Holds a value to one of the types that are packed with the capsule, as a host with `bus.strict` does. `name` is
    /// what the manifest says: `interface.type`, or `nothing`. The error says where the value does not fit, and why.
    ///
    /// # Panics
    /// If `name` is none of the packed types, or `value` can't be written as JSON.
    pub fn fits(&self, name: &str, value: impl Serialize) -> Result<(), String> {
        let known = TypeName::parse(name).unwrap_or_else(|error| panic!("fits: {error}"));
        assert!(
            self.schemas.schema(&known).is_some(),
            "fits: `{name}` is not packed: no topic of the manifest names it"
        );
        let value = serde_json::to_vec(&value).expect("the test's own value is JSON");
        self.schemas.fit(&known, &value).map_err(|misfit| misfit.to_string())
    }

    /// A call on behalf of `principal`.
    pub fn as_principal(&mut self, principal: &str) -> Call<'_> {
        Call::new(self, principal)
    }

    /// Calls a handler as `anonymous`; see [`Call::handle`].
    ///
    /// # Errors
    /// As [`Call::handle`].
    pub fn handle(&mut self, handler: &str, payload: impl Serialize) -> Result<Result<Value, Refusal>, CallError> {
        self.as_principal(ANONYMOUS).handle(handler, payload)
    }

    /// Shows a message of `anonymous` to an interceptor; see [`Call::intercept`].
    ///
    /// # Errors
    /// As [`Call::intercept`].
    pub fn intercept(&mut self, handler: &str, payload: impl Serialize) -> Result<Verdict, CallError> {
        self.as_principal(ANONYMOUS).intercept(handler, payload)
    }

    /// Calls `astrid:capsule/lifecycle.start`, as the host does before a version goes live.
    ///
    /// # Errors
    /// When the export is missing or the instance dies.
    pub fn start(&mut self) -> Result<Result<(), String>, CallError> {
        let indices =
            LifecycleExport::new(&self.linked).map_err(|_| CallError::NoExport("astrid:capsule/lifecycle"))?;
        let caller = self.caller(ANONYMOUS);
        self.run(caller, |store, instance| indices.load(&mut *store, instance)?.call_start(store))
    }

    /// Asks the authenticator whose credential this is.
    ///
    /// # Errors
    /// When the export is missing or the instance dies.
    pub fn authenticate(&mut self, presented: Presented) -> Result<Option<Identified>, CallError> {
        let missing = |_| CallError::NoExport("astrid:authority/authenticator");
        let indices = AuthenticatorExport::new(&self.linked).map_err(missing)?;
        let caller = self.caller(ANONYMOUS);
        self.run(caller, |store, instance| indices.load(&mut *store, instance)?.call_authenticate(store, &presented))
    }

    /// Sends a request to the front end. The manifest's mounts and body limit are the listener's business and are not
    /// checked.
    ///
    /// # Errors
    /// When the export is missing or the instance dies.
    pub fn http(&mut self, request: Request) -> Result<Response, CallError> {
        let indices = HttpExport::new(&self.linked).map_err(|_| CallError::NoExport("astrid:http/handler"))?;
        let caller = Caller { connection: Some(request.connection.clone()), ..self.caller(ANONYMOUS) };
        self.run(caller, |store, instance| indices.load(&mut *store, instance)?.call_handle(store, &request))
    }

    /// What the last call used; zero before the first.
    pub fn last_call(&self) -> Usage {
        self.last
    }

    /// What the capsule has stored.
    pub fn store(&mut self) -> &mut MemoryStore {
        &mut self.fakes.store
    }

    /// Answers requests to topics that match `pattern`, from now on; later calls win over earlier ones. Topics that
    /// nobody answers give `no-responder`.
    ///
    /// # Panics
    /// If `pattern` is no topic pattern.
    pub fn on_request(
        &mut self,
        pattern: &str,
        mut responder: impl FnMut(&Message) -> Result<Vec<u8>, Failure> + Send + 'static,
    ) {
        let pattern = Pattern::parse(pattern).unwrap_or_else(|error| panic!("on_request: {error}"));
        self.fakes.bus.responders.push((pattern, Box::new(move |message| responder(message).into())));
    }

    /// As [`Self::on_request`], in several pieces: what the responder sends while it works, and then what it returns. Who
    /// asks for the whole answer gets what it returns alone.
    ///
    /// # Panics
    /// If `pattern` is no topic pattern.
    pub fn on_request_stream(
        &mut self,
        pattern: &str,
        mut responder: impl FnMut(&Message) -> (Vec<Vec<u8>>, Result<Vec<u8>, Failure>) + Send + 'static,
    ) {
        let pattern = Pattern::parse(pattern).unwrap_or_else(|error| panic!("on_request_stream: {error}"));
        let responder = move |message: &Message| {
            let (pieces, last) = responder(message);
            Reply { pieces, last }
        };
        self.fakes.bus.responders.push((pattern, Box::new(responder)));
    }

    /// Lets a message with a JSON payload arrive for subscriptions: the first one to its topic that asks gets it, if it
    /// gets messages of `principal`. When nothing more comes a subscription says so once, and then that it has ended.
    ///
    /// # Panics
    /// If `payload` can't be written as JSON, or `topic` is none.
    pub fn arrive(&mut self, topic: &str, principal: &str, payload: impl Serialize) {
        let payload = serde_json::to_vec(&payload).expect("the test's own payload is JSON");
        self.arrive_bytes(topic, principal, payload);
    }

    /// As [`Self::arrive`], with bytes.
    ///
    /// # Panics
    /// If `topic` is none.
    pub fn arrive_bytes(&mut self, topic: &str, principal: &str, payload: Vec<u8>) {
        Topic::parse(topic).unwrap_or_else(|error| panic!("arrive: {error}"));
        let message = from_test(self.fakes.bus.next_id(), topic, principal, payload);
        self.fakes.bus.arriving.push_back(Arrival::Message(message));
    }

    /// Tells the first subscription to `topic` that asks, in its place among what arrives, that `lost` messages of
    /// `principal` are missing.
    ///
    /// # Panics
    /// If `topic` is none.
    pub fn arrive_gap(&mut self, topic: &str, principal: &str, lost: u64) {
        Topic::parse(topic).unwrap_or_else(|error| panic!("arrive_gap: {error}"));
        let gap = Gap { principal: principal.into(), lost };
        self.fakes.bus.arriving.push_back(Arrival::Gap { topic: topic.into(), gap });
    }

    /// Every request that the capsule has sent, in order, answered or not. One that the manifest does not allow is
    /// never sent.
    pub fn requested(&self) -> &[Message] {
        &self.fakes.bus.requested
    }

    /// Every message that the capsule has published, in order.
    pub fn published(&self) -> &[Message] {
        &self.fakes.bus.published
    }

    /// How many bindings take what is published from now on; 0 at first.
    pub fn set_delivered(&mut self, bindings: u32) {
        self.fakes.bus.delivered = bindings;
    }

    /// Decides about credentials from now on. Without it every one is rejected.
    pub fn on_authenticate(
        &mut self,
        authenticator: impl FnMut(&Presented) -> Result<Identified, Rejection> + Send + 'static,
    ) {
        self.fakes.sessions.authenticator = Some(Box::new(authenticator));
    }

    /// Gives `principal` a value of its own for a field of the manifest's `[env]`.
    ///
    /// # Panics
    /// If the manifest has no such field, it does not take the value, or the principal is `anonymous`.
    pub fn set_env(&mut self, principal: &str, field: &str, value: &str) {
        assert_ne!(principal, ANONYMOUS, "set_env: `anonymous` has the defaults alone");
        let known = self.manifest.env.get(field).unwrap_or_else(|| panic!("set_env: there is no [env.{field}]"));
        known.check(value).unwrap_or_else(|why| panic!("set_env: {field}: {why}"));
        self.fakes.env.insert((principal.into(), field.into()), value.into());
    }

    /// Gives a field of the manifest's `[env]` a value for everybody who has no own, as a distribution does.
    ///
    /// # Panics
    /// If the manifest has no such field, or it does not take the value.
    pub fn set_distribution_env(&mut self, field: &str, value: &str) {
        let known = self.manifest.env.get(field);
        let known = known.unwrap_or_else(|| panic!("set_distribution_env: there is no [env.{field}]"));
        known.check(value).unwrap_or_else(|why| panic!("set_distribution_env: {field}: {why}"));
        self.fakes.env.insert((ANONYMOUS.into(), field.into()), value.into());
    }

    /// Lets `principal` hold `capability` (wildcards and `self:` forms included), for `holds` of sessions and of
    /// `astrid:authority/held`.
    ///
    /// # Panics
    /// If `capability` is none.
    pub fn grant(&mut self, principal: &str, capability: &str) {
        let capability = Capability::parse(capability).unwrap_or_else(|error| panic!("grant: {error}"));
        self.fakes.sessions.grants.entry(principal.into()).or_default().push(capability);
    }

    /// The session that calls come from, from now on: its name and its ceiling, by which `astrid:authority/held` answers.
    ///
    /// # Panics
    /// If one of `ceiling` is no capability.
    pub fn set_session(&mut self, name: Option<&str>, ceiling: Option<&[&str]>) {
        let parse = |text: &&str| Capability::parse(text).unwrap_or_else(|error| panic!("set_session: {error}"));
        self.fakes.sessions.name = name.map(str::to_owned);
        self.fakes.sessions.ceiling = ceiling.map(|texts| texts.iter().map(parse).collect());
    }

    /// Standings and groups, as the capsule has committed them.
    pub fn registrar(&self) -> &Registrar {
        &self.fakes.registrar
    }

    /// A principal's committed standing.
    pub fn standing(&self, principal: &str) -> Option<&Standing> {
        self.fakes.registrar.standing(principal)
    }

    /// What `astrid:journal` answers.
    pub fn journal(&mut self) -> &mut FakeJournal {
        &mut self.fakes.journal
    }

    /// What `astrid:process` starts.
    pub fn processes(&mut self) -> &mut FakeProcesses {
        &mut self.fakes.processes
    }

    /// What `astrid:sys/sink` takes.
    pub fn sinks(&mut self) -> &mut FakeSinks {
        &mut self.fakes.sinks
    }

    /// What `astrid:sys/host` answers and what it was asked.
    pub fn host(&mut self) -> &mut FakeHost {
        &mut self.fakes.host
    }

    /// Every line that the capsule has logged, in order.
    pub fn logs(&self) -> &[Logged] {
        &self.fakes.logs
    }

    /// The detail that the capsule has attached to the record last; taken, so that it is none until there is another.
    pub fn take_detail(&mut self) -> Option<Value> {
        self.fakes.detail.take()
    }

    /// Signs with a purpose's key, whether or not the manifest asks for it: for credentials that a test makes itself.
    pub fn sign(&self, purpose: &str, bytes: &[u8]) -> [u8; 64] {
        keys::key(purpose).sign(bytes).to_bytes()
    }

    /// A purpose's public key.
    pub fn public_key(&self, purpose: &str) -> VerifyingKey {
        keys::key(purpose).verifying_key()
    }

    /// Sets the wall clock, in seconds since the Unix epoch. It stands still until it is set again.
    pub fn set_time(&mut self, seconds: u64) {
        self.clock.set(seconds);
    }

    /// Moves the wall clock forward.
    pub fn advance(&mut self, seconds: u64) {
        self.clock.set(self.clock.seconds().saturating_add(seconds));
    }

    /// The wall clock, in seconds since the Unix epoch.
    pub fn time(&self) -> u64 {
        self.clock.seconds()
    }

    pub(crate) fn fakes(&mut self) -> &mut Fakes {
        &mut self.fakes
    }

    pub(crate) fn caller(&self, principal: &str) -> Caller {
        let remaining_ms = u32::try_from(self.manifest.limits.timeout_ms).unwrap_or(u32::MAX);
        Caller { principal: principal.into(), remaining_ms, connection: None, streams: false, everybody: false }
    }

    pub(crate) fn run<T>(
        &mut self,
        caller: Caller,
        call: impl FnOnce(&mut Store<State>, &Instance) -> wasmtime::Result<T>,
    ) -> Result<T, CallError> {
        let fakes = std::mem::take(&mut self.fakes);
        let (fakes, usage, result) = engine::run(&self.linked, &self.manifest, fakes, caller, &self.clock, call);
        self.fakes = fakes;
        self.last = usage;
        usage::note(usage);
        result
    }
}
