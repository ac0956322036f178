//! What a component exports, looked up once per generation.

use wasmtime::component::InstancePre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::Call;
use super::bindings::authenticator::AuthenticatorPre;
use super::bindings::front_end::FrontEndPre;
use super::bindings::handler::HandlerPre;
use super::bindings::interceptor::InterceptorPre;
use super::bindings::relay::RelayPre;
use super::bindings::runner::RunnerPre;
use super::bindings::starter::StarterPre;

/// Ready to instantiate, one for each export that is there.
pub struct Exports {
    pub handler: Option<HandlerPre<Call>>,
    pub interceptor: Option<InterceptorPre<Call>>,
    pub front_end: Option<FrontEndPre<Call>>,
    pub wasi_http: Option<ProxyPre<Call>>,
    pub authenticator: Option<AuthenticatorPre<Call>>,
    pub relay: Option<RelayPre<Call>>,
    pub runner: Option<RunnerPre<Call>>,
    pub starter: Option<StarterPre<Call>>,
}

impl Exports {
    pub fn new(pre: InstancePre<Call>) -> Self {
        Self {
            handler: HandlerPre::new(pre.clone()).ok(),
            interceptor: InterceptorPre::new(pre.clone()).ok(),
            front_end: FrontEndPre::new(pre.clone()).ok(),
            wasi_http: ProxyPre::new(pre.clone()).ok(),
            authenticator: AuthenticatorPre::new(pre.clone()).ok(),
            relay: RelayPre::new(pre.clone()).ok(),
            runner: RunnerPre::new(pre.clone()).ok(),
            starter: StarterPre::new(pre).ok(),
        }
    }
}
