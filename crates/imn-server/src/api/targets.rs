//! `/targets`: what is measured continuously.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use imn_contract::TargetId;
use imn_domain::{self as domain, FieldValue, Filter, FilterError, Sort, classify};
use imn_store::{CatalogError, GapQuery, Order, RoundQuery};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, audit,
    auth::Principal,
    decode::{Body, Key, Query},
    etag,
    measurable::Types,
    page::{self, List},
    problem::{FieldError, Problem},
    target::{Target, TargetSpec},
    tiers::Nothing,
};
use crate::clock::now_us;

/// Targets read from the catalog at once.
const CHUNK: usize = 2_000;

/// Which targets, in which order.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TargetsQuery {
    /// AIP-160-like: `monitoring_state=down AND tags.pop="jfk" AND NOT (tier=low OR display_name:"edge")`.
    filter: Option<String>,
    /// `field [desc], …`; by id otherwise.
    order_by: Option<String>,
    /// Targets of a page, 1 to 1,000; 100 by default.
    #[param(value_type = Option<u16>)]
    limit: Option<String>,
    /// `next_page_token` of the page before.
    page_token: Option<String>,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, replace, remove))
}

/// List targets
#[utoipa::path(get, path = "/api/v1/targets", tag = "targets", operation_id = "list_targets", params(TargetsQuery),
    responses((status = 200, description = "A page of targets", body = List<Target>)))]
async fn list(
    State(api): State<Api>,
    Query(query): Query<TargetsQuery>,
) -> Result<Json<List<Target>>, Problem> {
    let limit = page::limit(query.limit.as_deref())?;
    let filter = filter(query.filter.as_deref())?;
    let order_by = query.order_by.as_deref().unwrap_or_default();
    let sort = Sort::parse::<domain::Target>(order_by).map_err(|error| located("order_by", error))?;
    let question = format!("targets\0{}\0{order_by}", query.filter.as_deref().unwrap_or_default());
    let token = query.page_token.as_deref();
    let page = if sort.is_empty() {
        by_id(&api, &filter, &question, page::after(&question, token)?, limit).await?
    } else {
        sorted(&api, &filter, &sort, &question, page::after(&question, token)?, limit).await?
    };
    Ok(Json(page.map(Target::from)))
}

/// Add a target
///
/// `{"ip": "192.0.2.1", "tier": "standard"}` will do, also under curl's default content type.
#[utoipa::path(post, path = "/api/v1/targets", tag = "targets", operation_id = "create_target", request_body = TargetSpec,
    params(("Idempotency-Key" = Option<String>, Header, description = "A repetition is answered as the first time")),
    responses((status = 201, description = "Added", body = Target,
                  headers(("ETag" = String, description = "For If-Match"), ("Location" = String, description = "Where it is"))),
              (status = 409, description = "The address is there already")))]
async fn create(
    State(api): State<Api>,
    by: Principal,
    Query(Nothing {}): Query<Nothing>,
    Body(spec): Body<TargetSpec>,
) -> Result<Response, Problem> {
    let target = spec.create(now_us())?;
    check_measurable(&api, &target).await?;
    api.context.catalog.create_targets(std::slice::from_ref(&target)).await.map_err(refused)?;
    api.context.assign.targets_changed([target.id.clone()]);
    audit::record(&api, &by, "target.create", target.id.as_str(), &target).await;
    let location = HeaderValue::from_str(&format!("/api/v1/targets/{}", target.id))
        .map_err(|error| Problem::internal(error.to_string()))?;
    let tag = etag::etag(target.revision);
    Ok((StatusCode::CREATED, [(header::ETAG, tag), (header::LOCATION, location)], Json(Target::from(target)))
        .into_response())
}

/// Show a target
#[utoipa::path(get, path = "/api/v1/targets/{id}", tag = "targets", operation_id = "get_target",
    params(("id" = String, Path, description = "Its id or its address, percent-encoded")),
    responses((status = 200, description = "The target", body = Target, headers(("ETag" = String, description = "For If-Match"))),
              (status = 304, description = "Still what If-None-Match names")))]
