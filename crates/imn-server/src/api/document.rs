//! The OpenAPI document: made from the routes, so that it cannot say anything else.

use axum::http::Method;
use utoipa::openapi::{
    Components, ContentBuilder, Info, OpenApi, OpenApiBuilder, Ref, RefOr, ResponseBuilder,
    SecurityRequirement,
    path::Operation,
    security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{
    auth::Role,
    enroll, guarded, meta,
    problem::{FieldError, MEDIA_TYPE, ProblemBody},
    scrape,
};

const SCHEME: &str = "api_key";

/// The OpenAPI 3.1 document of the HTTP API.
pub fn openapi() -> OpenApi {
    let mut info = Info::new("IMN", "1");
    info.description = Some(
        "The control plane of the Internet Measurement Network. Send `Authorization: Bearer imn_<id>_<secret>`. \
         Every error is a problem (RFC 9457). Lists are pages: give `next_page_token` back as `page_token`. A \
         change of a target or tier needs `If-Match` with the ETag that GET gave."
            .to_owned(),
    );
    let empty = OpenApiBuilder::new().info(info).components(Some(Components::new())).build();
    let router = OpenApiRouter::with_openapi(empty)
        .merge(meta::routes())
        .merge(scrape::routes())
        .merge(enroll::routes())
        .merge(guarded());
    let (_, mut document) = router.split_for_parts();
    let components = document.components.get_or_insert_with(Components::new);
    components.schemas.insert(ProblemBody::name().into_owned(), ProblemBody::schema());
    components.schemas.insert(FieldError::name().into_owned(), FieldError::schema());
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("imn_<id>_<secret>").build();
    components.add_security_scheme(SCHEME, SecurityScheme::Http(bearer));
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (Method::GET, &mut item.get),
            (Method::POST, &mut item.post),
            (Method::PUT, &mut item.put),
            (Method::DELETE, &mut item.delete),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                finish(&method, path, operation);
            }
        }
    }
    document
}

/// The document as it is committed and served.
pub(crate) fn text() -> String {
    // A document made of plain values always serializes.
    openapi().to_pretty_json().unwrap_or_default() + "\n"
}

/// Adds what all operations have alike: problems, security and the role.
fn finish(method: &Method, path: &str, operation: &mut Operation) {
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name(ProblemBody::name()))).build();
    let response =
        ResponseBuilder::new().description("A problem (RFC 9457)").content(MEDIA_TYPE, problem.clone());
    operation.responses.responses.insert("default".to_owned(), RefOr::T(response.build()));
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && status.starts_with('4')
            && response.content.is_empty()
        {
            response.content.insert(MEDIA_TYPE.to_owned(), RefOr::T(problem.clone()));
        }
    }
    if path.starts_with("/api/") && !enroll::is_open(path) {
        operation.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(SCHEME, [])]);
        let role = format!("Needs the role {}.", Role::required(method, path).as_str());
        operation.description = Some(
            operation.description.take().map_or_else(|| role.clone(), |text| format!("{text}\n\n{role}")),
        );
    } else {
        operation.security = Some(Vec::new());
    }
}
