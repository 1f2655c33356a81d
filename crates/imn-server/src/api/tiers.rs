//! `/tiers`: the policies of sets of targets.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use imn_contract::{ModuleType, canonical_type};
use imn_domain::{self as domain, FieldValue, Fields, LiteralError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, audit,
    auth::Principal,
    decode::{Body, Key, Query},
    etag,
    listing::{ListQuery, Listing, Literal, duration_value, names, time_value},
    measurable::{Types, check_members},
    page::List,
    policy::{AgentSelection, ExpectedOutcome, Strategy},
    problem::{FieldError, Problem},
    target::MAX_TEXT,
    text,
};
use crate::clock::now_us;

/// Least and greatest interval, in milliseconds.
const INTERVAL_MS: std::ops::RangeInclusive<u64> = 10..=7 * 86_400_000;
/// Least and greatest timeout, in milliseconds.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1..=60_000;
/// A timeout is at most so many intervals: each is a round that still waits, and all of them are kept.
const TIMEOUT_INTERVALS: u64 = 100;
/// Timeout where none is said, in milliseconds.
const USUAL_TIMEOUT_MS: u64 = 2_000;
const MAX_COUNT: u32 = 1_000;
const MAX_RETRIES: u32 = 10;

/// One measurement that a tier makes of each of its targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Probe {
    /// Module type or alias, such as `icmp`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Parameters of the type.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(crate) params: Map<String, Value>,
}

/// A tier as a client writes it. A tier as GET gave it is taken too: what the server writes is ignored.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TierSpec {
    /// Unique name, `[A-Za-z0-9_-]{1,64}`; may be left out where the path has it.
    #[serde(default)]
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    pub(crate) name: Option<String>,
    /// Name for people.
    #[serde(default)]
    pub(crate) display_name: Option<String>,
    /// Measurements, at least one; `icmp` by default.
    #[serde(default)]
    pub(crate) probes: Option<Vec<Probe>>,
    /// Time between rounds, `10ms` to `7d`.
    #[schema(examples("30s"))]
    pub(crate) probe_interval: String,
    /// How long each packet's answer is waited for: `1ms` to `60s`, and at most 100 intervals, so that it may exceed the
    /// interval. `2s` by default, or 100 intervals where that is less.
    #[serde(default)]
    #[schema(examples("2s"))]
    pub(crate) probe_timeout: Option<String>,
    /// Of `icmp`: rounds in a row without an answer that are each confirmed under a fresh identifier before the target
    /// counts as lost, 0 to 10; at 0 as many as the type does by itself.
    #[serde(default)]
    #[schema(maximum = 10)]
    pub(crate) probe_retries: u32,
    /// Packets per round, 1 to 1,000; 1 by default.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 1000)]
    pub(crate) count: Option<u32>,
    /// Which agents measure; all by default.
    #[serde(default)]
    pub(crate) agent_selection: AgentSelection,
    /// What is expected of targets that say nothing themselves.
    #[serde(default)]
    pub(crate) default_expected_outcome: Option<ExpectedOutcome>,
    /// Written by the server; ignored.
    #[serde(default, skip_serializing)]
    #[schema(read_only)]
    #[expect(dead_code, reason = "taken so that what GET gave can be put back")]
    pub(crate) created: Option<String>,
    /// Written by the server; ignored.
    #[serde(default, skip_serializing)]
    #[schema(read_only)]
    #[expect(dead_code, reason = "taken so that what GET gave can be put back")]
    pub(crate) updated: Option<String>,
    /// Written by the server; ignored.
    #[serde(default, skip_serializing)]
    #[schema(read_only, value_type = Vec<Unmet>)]
    #[expect(dead_code, reason = "taken so that what GET gave can be put back")]
    pub(crate) unmet: Option<Value>,
}

/// A tier.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Tier {
    /// Unique name.
    pub(crate) name: String,
    /// Name for people.
    #[schema(required)]
    pub(crate) display_name: Option<String>,
    /// Measurements made of each target.
    pub(crate) probes: Vec<Probe>,
    /// Time between rounds.
    pub(crate) probe_interval: String,
    /// How long each packet's answer is waited for.
    pub(crate) probe_timeout: String,
    /// Confirmations before a target counts as lost.
    pub(crate) probe_retries: u32,
    /// Packets per round.
    pub(crate) count: u32,
    /// Which agents measure.
    pub(crate) agent_selection: AgentSelection,
    /// What is expected of targets that say nothing themselves.
    #[schema(required)]
    pub(crate) default_expected_outcome: Option<ExpectedOutcome>,
    /// When it was made, RFC 3339 UTC.
    pub(crate) created: String,
    /// When it was last changed, RFC 3339 UTC.
    pub(crate) updated: String,
}

