//! Is this capability held? Principals' standing, groups, and what authentication remembers.
//!
//! Owns the decision procedure ([`standing`]), what a session may use of it ([`mandate`]), and the memory of authenticated
//! credentials ([`sessions`]). It checks;
//! it never decides who should hold what: that is the authenticator capsule's, which publishes standings through
//! `astrid:authority/registrar`.
//!
//! Bounded by: one record for each principal and group in memory, 65,536 remembered credentials.
//! Refuses to know: how a credential looks inside, what a capability is good for, wasm, HTTP.

pub mod mandate;
pub mod sessions;
pub mod standing;

use std::sync::{Arc, Mutex, RwLock};

use astrid_capsule::manifest::{Declaration, Subscribe};
use astrid_capsule::{Capability, PrincipalId};

use tokio::sync::watch;

use crate::journal::{Fact, Journal, Outcome};
use crate::meter::quotas::Quotas;
use crate::store::{ReadError, Store};
pub use mandate::Mandate;
use sessions::Remembered;
pub use sessions::{Authenticator, Behalf, Identified, Presented, Rejection, Through};
pub use standing::{Change, Decision, Directory, Standing};

/// Whether a principal may reach a binding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admission {
    /// Why not.
    pub refused: Option<String>,
    /// The capabilities that were needed; the one that is missing, if it is refused.
    pub requires: String,
    /// The rules that decided, in the same order.
    pub rule: String,
}

/// How much of a credential's keyed hash stands in facts for a session without a name, in hex digits.
const SESSION_DIGITS: usize = 16;

pub struct Authority {
    directory: RwLock<Directory>,
    remembered: Mutex<Remembered>,
    authenticator: RwLock<Option<Arc<dyn Authenticator>>>,
    changed: watch::Sender<()>,
    journal: Option<Arc<Journal>>,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// Knows nobody.
    pub fn new() -> Self {
        Self {
            directory: RwLock::new(Directory::default()),
            remembered: Mutex::new(Remembered::default()),
            authenticator: RwLock::new(None),
            changed: watch::Sender::new(()),
            journal: None,
        }
    }

    /// From now on, who is taken for whom is a fact.
    pub fn recording(self, journal: Arc<Journal>) -> Self {
        Self { journal: Some(journal), ..self }
    }

    /// Knows everybody whom the store knows. Cost grows with the number of principals; done once, at boot.
    pub fn load(store: &Store) -> Result<Self, ReadError> {
        let authority = Self::new();
        let changes = standing::load(store)?;
        let mut directory = authority.directory.write().expect("no panic under this lock");
        for (revision, change) in changes {
            directory.apply(revision, change);
        }
        drop(directory);
        Ok(authority)
    }

    /// Puts changes in force; `revision` is the version of the commit that made them durable.
    pub fn apply(&self, revision: u64, changes: Vec<Change>) {
        let mut directory = self.directory.write().expect("no panic under this lock");
        for change in changes {
            directory.apply(revision, change);
        }
        drop(directory);
        self.changed.send_replace(());
    }

    /// Tells that somebody's standing or a group has changed, and not whose: for what goes on after its call.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether what was opened on somebody's behalf may go on, by the same rule as a remembered credential: until the
    /// session expires or the standing of its principal changes. `now` in seconds since the Unix epoch.
    pub fn stands(&self, behalf: &Behalf, now: u64) -> bool {
        behalf.session.is_none_or(|session| {
            session.expires_at > now && self.revision(&behalf.principal) == Some(session.standing)
        })
    }

    /// May `caller` do what needs `required`, to `target`? The documented order of docs/capabilities.md.
    pub fn decide(
        &self,
        caller: &PrincipalId,
        mandate: &Mandate,
        required: &Capability,
        target: Option<&PrincipalId>,
    ) -> Decision {
        self.directory.read().expect("no panic under this lock").decide(caller, mandate, required, target)
    }

    /// What the principal may use; none if it is unknown.
    pub fn quotas(&self, principal: &PrincipalId) -> Option<Quotas> {
        self.directory.read().expect("no panic under this lock").quotas(principal)
    }

    /// [`Self::decide`] for what a capsule asks: an invalid capability or target is never held, a pattern neither.
    pub fn holds(&self, caller: &PrincipalId, mandate: &Mandate, required: &str, target: Option<&str>) -> bool {
        let Ok(required) = Capability::parse(required) else { return false };
        let Ok(target) = target.map(PrincipalId::parse).transpose() else { return false };
        !required.is_pattern() && self.decide(caller, mandate, &required, target.as_ref()).allowed
    }

