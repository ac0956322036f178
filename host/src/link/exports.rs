//! What a component exports, looked up once per generation.

use wasmtime::component::InstancePre;
use wasmtime_wasi_http::p2::bindings::ProxyIndices;

use super::Call;
use super::bindings::authenticator::AuthenticatorIndices;
use super::bindings::carrier::CarrierIndices;
use super::bindings::front_end::FrontEndIndices;
use super::bindings::handler::HandlerIndices;
use super::bindings::healthy::HealthyIndices;
use super::bindings::installer::InstallerIndices;
use super::bindings::interceptor::InterceptorIndices;
use super::bindings::relay::RelayIndices;
use super::bindings::runner::RunnerIndices;
use super::bindings::starter::StarterIndices;

/// Ready to instantiate, and where in an instance each export is that is there.
pub struct Exports {
    pub pre: InstancePre<Call>,
    pub handler: Option<HandlerIndices>,
    pub interceptor: Option<InterceptorIndices>,
    pub front_end: Option<FrontEndIndices>,
    pub wasi_http: Option<ProxyIndices>,
    pub authenticator: Option<AuthenticatorIndices>,
    pub relay: Option<RelayIndices>,
    pub runner: Option<RunnerIndices>,
    pub carrier: Option<CarrierIndices>,
    pub installer: Option<InstallerIndices>,
    pub healthy: Option<HealthyIndices>,
    pub starter: Option<StarterIndices>,
}

impl Exports {
    pub fn new(pre: InstancePre<Call>) -> Self {
        Self {
            handler: HandlerIndices::new(&pre).ok(),
            interceptor: InterceptorIndices::new(&pre).ok(),
            front_end: FrontEndIndices::new(&pre).ok(),
            wasi_http: ProxyIndices::new(&pre).ok(),
            authenticator: AuthenticatorIndices::new(&pre).ok(),
            relay: RelayIndices::new(&pre).ok(),
            runner: RunnerIndices::new(&pre).ok(),
            carrier: CarrierIndices::new(&pre).ok(),
            installer: InstallerIndices::new(&pre).ok(),
            healthy: HealthyIndices::new(&pre).ok(),
            starter: StarterIndices::new(&pre).ok(),
            pre,
        }
    }
}