/// A tier, and what it demands in vain.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct TierDetail {
    /// The tier.
    #[serde(flatten)]
    pub(crate) tier: Tier,
    /// Demands of `agent_selection` that are not met now.
    pub(crate) unmet: Vec<Unmet>,
}

/// A demand of a tier that is not met for some of its targets.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Unmet {
    /// What is missing, in words.
    pub(crate) reason: String,
    /// Targets for which it is missing.
    pub(crate) targets: u64,
}

/// No parameters at all.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Nothing {}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, replace, remove))
}

/// List tiers
///
/// Filtered and ordered by `name`, `display_name`, `probe_interval`, `probe_timeout`, `probe_retries`, `count`,
/// `agent_selection.strategy`, `probes` (their types), `created` and `updated`.
#[utoipa::path(get, path = "/api/v1/tiers", tag = "tiers", operation_id = "list_tiers", params(ListQuery),
    responses((status = 200, description = "A page of tiers", body = List<Tier>)))]
async fn list(State(api): State<Api>, Query(query): Query<ListQuery>) -> Result<Json<List<Tier>>, Problem> {
    let listing = Listing::read::<Tier>("tiers", query)?;
    let tiers = api.context.catalog.tiers().await?;
    Ok(Json(listing.page(tiers.into_iter().map(Tier::from), |tier| &tier.name)?))
}

/// Add a tier
#[utoipa::path(post, path = "/api/v1/tiers", tag = "tiers", operation_id = "create_tier", request_body = TierSpec,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repetition is answered as the first time")),
    responses((status = 201, description = "Added", body = Tier,
                  headers(("ETag" = String, description = "For If-Match"), ("Location" = String, description = "Where it is")))))]
async fn create(
    State(api): State<Api>,
    by: Principal,
    Query(Nothing {}): Query<Nothing>,
    Body(spec): Body<TierSpec>,
) -> Result<Response, Problem> {
    let now = now_us();
    let name = spec.name.clone().ok_or_else(|| Problem::field("name", "is missing"))?;
    let tier = spec.into_domain(name, now, now, 1)?;
    Types::of(&api).check_tier(&tier)?;
    api.context.catalog.create_tier(&tier).await?;
    audit::record(&api, &by, "tier.create", &tier.name, &tier).await;
    let location = format!("/api/v1/tiers/{}", tier.name);
    Ok((
        StatusCode::CREATED,
        [(header::ETAG, etag::etag(tier.revision))],
        [(header::LOCATION, location)],
        Json(Tier::from(tier)),
    )
        .into_response())
}

/// Show a tier
#[utoipa::path(get, path = "/api/v1/tiers/{name}", tag = "tiers", operation_id = "get_tier",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, description = "The tier", body = TierDetail, headers(("ETag" = String, description = "For If-Match")))))]
async fn show(
    State(api): State<Api>,
    name: Key,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Response, Problem> {
    let tier = find(&api, &name).await?;
    let revision = tier.revision;
    let shortfalls = api.context.assign.shortfalls(&tier.name);
    let unmet: Vec<Unmet> = shortfalls
        .into_iter()
        .map(|shortfall| Unmet { reason: shortfall.unmet.to_string(), targets: shortfall.targets })
        .collect();
    // The tag is that of what a client writes; what is not met changes without it, so the answer is always whole.
    Ok(([(header::ETAG, etag::etag(revision))], Json(TierDetail { tier: tier.into(), unmet }))
        .into_response())
}

/// Replace a tier
#[utoipa::path(put, path = "/api/v1/tiers/{name}", tag = "tiers", operation_id = "replace_tier", request_body = TierSpec,
    params(("name" = String, Path, description = "Its name"),
           ("If-Match" = String, Header, description = "The ETag that GET gave, or `*`")),
    responses((status = 200, description = "Replaced", body = Tier, headers(("ETag" = String, description = "For If-Match")))))]
