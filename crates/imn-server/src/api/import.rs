//! `targets:import`: many targets at once.

mod csv;

use std::collections::{BTreeSet, HashMap};

use axum::{
    Json,
    extract::{Request, State},
};
use imn_domain as domain;
use imn_store::CatalogError;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, audit,
    auth::Principal,
    decode::{self, Query},
    measurable::Types,
    problem::{FieldError, Problem},
    target::TargetSpec,
    targets::refused,
};
use crate::clock::now_us;
pub(crate) use csv::COUNT as CSV_COUNT;

/// Imports in work at once; others wait.
pub(crate) const AT_ONCE: usize = 2;
/// Greatest import, in bytes.
pub(crate) const MAX_BODY: usize = 64 << 20;
const MAX_LINES: usize = 100_000;
/// Targets read or written at once.
const CHUNK: usize = 2_000;
/// Errors listed at most.
const MAX_ERRORS: usize = 1_000;
/// Lines between two pauses that let other requests have the thread.
const PAUSE_LINES: usize = 500;

/// One field of one line that is wrong.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct LineError {
    /// Number of the line, from 1.
    pub(crate) line: usize,
    /// Path of the field; empty for the line as a whole.
    pub(crate) field: String,
    /// What is wrong and what to do.
    pub(crate) message: String,
}

/// What became of an import.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct ImportReport {
    /// Targets added.
    pub(crate) created: usize,
    /// Targets that were there and are now as the line says.
    pub(crate) updated: usize,
    /// Targets that were as the line says already.
    pub(crate) unchanged: usize,
    /// Lines that were not imported; the first 1,000.
    pub(crate) errors: Vec<LineError>,
}

/// How to import.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ImportQuery {
    /// `true`: only say what would be done.
    #[param(value_type = Option<bool>)]
    dry_run: Option<String>,
    /// `true`: change nothing when any line is wrong.
    #[param(value_type = Option<bool>)]
    atomic: Option<String>,
}

/// The last line of an export.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trailer {
    pub(crate) count: usize,
}

/// What an import will do.
#[derive(Default)]
struct Plan {
    create: Vec<(usize, domain::Target)>,
    update: Vec<(usize, domain::Target)>,
    report: ImportReport,
    failed: BTreeSet<usize>,
    /// The line on which each address stands.
    seen: HashMap<String, usize>,
}

/// What there is before an import.
struct Before {
    /// Targets by address.
    known: HashMap<String, domain::Target>,
    tiers: HashMap<String, domain::Tier>,
    types: Types,
    now: i64,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(import))
}

/// Add or change many targets
///
/// Lines are targets as POST takes them, as NDJSON, or CSV whose header names the fields (`address,tier,tags.pop`; `tags`,
/// `params` and `expected_outcome` as JSON). What `targets:export` gave is taken as it is. A target whose address is there
/// already is replaced. At most 100,000 lines.
#[utoipa::path(post, path = "/api/v1/targets:import", tag = "targets", operation_id = "import_targets", params(ImportQuery),
    request_body(content((String = "application/x-ndjson"), (String = "text/csv"))),
    responses((status = 200, description = "What became of it", body = ImportReport)))]
async fn import(
    State(api): State<Api>,
    by: Principal,
    Query(query): Query<ImportQuery>,
    request: Request,
) -> Result<Json<ImportReport>, Problem> {
    let dry_run = flag("dry_run", query.dry_run.as_deref())?;
    let atomic = flag("atomic", query.atomic.as_deref())?;
    let (parts, body) = request.into_parts();
    let is_csv = match decode::media_type(&parts.headers) {
        "text/csv" => true,
        "application/x-ndjson" | "application/jsonl" | "application/ndjson" => false,
        media => return Err(decode::unsupported(media, "application/x-ndjson or text/csv")),
    };
    // Each is held in memory as a whole.
    let _turn = api.imports.acquire().await.map_err(|error| Problem::internal(error.to_string()))?;
    let bytes = decode::read(&parts.headers, body, MAX_BODY).await?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| Problem::field("", format!("the body is not UTF-8: {error}")))?;
    let lines = if is_csv { csv::lines(text)? } else { ndjson(text) };
    if lines.len() > MAX_LINES {
        return Err(Problem::field("", format!("{} lines; at most {MAX_LINES} at once", lines.len())));
    }
    let mut plan = plan(&api, lines).await?;
    if dry_run || (atomic && !plan.failed.is_empty()) {
        if !dry_run {
            (plan.report.updated, plan.report.unchanged) = (0, 0);
            plan.create.clear();
        }
        plan.report.created = plan.create.len();
        return Ok(Json(plan.report));
    }
    let report = carry_out(&api, plan, atomic).await?;
    if report.created + report.updated > 0 {
        api.changed();
        let detail = json!({ "created": report.created, "updated": report.updated });
        audit::record(&api, &by, "target.import", "targets", &detail).await;
    }
    Ok(Json(report))
}