    /// What the principal holds within a mandate, sorted; see [`Directory::held`].
    pub fn held(&self, principal: &PrincipalId, mandate: &Mandate) -> Vec<Capability> {
        self.directory.read().expect("no panic under this lock").held(principal, mandate)
    }

    /// Whether the principal may reach a binding. The error names the capability that is missing.
    pub fn admit(
        &self,
        binding: &Subscribe,
        principal: &PrincipalId,
        mandate: &Mandate,
        target: Option<&PrincipalId>,
    ) -> Result<(), String> {
        self.judge(binding, principal, mandate, target).refused.map_or(Ok(()), Err)
    }

    /// [`Self::admit`], and by what that was decided.
    pub fn judge(
        &self,
        binding: &Subscribe,
        principal: &PrincipalId,
        mandate: &Mandate,
        target: Option<&PrincipalId>,
    ) -> Admission {
        let mut admission = Admission::default();
        if binding.public {
            return admission;
        }
        let directory = self.directory.read().expect("no panic under this lock");
        if !directory.is_enabled(principal) {
            admission.refused = Some(format!("`{principal}` is not a known and enabled principal"));
            return admission;
        }
        for required in &binding.requires {
            let Decision { allowed, rule } = directory.decide(principal, mandate, required, target);
            if !allowed {
                let own = if target == Some(principal) { " (or its self: form)" } else { "" };
                let by = if mandate.ceiling().is_some() { ", within the scope of the session" } else { "" };
                let refused = Some(format!("`{required}`{own} is needed for {}{by}", binding.topic));
                return Admission { refused, requires: required.to_string(), rule: rule.to_string() };
            }
            for (list, text) in
                [(&mut admission.requires, required.to_string()), (&mut admission.rule, rule.to_string())]
            {
                let between = if list.is_empty() { "" } else { ", " };
                list.push_str(between);
                list.push_str(&text);
            }
        }
        admission
    }

    /// Keeps those routes whose binding the principal may reach: [`Self::admit`] for many at once.
    pub fn retain_admitted<R>(
        &self,
        routes: &mut Vec<R>,
        binding: impl Fn(&R) -> &Subscribe,
        principal: &PrincipalId,
        mandate: &Mandate,
        target: Option<&PrincipalId>,
    ) {
        if routes.is_empty() {
            return;
        }
        let directory = self.directory.read().expect("no panic under this lock");
        let enabled = directory.is_enabled(principal);
        let allowed = |required: &Capability| directory.decide(principal, mandate, required, target).allowed;
        routes.retain(|route| {
            let binding = binding(route);
            binding.public || (enabled && binding.requires.iter().all(allowed))
        });
    }

