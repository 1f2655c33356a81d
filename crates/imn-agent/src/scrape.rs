//! `/probe`: a measurement for Prometheus, as blackbox_exporter makes it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use imn_contract::{ErrorCode, Fault, ModuleType};
use imn_domain::{ScrapeModules, ScrapeRequest};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::job::{DirectOrder, Jobs};

/// Measurements for Prometheus at once; more are refused.
const AT_ONCE: usize = 256;
/// What Prometheus says of its patience, in seconds.
const PATIENCE: &str = "x-prometheus-scrape-timeout-seconds";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

type Page = dyn Fn(&ModuleType, Value, Duration) -> String + Send + Sync;

/// How `/probe` answers.
#[derive(Clone)]
pub struct Scraping {
    modules: ScrapeModules,
    page: Arc<Page>,
}

impl Scraping {
    /// By these definitions; `page` makes the text of a type's outcome and the time that it took.
    pub fn new(
        modules: ScrapeModules,
        page: impl Fn(&ModuleType, Value, Duration) -> String + Send + Sync + 'static,
    ) -> Self {
        Self { modules, page: Arc::new(page) }
    }
}

impl fmt::Debug for Scraping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scraping").field("modules", &self.modules).finish_non_exhaustive()
    }
}

/// What is asked for; blackbox_exporter's other parameters are left alone.
#[derive(Debug, Deserialize)]
pub(crate) struct Question {
    target: Option<String>,
    module: Option<String>,
    hostname: Option<String>,
    debug: Option<String>,
}

/// Answers questions.
#[derive(Debug)]
pub(crate) struct Scraper {
    scraping: Scraping,
    room: Semaphore,
}

impl Scraper {
    pub(crate) fn new(scraping: Scraping) -> Self {
        Self { scraping, room: Semaphore::new(AT_ONCE) }
    }

    /// The page of one measurement. What could not be measured is an error and no page, for a page without an answer
    /// would tell Prometheus that the target is down.
    pub(crate) async fn answer(
        &self,
        jobs: &Jobs,
        question: &Question,
        headers: &HeaderMap,
    ) -> Result<Response, Fault> {
        let patience = headers
            .get(PATIENCE)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let scrape = self.scraping.modules.scrape(&ScrapeRequest {
            module: question.module.as_deref(),
            target: question.target.as_deref(),
            hostname: question.hostname.as_deref(),
            patience,
        })?;
        let Ok(_room) = self.room.try_acquire() else {
            let text = format!("more than {AT_ONCE} measurements at once; try again later");
            return Err(Fault::new(ErrorCode::Saturated, text));
        };
        let begun = Instant::now();
        // The module ends by its own timeout, and says then what it has found.
        let ttl = scrape.limit + Duration::from_millis(300);
        let order = DirectOrder {
            kind: scrape.kind.clone(),
            target: scrape.target.clone(),
            params: scrape.params.clone(),
            ttl,
        };
        let outcome = jobs.run_direct(order).await?;
        let took = begun.elapsed();
        let debug = question.debug.as_deref() == Some("true");
        let told = debug.then(|| outcome.clone());
        let mut page = (self.scraping.page)(&scrape.kind, outcome, took);
        if let Some(outcome) = told {
            page = scrape.debug_page(&outcome, took, &page);
        }
        Ok(([(header::CONTENT_TYPE, TEXT)], page).into_response())
    }
}
