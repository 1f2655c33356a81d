//! `/targets`: what is measured continuously.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use imn_contract::TargetId;
use imn_domain::{self as domain, Filter, classify};
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
    listing::{ListQuery, Listing, located},
    measurable::Types,
    page::{self, List},
    problem::Problem,
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
    let TargetsQuery { filter, order_by, limit, page_token } = query;
    let query = ListQuery { filter, order_by, limit, page_token };
    let listing = Listing::read::<domain::Target>("targets", query)?;
    let page =
        if listing.sort.is_empty() { by_id(&api, &listing).await? } else { sorted(&api, &listing).await? };
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

async fn by_id(api: &Api, listing: &Listing) -> Result<List<domain::Target>, Problem> {
    let Listing { filter, limit, question, .. } = listing;
    let mut after = listing.after_id()?;
    let mut items = Vec::new();
    let chunk = if filter.is_empty() { *limit } else { CHUNK };
    loop {
        let page = api.context.catalog.targets(after.as_deref(), chunk).await?;
        let last_chunk = page.next.is_none();
        after = page.next;
        let mut rest = page.items.into_iter().filter(|target| filter.matches(target));
        items.extend(rest.by_ref().take(limit - items.len()));
        let more = rest.next().is_some() || !last_chunk;
        if items.len() == *limit || last_chunk {
            let last = items.last().filter(|_| more).map(|target| target.id.to_string());
            let next_page_token = last.and_then(|id| page::token(question, id));
            return Ok(List { items, next_page_token });
        }
    }
}

async fn sorted(api: &Api, listing: &Listing) -> Result<List<domain::Target>, Problem> {
    let after = listing.after_place()?;
    let mut found = Vec::new();
    let mut from = None;
    loop {
        let page = api.context.catalog.targets(from.as_deref(), CHUNK).await?;
        for target in page.items.into_iter().filter(|target| listing.filter.matches(target)) {
            let key = listing.sort.key(&target);
            if after.includes(&key, target.id.as_str()) {
                found.push((key, target));
            }
        }
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    Ok(listing.cut(found, |target| target.id.as_str()))
}