    /// Which capabilities exist, and which forms each has: what installed manifests declare.
    pub fn set_scopes<'a>(&self, declared: impl IntoIterator<Item = &'a Declaration>) {
        self.directory.write().expect("no panic under this lock").set_scopes(declared);
    }

    /// Names the capsule that authenticates from now on, or none.
    pub fn set_authenticator(&self, authenticator: Option<Arc<dyn Authenticator>>) {
        *self.authenticator.write().expect("no panic under this lock") = authenticator;
        // Another authenticator owes nothing to what this one said.
        self.remembered.lock().expect("no panic under this lock").forget();
    }

    /// Asks the authenticator, or remembers its answer while it holds: until it expires or the standing of its
    /// principal changes. `now` in seconds since the Unix epoch.
    pub async fn authenticate(&self, presented: Presented, now: u64) -> Result<Identified, Rejection> {
        let (key, kind) = (presented.digest(), presented.kind());
        let remembered = self.remembered.lock().expect("no panic under this lock").get(&key, now);
        if let Some((identified, revision)) = remembered
            && self.revision(&identified.principal) == Some(revision)
        {
            authentications(kind, "remembered");
            return Ok(identified);
        }
        let authenticator = self.authenticator.read().expect("no panic under this lock").clone();
        let outcome = match authenticator {
            None => Err(Rejection::Unavailable),
            Some(authenticator) => self.ask(authenticator, presented, key, now).await,
        };
        self.record(&key, &outcome);
        let label = outcome.as_ref().map_or_else(|rejection| rejection.kind(), |_| "accepted");
        authentications(kind, label);
        outcome
    }

    /// Whose a bearer was when the authenticator was last asked about it; none once the standing of its principal has
    /// changed since. It may have expired: this is for scheduling, and lets nobody in.
    pub fn remembered(&self, bearer: &str) -> Option<PrincipalId> {
        let key = sessions::digest_of_bearer(bearer);
        let (identified, revision) = self.remembered.lock().expect("no panic under this lock").get(&key, 0)?;
        (self.revision(&identified.principal) == Some(revision)).then_some(identified.principal)
    }

    /// What is remembered was recorded when it was asked.
    fn record(&self, credential: &[u8; 32], outcome: &Result<Identified, Rejection>) {
        let Some(journal) = &self.journal else { return };
        let name = outcome.as_ref().ok().and_then(|identified| identified.mandate.name());
        let session = name.map_or_else(|| journal.digest(credential)[..SESSION_DIGITS].to_owned(), str::to_owned);
        let fact = Fact { session: Some(session), ..journal.fact("session.begin") };
        journal.append(match outcome {
            Ok(identified) => Fact {
                principal: Some(identified.principal.to_string()),
                detail: Some(format!("until {}", identified.expires_at)),
                ..fact
            },
            Err(rejection) => {
                let outcome = if *rejection == Rejection::Rejected { Outcome::Refused } else { Outcome::Failed };
                Fact { outcome, reason: Some(rejection.kind().to_owned()), ..fact }
            }
        });
    }

    async fn ask(
        &self,
        authenticator: Arc<dyn Authenticator>,
        presented: Presented,
        key: [u8; 32],
        now: u64,
    ) -> Result<Identified, Rejection> {
        // A change while the authenticator thinks must not be papered over by its answer: what is remembered is
        // tied to the state before the question.
        let before = self.directory.read().expect("no panic under this lock").latest();
        let identified = authenticator.authenticate(presented).await?;
        if identified.expires_at <= now || identified.principal.is_anonymous() {
            return Err(Rejection::Rejected);
        }
        match self.revision(&identified.principal) {
            Some(revision) if revision <= before => {
                self.remembered.lock().expect("no panic under this lock").put(key, identified.clone(), revision, now);
                Ok(identified)
            }
            Some(_) => Ok(identified),
            None => Err(Rejection::Rejected),
        }
    }

    /// See [`Directory::stamp`].
    pub fn stamp(&self, principal: &PrincipalId) -> Option<u64> {
        self.directory.read().expect("no panic under this lock").stamp(principal)
    }

    /// The revision of an enabled principal's standing.
    pub fn revision(&self, principal: &PrincipalId) -> Option<u64> {
        self.directory.read().expect("no panic under this lock").revision(principal)
    }
}

