//! `http`: requests of URLs.

use std::net::IpAddr;

use async_trait::async_trait;
use futures::StreamExt;
use imn_contract::{
    Fault,
    latest::{Assignment, HttpOutcome, ProgressKind},
};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::repeat::repeat;
use crate::{
    Addressing,
    convert::http::{Requests, unmeasured},
    flight::{Found, Measure, Signs},
    http::{Engines, HttpParams, HttpSpec},
    module,
};

#[derive(Default)]
pub(super) struct Http {
    engines: Engines,
}

#[async_trait]
impl Measure for Http {
    type Spec = HttpSpec;
    type Outcome = HttpOutcome;

    fn kind(&self) -> &'static str {
        "http"
    }

    fn params_schema(&self) -> Value {
        module::schema::<HttpParams>()
    }

    fn slots(&self) -> u32 {
        64
    }

    fn spec(&self, target: &str, params: &Map<String, Value>) -> Result<(HttpSpec, Addressing), Fault> {
        Ok((self.engines.spec(target, params)?, Addressing::Opaque))
    }

    fn plan(&self, assignment: &Assignment) -> Result<(HttpSpec, Addressing), Fault> {
        Ok((self.engines.standing_spec(assignment)?, Addressing::Opaque))
    }

    fn unmeasured(&self, spec: &HttpSpec, error: String) -> HttpOutcome {
        unmeasured(spec, Some(error))
    }

    async fn measure(
        &self,
        spec: &HttpSpec,
        _: Option<IpAddr>,
        due: Instant,
        signs: &Signs,
    ) -> Found<HttpOutcome> {
        let mut requests = Requests::new(spec);
        let mut ends = repeat(spec.count, spec.interval, due, |_| {
            spec.engine.measure(&spec.url, |hop, phase| {
                if let Some(span) = hop.phases.get(phase).filter(|_| signs.wanted()) {
                    signs.text(format!("{} {:.1} ms", phase.name(), span.as_secs_f64() * 1e3));
                }
            })
        });
        while let Some((number, request)) = ends.next().await {
            let detail = Map::from_iter([
                ("n".to_owned(), json!(u32::from(number) + 1)),
                ("status".to_owned(), json!(request.error.as_ref().map_or("received", |e| e.cause.code()))),
                ("response_ms".to_owned(), json!(request.elapsed.as_secs_f64() * 1e3)),
            ]);
            requests.take(number, request);
            signs.step(ProgressKind::Packet, detail, || requests.found().outcome);
        }
        requests.found()
    }
}