async fn show(
    State(api): State<Api>,
    id: Key,
    headers: HeaderMap,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Response, Problem> {
    let target = find(&api, &id).await?;
    Ok(etag::respond(&headers, target.revision, Target::from(target)))
}

/// Replace what users decide of a target
#[utoipa::path(put, path = "/api/v1/targets/{id}", tag = "targets", operation_id = "replace_target", request_body = TargetSpec,
    params(("id" = String, Path, description = "Its id or its address, percent-encoded"),
           ("If-Match" = String, Header, description = "The ETag that GET gave, or `*`")),
    responses((status = 200, description = "Replaced", body = Target, headers(("ETag" = String, description = "For If-Match")))))]
async fn replace(
    State(api): State<Api>,
    by: Principal,
    id: Key,
    headers: HeaderMap,
    Query(Nothing {}): Query<Nothing>,
    Body(spec): Body<TargetSpec>,
) -> Result<Response, Problem> {
    let old = find(&api, &id).await?;
    etag::require_match(&headers, old.revision)?;
    let before = (old.tier.clone(), old.kind);
    let target = spec.replace(old, now_us())?;
    if before != (target.tier.clone(), target.kind) {
        check_measurable(&api, &target).await?;
    }
    api.context.catalog.update_target(&target).await.map_err(refused)?;
    api.context.assign.targets_changed([target.id.clone()]);
    audit::record(&api, &by, "target.replace", target.id.as_str(), &target).await;
    Ok(([(header::ETAG, etag::etag(target.revision))], Json(Target::from(target))).into_response())
}

/// Remove a target; its results stay
#[utoipa::path(delete, path = "/api/v1/targets/{id}", tag = "targets", operation_id = "delete_target",
    params(("id" = String, Path, description = "Its id or its address, percent-encoded"),
           ("If-Match" = String, Header, description = "The ETag that GET gave, or `*`")),
    responses((status = 204, description = "Removed")))]
async fn remove(
    State(api): State<Api>,
    by: Principal,
    id: Key,
    headers: HeaderMap,
    Query(Nothing {}): Query<Nothing>,
) -> Result<StatusCode, Problem> {
    let target = find(&api, &id).await?;
    etag::require_match(&headers, target.revision)?;
    api.context.catalog.delete_target(&target.id, Some(target.revision)).await?;
    api.context.assign.targets_changed([target.id.clone()]);
    audit::record(&api, &by, "target.delete", target.id.as_str(), &Value::String(target.address)).await;
    Ok(StatusCode::NO_CONTENT)
}

/// A target by id or by address in any form.
pub(crate) async fn find(api: &Api, id_or_address: &str) -> Result<domain::Target, Problem> {
    known(api, id_or_address).await?.ok_or_else(|| Problem::not_found("target", id_or_address))
}

async fn known(api: &Api, id_or_address: &str) -> Result<Option<domain::Target>, CatalogError> {
    let catalog = &api.context.catalog;
    if let Some(target) = catalog.target(id_or_address).await? {
        return Ok(Some(target));
    }
    match classify(id_or_address) {
        Ok((_, address)) if address != id_or_address => catalog.target(&address).await,
        _ => Ok(None),
    }
}

/// Something of the target's tier measures it, and takes its parameters.
async fn check_measurable(api: &Api, target: &domain::Target) -> Result<(), Problem> {
    let Some(tier) = api.context.catalog.tier(&target.tier).await? else {
        return Err(Problem::field("tier", format!("there is no tier {:?}", target.tier)));
    };
    let types = Types::of(api);
    types.check_target(&tier, target.kind)?;
    types.check_params(&tier, target)
}

/// The id of a target by which what was measured of it is found: also that of one that was removed, whose results
/// stay.
pub(crate) async fn find_id(api: &Api, id_or_address: &str) -> Result<TargetId, Problem> {
    if let Some(target) = known(api, id_or_address).await? {
        return Ok(target.id);
    }
    let missing = || Problem::not_found("target", id_or_address);
    let Ok(id) = TargetId::new(id_or_address) else { return Err(missing()) };
    let results = &api.context.results;
    let order = Order::Descending;
    let round =
        RoundQuery { target: Some(id.clone()), brief: true, limit: Some(1), order, ..RoundQuery::default() };
    if !results.rounds(&round).await?.is_empty() {
        return Ok(id);
    }
    let gap = GapQuery { target: Some(id.clone()), limit: Some(1), ..GapQuery::default() };
    if results.gaps(&gap).await?.is_empty() { Err(missing()) } else { Ok(id) }
}