/// Credentials of this kind to which this happened.
fn authentications(kind: &'static str, outcome: &'static str) {
    metrics::counter!("astrid_authentications_total", "kind" => kind, "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use astrid_capsule::Pattern;

    use super::*;
    use crate::Boxed;

    struct Always(PrincipalId, AtomicUsize);

    impl Authenticator for Always {
        fn authenticate(self: Arc<Self>, presented: Presented) -> Boxed<'static, Result<Identified, Rejection>> {
            Box::pin(async move {
                self.1.fetch_add(1, Ordering::Relaxed);
                match presented {
                    Presented::Bearer(token) if token == "good" => {
                        Ok(Identified { principal: self.0.clone(), expires_at: 1000, mandate: Mandate::default() })
                    }
                    _ => Err(Rejection::Rejected),
                }
            })
        }
    }

    fn alice() -> PrincipalId {
        PrincipalId::parse("alice").unwrap()
    }

    fn standing(enabled: bool) -> Vec<Change> {
        vec![Change::SetPrincipal(alice(), Standing::new(enabled, vec![], vec![], vec![]))]
    }

    fn bearer(text: &str) -> Presented {
        Presented::Bearer(text.into())
    }

    #[tokio::test]
    async fn a_credential_is_asked_about_once_until_it_expires_or_its_principal_changes() {
        let authority = Authority::new();
        assert_eq!(authority.authenticate(bearer("good"), 10).await, Err(Rejection::Unavailable));
        let asked = Arc::new(Always(alice(), AtomicUsize::new(0)));
        authority.set_authenticator(Some(asked.clone()));
        authority.apply(1, standing(true));
        let count = || asked.1.load(Ordering::Relaxed);

        for _ in 0..3 {
            assert!(authority.authenticate(bearer("good"), 10).await.is_ok());
        }
        assert_eq!(count(), 1);
        assert_eq!(authority.authenticate(bearer("bad"), 10).await, Err(Rejection::Rejected));

        assert_eq!((authority.remembered("good"), authority.remembered("bad")), (Some(alice()), None));

        authority.apply(2, standing(true));
        assert_eq!(authority.remembered("good"), None);
        assert!(authority.authenticate(bearer("good"), 10).await.is_ok());
        assert_eq!(count(), 3);

        authority.apply(3, standing(false));
        assert_eq!(authority.authenticate(bearer("good"), 10).await, Err(Rejection::Rejected));
        authority.apply(4, vec![Change::RemovePrincipal(alice())]);
        assert_eq!(authority.authenticate(bearer("good"), 10).await, Err(Rejection::Rejected));

        authority.apply(5, standing(true));
        assert!(authority.authenticate(bearer("good"), 999).await.is_ok());
        assert_eq!(authority.authenticate(bearer("good"), 1000).await, Err(Rejection::Rejected));
    }

    #[test]
    fn what_goes_on_after_its_call_stands_until_its_session_expires_or_its_principal_changes_and_is_told_of_it() {
        let authority = Authority::new();
        let mut changes = authority.changes();
        authority.apply(1, standing(true));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let through = |standing| Some(Through { expires_at: 1000, standing });
        let behalf = |session| Behalf { principal: alice(), mandate: Mandate::default(), session };
        assert!(authority.stands(&behalf(through(1)), 999));
        assert!(!authority.stands(&behalf(through(1)), 1000));
        for (revision, change) in
            [(2, standing(true)), (3, standing(false)), (4, vec![Change::RemovePrincipal(alice())])]
        {
            authority.apply(revision, change);
            assert!(changes.has_changed().unwrap());
            changes.mark_unchanged();
            assert!(!authority.stands(&behalf(through(1)), 999), "{revision}");
            assert_eq!(authority.stands(&behalf(through(revision)), 999), revision == 2);
        }
        assert!(!authority.stands(&behalf(through(0)), 999), "gone before it was opened");
        assert!(authority.stands(&behalf(None), u64::MAX), "nobody's session can end");
    }

    #[tokio::test]
    async fn another_authenticator_owes_nothing_to_what_the_last_one_said() {
        let authority = Authority::new();
        authority.apply(1, standing(true));
        authority.set_authenticator(Some(Arc::new(Always(alice(), AtomicUsize::new(0)))));
        assert!(authority.authenticate(bearer("good"), 10).await.is_ok());
        authority.set_authenticator(None);
        assert_eq!(authority.authenticate(bearer("good"), 10).await, Err(Rejection::Unavailable));
    }

    #[test]
    fn of_many_bindings_those_remain_to_which_one_by_one_a_principal_is_admitted() {
        let binding = |requires: &[&str], public| Subscribe {
            requires: requires.iter().map(|c| Capability::parse(c).unwrap()).collect(),
            public,
            ..Subscribe::handled(Pattern::parse("a.b").unwrap(), "h")
        };
        let bindings =
            [binding(&[], true), binding(&[], false), binding(&["a:b"], false), binding(&["a:b", "c:d"], false)];
        let holds = |capabilities: &[&str], enabled| {
            let grants = capabilities.iter().map(|c| Capability::parse(c).unwrap()).collect();
            vec![Change::SetPrincipal(alice(), Standing::new(enabled, vec![], grants, vec![]))]
        };
        let authority = Authority::new();
        for (change, remain) in [
            (vec![], 1),
            (holds(&[], true), 2),
            (holds(&["a:b"], true), 3),
            (holds(&["a:b", "c:d"], true), 4),
            (holds(&["a:b", "c:d"], false), 1),
        ] {
            authority.apply(1, change);
            let mut routes: Vec<&Subscribe> = bindings.iter().collect();
            authority.retain_admitted(&mut routes, |route| route, &alice(), &Mandate::default(), None);
            let one_by_one =
                bindings.iter().filter(|b| authority.admit(b, &alice(), &Mandate::default(), None).is_ok());
            assert!(one_by_one.map(std::ptr::from_ref).eq(routes.iter().copied().map(std::ptr::from_ref)));
            assert_eq!(routes.len(), remain);
        }
    }
}