async fn replace(
    State(api): State<Api>,
    by: Principal,
    name: Key,
    headers: HeaderMap,
    Query(Nothing {}): Query<Nothing>,
    Body(spec): Body<TierSpec>,
) -> Result<Response, Problem> {
    let old = find(&api, &name).await?;
    etag::require_match(&headers, old.revision)?;
    if spec.name.as_ref().is_some_and(|given| *given != old.name) {
        return Err(Problem::field("name", format!("a tier keeps its name, {:?}", old.name)));
    }
    let tier = spec.into_domain(old.name.clone(), old.created_us, now_us(), old.revision + 1)?;
    if tier.probes != old.probes {
        Types::of(&api).check_tier(&tier)?;
        check_members(&api, &old, &tier).await?;
    }
    api.context.catalog.update_tier(&tier).await?;
    api.changed();
    audit::record(&api, &by, "tier.replace", &tier.name, &tier).await;
    Ok(([(header::ETAG, etag::etag(tier.revision))], Json(Tier::from(tier))).into_response())
}

/// Remove a tier that no target uses
#[utoipa::path(delete, path = "/api/v1/tiers/{name}", tag = "tiers", operation_id = "delete_tier",
    params(("name" = String, Path, description = "Its name"),
           ("If-Match" = String, Header, description = "The ETag that GET gave, or `*`")),
    responses((status = 204, description = "Removed"),
              (status = 409, description = "Targets use it")))]