/// The `filter` parameter.
pub(crate) fn filter(text: Option<&str>) -> Result<Filter, Problem> {
    Filter::parse::<domain::Target>(text.unwrap_or_default()).map_err(|error| located("filter", error))
}

/// A refusal of the catalog, naming the field where there is one.
pub(crate) fn refused(error: CatalogError) -> Problem {
    match error {
        // A target refers to nothing but its tier.
        CatalogError::Reference { message, .. } => Problem::field("tier", message),
        error => error.into(),
    }
}

fn located(field: &str, error: FilterError) -> Problem {
    let FilterError { position, message } = error;
    Problem::fields(vec![FieldError {
        position: Some(position),
        ..FieldError::new(field, format!("at position {position}: {message}"))
    }])
}

async fn by_id(
    api: &Api,
    filter: &Filter,
    question: &str,
    mut after: Option<String>,
    limit: usize,
) -> Result<List<domain::Target>, Problem> {
    let mut items = Vec::new();
    let chunk = if filter.is_empty() { limit } else { CHUNK };
    loop {
        let page = api.context.catalog.targets(after.as_deref(), chunk).await?;
        let last_chunk = page.next.is_none();
        after = page.next;
        let mut rest = page.items.into_iter().filter(|target| filter.matches(target));
        items.extend(rest.by_ref().take(limit - items.len()));
        let more = rest.next().is_some() || !last_chunk;
        if items.len() == limit || last_chunk {
            let last = items.last().filter(|_| more).map(|target| target.id.to_string());
            let next_page_token = last.and_then(|id| page::token(question, id));
            return Ok(List { items, next_page_token });
        }
    }
}

/// The sort key of a page's last target, as a token carries it, and its id: the next page begins after it though it
/// be changed or deleted meanwhile.
type Place = (Vec<Value>, String);

async fn sorted(
    api: &Api,
    filter: &Filter,
    sort: &Sort,
    question: &str,
    after: Option<Place>,
    limit: usize,
) -> Result<List<domain::Target>, Problem> {
    let after = after.map(|(key, id)| (key.iter().map(field_value).collect::<Vec<_>>(), id));
    let mut found = Vec::new();
    let mut from = None;
    loop {
        let page = api.context.catalog.targets(from.as_deref(), CHUNK).await?;
        for target in page.items.into_iter().filter(|target| filter.matches(target)) {
            let key = sort.key(&target);
            let is_after = after.as_ref().is_none_or(|(last, id)| {
                sort.compare(&key, last).then_with(|| target.id.as_str().cmp(id)).is_gt()
            });
            if is_after {
                found.push((key, target));
            }
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    found.sort_by(|(a, x), (b, y)| sort.compare(a, b).then_with(|| x.id.cmp(&y.id)));
    let more = found.len() > limit;
    found.truncate(limit);
    let next_page_token = found.last().filter(|_| more).and_then(|(key, target)| {
        let key: Vec<Value> =
            key.iter().map(|value| value.as_ref().map_or(Value::Null, json_value)).collect();
        page::token::<Place>(question, (key, target.id.to_string()))
    });
    Ok(List { items: found.into_iter().map(|(_, target)| target).collect(), next_page_token })
}

fn field_value(value: &Value) -> Option<FieldValue> {
    match value {
        Value::String(text) => Some(FieldValue::Text(text.clone())),
        Value::Number(number) => number.as_f64().map(FieldValue::Number),
        _ => None,
    }
}

fn json_value(value: &FieldValue) -> Value {
    match value {
        FieldValue::Text(text) => Value::String(text.clone()),
        FieldValue::Number(number) => Value::from(*number),
    }
}