fn flag(field: &str, text: Option<&str>) -> Result<bool, Problem> {
    match text {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1" | "") => Ok(true),
        Some(_) => Err(Problem::field(field, "is neither true nor false")),
    }
}

/// Each line's number and target.
type Lines = Vec<(usize, Result<TargetSpec, Problem>)>;

fn ndjson(text: &str) -> Lines {
    let mut lines: Lines = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        // The trailer of an export is no target; it only shows that nothing is missing.
        if let Ok(Trailer { count }) = serde_json::from_str(line) {
            check_count(Some(count), at + 1, &mut lines);
            continue;
        }
        lines.push((at + 1, decode::json_line(line.as_bytes())));
    }
    lines
}

/// Whether as many lines came before the last one of an export as it says.
fn check_count(count: Option<usize>, line: usize, lines: &mut Lines) {
    let before = lines.len();
    if count != Some(before) {
        let said = count.map_or_else(|| "an unreadable number of".to_owned(), |count| count.to_string());
        let message = format!("the export had {said} targets, {before} lines came before this");
        lines.push((line, Err(Problem::field("count", message))));
    }
}

async fn plan(api: &Api, lines: Lines) -> Result<Plan, Problem> {
    let catalog = &api.context.catalog;
    let tiers = catalog.tiers().await?.into_iter().map(|tier| (tier.name.clone(), tier)).collect();
    let mut known = HashMap::new();
    let mut after = None;
    loop {
        let page = catalog.targets(after.as_deref(), CHUNK).await?;
        known.extend(page.items.into_iter().map(|target| (target.address.clone(), target)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let before = Before { known, tiers, types: Types::of(api), now: now_us() };
    let mut plan = Plan::default();
    for (at, (number, spec)) in lines.into_iter().enumerate() {
        if at.is_multiple_of(PAUSE_LINES) {
            tokio::task::yield_now().await;
        }
        if let Err(problem) = spec.and_then(|spec| plan.take(number, spec, &before)) {
            plan.fail(number, problem);
        }
    }
    plan.report.updated = plan.update.len();
    Ok(plan)
}

impl Plan {
    fn take(&mut self, line: usize, mut spec: TargetSpec, before: &Before) -> Result<(), Problem> {
        // An id is of the network that the target was exported from; here the address decides.
        spec.id = None;
        let new = spec.clone().create(before.now)?;
        let Some(tier) = before.tiers.get(&new.tier) else {
            return Err(Problem::field("tier", format!("there is no tier {:?}", new.tier)));
        };
        let old = before.known.get(&new.address);
        if old.is_none_or(|old| (&old.tier, old.kind) != (&new.tier, new.kind)) {
            before.types.check_target(tier, new.kind)?;
        }
        if old.is_none_or(|old| (&old.tier, old.kind, &old.params) != (&new.tier, new.kind, &new.params)) {
            before.types.check_params(tier, &new)?;
        }
        if let Some(first) = self.seen.insert(new.address.clone(), line) {
            return Err(Problem::field("address", format!("is the same as on line {first}")));
        }
        let Some(old) = old else {
            self.create.push((line, new));
            return Ok(());
        };
        let next = spec.replace(old.clone(), before.now)?;
        let same =
            domain::Target { updated_us: old.updated_us, revision: old.revision, ..next.clone() } == *old;
        if same {
            self.report.unchanged += 1;
        } else {
            self.update.push((line, next));
        }
        Ok(())
    }

    fn fail(&mut self, line: usize, problem: Problem) {
        self.failed.insert(line);
        for FieldError { field, message, .. } in problem.into_errors() {
            if self.report.errors.len() < MAX_ERRORS {
                self.report.errors.push(LineError { line, field, message });
            }
        }
    }
}

async fn carry_out(api: &Api, mut plan: Plan, atomic: bool) -> Result<ImportReport, Problem> {
    let catalog = &api.context.catalog;
    let (create, update) = (std::mem::take(&mut plan.create), std::mem::take(&mut plan.update));
    plan.report.updated = 0;
    // One transaction when it must be all or nothing.
    let chunk = if atomic { create.len().max(1) } else { CHUNK };
    for part in create.chunks(chunk) {
        let targets: Vec<domain::Target> = part.iter().map(|(_, target)| target.clone()).collect();
        match catalog.create_targets(&targets).await {
            Ok(()) => plan.report.created += targets.len(),
            Err(error) if atomic => return Err(refused(error)),
            // Somebody else made one of them meanwhile: the others are none the worse for it.
            Err(CatalogError::Exists { .. } | CatalogError::Reference { .. }) => {
                for (line, target) in part {
                    match catalog.create_targets(std::slice::from_ref(target)).await {
                        Ok(()) => plan.report.created += 1,
                        Err(error) => plan.fail(*line, refused(error)),
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    for (line, target) in update {
        match catalog.update_target(&target).await {
            Ok(()) => plan.report.updated += 1,
            Err(error) => plan.fail(line, refused(error)),
        }
    }
    Ok(plan.report)
}