async fn remove(
    State(api): State<Api>,
    by: Principal,
    name: Key,
    headers: HeaderMap,
    Query(Nothing {}): Query<Nothing>,
) -> Result<StatusCode, Problem> {
    let tier = find(&api, &name).await?;
    etag::require_match(&headers, tier.revision)?;
    api.context.catalog.delete_tier(&tier.name, Some(tier.revision)).await?;
    audit::record(&api, &by, "tier.delete", &tier.name, &Value::Null).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(api: &Api, name: &str) -> Result<domain::Tier, Problem> {
    api.context.catalog.tier(name).await?.ok_or_else(|| Problem::not_found("tier", name))
}

impl TierSpec {
    fn into_domain(
        self,
        name: String,
        created_us: i64,
        updated_us: i64,
        revision: u64,
    ) -> Result<domain::Tier, Problem> {
        let mut errors = Vec::new();
        if !is_name(&name) {
            errors.push(FieldError::new("name", "use 1 to 64 of A-Z a-z 0-9 _ -"));
        }
        let probes = probes(self.probes, &mut errors);
        let interval = ranged("probe_interval", &self.probe_interval, &INTERVAL_MS, &mut errors);
        let interval_is_known = errors.iter().all(|error| error.field != "probe_interval");
        let longest = interval.saturating_mul(TIMEOUT_INTERVALS);
        let timeout = match self.probe_timeout.as_deref() {
            None => USUAL_TIMEOUT_MS.min(longest),
            Some(given) => {
                let timeout = ranged("probe_timeout", given, &TIMEOUT_MS, &mut errors);
                if interval_is_known && timeout > longest {
                    let message = format!(
                        "{given:?} is more than {TIMEOUT_INTERVALS} intervals: use at most {}, or a longer \
                         probe_interval",
                        text::duration(longest)
                    );
                    errors.push(FieldError::new("probe_timeout", message));
                }
                timeout
            }
        };
        let count = self.count.unwrap_or(1);
        if !(1..=MAX_COUNT).contains(&count) {
            errors.push(FieldError::new("count", format!("must be from 1 to {MAX_COUNT}")));
        }
        if self.probe_retries > MAX_RETRIES {
            errors.push(FieldError::new("probe_retries", format!("must be from 0 to {MAX_RETRIES}")));
        }
        if self.display_name.as_ref().is_some_and(|name| name.len() > MAX_TEXT) {
            errors.push(FieldError::new("display_name", format!("has more than {MAX_TEXT} bytes")));
        }
        let agent_selection = self.agent_selection.into_domain("agent_selection", &mut errors);
        if !errors.is_empty() {
            return Err(Problem::fields(errors));
        }
        Ok(domain::Tier {
            name,
            display_name: self.display_name,
            probes,
            probe_interval_ms: interval,
            probe_timeout_ms: timeout,
            probe_retries: self.probe_retries,
            count,
            agent_selection,
            default_expected_outcome: self.default_expected_outcome.map(Into::into),
            created_us,
            updated_us,
            revision,
        })
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn probes(given: Option<Vec<Probe>>, errors: &mut Vec<FieldError>) -> Vec<domain::Probe> {
    let given = given.unwrap_or_else(|| vec![Probe { kind: "icmp".to_owned(), params: Map::new() }]);
    if given.is_empty() {
        errors.push(FieldError::new("probes", "needs at least one probe"));
    }
    let mut probes: Vec<domain::Probe> = Vec::with_capacity(given.len());
    for (at, probe) in given.into_iter().enumerate() {
        let field = format!("probes[{at}].type");
        match ModuleType::new(canonical_type(&probe.kind)) {
            Ok(kind) if probes.iter().any(|other| other.kind == kind) => {
                errors.push(FieldError::new(field, format!("{kind} is there already; one probe per type")));
            }
            Ok(kind) => probes.push(domain::Probe { kind, params: probe.params }),
            Err(error) => errors.push(FieldError::new(field, error.to_string())),
        }
    }
    probes
}

fn ranged(
    field: &str,
    given: &str,
    range: &std::ops::RangeInclusive<u64>,
    errors: &mut Vec<FieldError>,
) -> u64 {
    let message = match text::parse_duration(given) {
        Ok(ms) if range.contains(&ms) => return ms,
        Ok(_) => format!(
            "{given:?} is out of range: {} to {}",
            text::duration(*range.start()),
            text::duration(*range.end())
        ),
        Err(message) => message,
    };
    errors.push(FieldError::new(field, message));
    *range.start()
}

impl Fields for Tier {
    fn literal(path: &[String], text: &str) -> Result<FieldValue, LiteralError> {
        let literal = match names(path).as_slice() {
            ["name" | "display_name" | "probes"] => Literal::Text,
            ["agent_selection", "strategy"] => Literal::OneOf(&["all", "distributed"]),
            ["count" | "probe_retries"] | ["agent_selection", "count"] => Literal::Number,
            ["probe_interval" | "probe_timeout"] => Literal::Duration,
            ["created" | "updated"] => Literal::Time,
            _ => return Err(LiteralError::UnknownField),
        };
        literal.read(text)
    }

    fn value(&self, path: &[String]) -> Option<FieldValue> {
        let text = match names(path).as_slice() {
            ["name"] => self.name.clone(),
            ["display_name"] => self.display_name.clone()?,
            ["probes"] => self.probes.iter().map(|probe| probe.kind.as_str()).collect::<Vec<_>>().join(" "),
            ["agent_selection", "strategy"] => match self.agent_selection.strategy {
                Strategy::All => "all".to_owned(),
                Strategy::Distributed => "distributed".to_owned(),
            },
            ["agent_selection", "count"] => {
                return self.agent_selection.count.map(|count| FieldValue::Number(count.into()));
            }
            ["count"] => return Some(FieldValue::Number(self.count.into())),
            ["probe_retries"] => return Some(FieldValue::Number(self.probe_retries.into())),
            ["probe_interval"] => return duration_value(&self.probe_interval),
            ["probe_timeout"] => return duration_value(&self.probe_timeout),
            ["created"] => return time_value(&self.created),
            ["updated"] => return time_value(&self.updated),
            _ => return None,
        };
        Some(FieldValue::Text(text))
    }

    fn is_sortable(path: &[String]) -> bool {
        Self::literal(path, "*") != Err(LiteralError::UnknownField)
    }
}

impl From<domain::Tier> for Tier {
    fn from(tier: domain::Tier) -> Self {
        Self {
            name: tier.name,
            display_name: tier.display_name,
            probes: tier
                .probes
                .into_iter()
                .map(|probe| Probe { kind: probe.kind.to_string(), params: probe.params })
                .collect(),
            probe_interval: text::duration(tier.probe_interval_ms),
            probe_timeout: text::duration(tier.probe_timeout_ms),
            probe_retries: tier.probe_retries,
            count: tier.count,
            agent_selection: tier.agent_selection.into(),
            default_expected_outcome: tier.default_expected_outcome.map(Into::into),
            created: text::time(tier.created_us),
            updated: text::time(tier.updated_us),
        }
    }
}
