//! `/registry`: modules that are published for agents to fetch and run.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use imn_contract::{
    ModuleType,
    latest::{MAX_ARTIFACT_BYTES, ModuleLimits, ModuleManifest, Selector},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api, audit,
    auth::Principal,
    decode::{Key, Pieces, Query},
    jobs::JobSelector,
    modules::module_type,
    page::List,
    problem::Problem,
    tiers::Nothing,
};
use crate::{
    artifact::{self, Error, for_agent},
    clock::{now_us, rfc3339},
};

const MAX_VERSION: usize = 64;
const MAX_INSTANCES: u32 = 64;
const MAX_SLOTS: u32 = 10_000;
/// Greatest manifest, in bytes, so that the list of all fits a message.
const MAX_MANIFEST: usize = 8 << 10;

/// A module that is published.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct PublishedModule {
    /// Its type.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Its version, as its publisher calls it.
    pub(crate) version: String,
    /// Counts what was published under this type.
    pub(crate) revision: u64,
    /// SHA-256 of the executable, in hexadecimal.
    pub(crate) sha256: String,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Arguments.
    pub(crate) args: Vec<String>,
    /// Processes; null: one.
    #[schema(required)]
    pub(crate) instances: Option<u32>,
    /// Jobs that each does at once; null: the module's own default.
    #[schema(required)]
    pub(crate) slots: Option<u32>,
    /// Whether it takes standing assignments.
    pub(crate) standing: bool,
    /// Its configuration.
    #[schema(value_type = Object)]
    pub(crate) config: Map<String, Value>,
    /// What each process may use.
    pub(crate) limits: Limits,
    /// The agents that its publisher chose; null: all.
    #[schema(required)]
    pub(crate) from: Option<ChosenAgents>,
    /// The known agents that these are.
    pub(crate) agents: Vec<String>,
    /// When it was published, RFC 3339 UTC.
    pub(crate) published: String,
}

/// What a process may use; what is null is not limited.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct Limits {
    /// Data and anonymous memory, in MiB.
    #[schema(required)]
    pub(crate) memory_mb: Option<u64>,
    /// Open files.
    #[schema(required)]
    pub(crate) open_files: Option<u64>,
    /// How far it stands back for others, 0 to 19.
    #[schema(required)]
    pub(crate) nice: Option<i32>,
}

/// Which agents are to run a module.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ChosenAgents {
    /// These, by id or name; empty: any.
    pub(crate) agents: Vec<String>,
    /// Those in any of these regions; empty: anywhere.
    pub(crate) regions: Vec<String>,
    /// Those that carry all of these tags.
    pub(crate) tags: BTreeMap<String, String>,
}

/// How a module is to run.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ManifestQuery {
    /// Its version, 1 to 64 characters.
    version: String,
    /// Processes, 1 to 64.
    #[param(value_type = Option<u32>)]
    instances: Option<String>,
    /// Jobs that each does at once, 1 to 10,000.
    #[param(value_type = Option<u32>)]
    slots: Option<String>,
    /// `true`: it takes standing assignments.
    #[param(value_type = Option<bool>)]
    standing: Option<String>,
    /// Its arguments, a JSON array of texts.
    args: Option<String>,
    /// Its configuration, a JSON object.
    config: Option<String>,
    /// `{"memory_mb":…,"open_files":…,"nice":…}`.
    limits: Option<String>,
    /// The agents that are to run it, as `from` of a job without a limit; absent: all.
    agents: Option<String>,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(publish, withdraw))
}

/// List the published modules by type
#[utoipa::path(get, path = "/api/v1/registry", tag = "registry", operation_id = "list_registry",
    responses((status = 200, description = "What is published", body = List<PublishedModule>)))]
async fn list(
    State(api): State<Api>,
    Query(Nothing {}): Query<Nothing>,
) -> Result<Json<List<PublishedModule>>, Problem> {
    let published = api.context.artifacts.published().await?;
    Ok(Json(List::whole(published.into_iter().map(|manifest| shown(&api, manifest)).collect())))
}

/// Publish a module
///
/// The body is the executable, at most 256 MiB. The agents that are to run it fetch it, verify it, and replace what they
/// ran of this type.
#[utoipa::path(put, path = "/api/v1/registry/{type}", tag = "registry", operation_id = "publish_module",
    params(("type" = String, Path, description = "The type that it is to be"), ManifestQuery),
    request_body(content = String, content_type = "application/octet-stream"),
    responses((status = 200, description = "Published, in place of an earlier revision", body = PublishedModule),
              (status = 201, description = "Published", body = PublishedModule),
              (status = 413, description = "The executable is too large")))]
async fn publish(
    State(api): State<Api>,
    by: Principal,
    kind: Key,
    Query(query): Query<ManifestQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let kind = module_type(&kind)?;
    if api.context.config.types.contains(&kind) {
        return Err(Problem::field("type", format!("{kind} is built in; publish under another type")));
    }
    let manifest = query.manifest(kind)?;
    let (parts, body) = request.into_parts();
    let mut pieces =
        Pieces::of(&parts.headers, body, usize::try_from(MAX_ARTIFACT_BYTES).unwrap_or(usize::MAX))?;
    let mut upload = api.context.artifacts.upload(&manifest.kind).await?;
    while let Some(piece) = pieces.next().await? {
        upload.push(piece).await?;
    }
    let stored = upload.finish().await?;
    if stored.size == 0 {
        return Err(Problem::field("", "the body is empty; send the executable"));
    }
    let manifest =
        ModuleManifest { object: stored.object, sha256: stored.sha256, size: stored.size, ..manifest };
    let published = api.context.artifacts.publish(&manifest).await?;
    audit::record(&api, &by, "registry.publish", published.kind.as_str(), &published).await;
    let status = if published.revision == 1 { StatusCode::CREATED } else { StatusCode::OK };
    let location = format!("/api/v1/registry/{}", published.kind);
    Ok((status, [(header::LOCATION, location)], Json(shown(&api, published))).into_response())
}

/// Unpublish a module: agents that run it drain it
#[utoipa::path(delete, path = "/api/v1/registry/{type}", tag = "registry", operation_id = "unpublish_module",
    params(("type" = String, Path, description = "Its type")),
    responses((status = 204, description = "No longer published")))]
async fn withdraw(
    State(api): State<Api>,
    by: Principal,
    kind: Key,
    Query(Nothing {}): Query<Nothing>,
) -> Result<StatusCode, Problem> {
    let kind = module_type(&kind)?;
    let before = api.context.artifacts.withdraw(&kind).await?;
    let detail = json!({ "version": before.version, "sha256": before.sha256 });
    audit::record(&api, &by, "registry.unpublish", kind.as_str(), &detail).await;
    Ok(StatusCode::NO_CONTENT)
}

impl ManifestQuery {
    /// The manifest as far as it is known before the executable.
    fn manifest(self, kind: ModuleType) -> Result<ModuleManifest, Problem> {
        let within = |name: &str, text: Option<String>, most: u32| {
            let Some(text) = text else { return Ok(None) };
            let number = text.parse().ok().filter(|number| (1..=most).contains(number));
            number.map(Some).ok_or_else(|| Problem::field(name, format!("use a whole number, 1 to {most}")))
        };
        let version = self.version;
        if !(1..=MAX_VERSION).contains(&version.chars().count()) || version.chars().any(char::is_control) {
            return Err(Problem::field("version", format!("use 1 to {MAX_VERSION} visible characters")));
        }
        let standing = match self.standing.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(Problem::field("standing", "use true or false")),
        };
        let limits: ModuleLimits = parsed("limits", self.limits)?.unwrap_or_default();
        let fits = limits.memory_mb.is_none_or(|mb| mb >= 8)
            && limits.open_files.is_none_or(|files| files >= 16)
            && limits.nice.is_none_or(|nice| (0..=19).contains(&nice));
        if !fits {
            let message = "memory_mb is at least 8, open_files at least 16, nice from 0 to 19";
            return Err(Problem::field("limits", message));
        }
        let agents = parsed::<JobSelector>("agents", self.agents)?.map(|chosen| Selector {
            agents: chosen.agents,
            regions: chosen.regions,
            tags: chosen.tags,
            limit: chosen.limit,
        });
        if agents.as_ref().is_some_and(|chosen| chosen.limit.is_some()) {
            return Err(Problem::field("agents.limit", "leave it out: all that match run the module"));
        }
        let config: Map<String, Value> = parsed("config", self.config)?.unwrap_or_default();
        if config.values().any(has_null) {
            // Agents keep it as TOML, which has none.
            return Err(Problem::field("config", "leave out what is null"));
        }
        let manifest = ModuleManifest {
            kind,
            version,
            revision: 0,
            sha256: String::new(),
            size: 0,
            object: String::new(),
            args: parsed("args", self.args)?.unwrap_or_default(),
            instances: within("instances", self.instances, MAX_INSTANCES)?,
            slots: within("slots", self.slots, MAX_SLOTS)?,
            standing,
            config,
            limits,
            agents: agents.filter(|chosen| *chosen != Selector::default()),
            published: rfc3339(now_us()),
        };
        if serde_json::to_vec(&manifest).map_or(0, |text| text.len()) > MAX_MANIFEST {
            return Err(Problem::field("", format!("the manifest is larger than {MAX_MANIFEST} bytes")));
        }
        Ok(manifest)
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(map) => map.values().any(has_null),
        _ => false,
    }
}

/// A parameter whose value is JSON.
fn parsed<T: DeserializeOwned>(name: &str, text: Option<String>) -> Result<Option<T>, Problem> {
    let read = text.map(|text| serde_json::from_str(&text)).transpose();
    read.map_err(|error| Problem::field(name, format!("write it as JSON: {error}")))
}

fn shown(api: &Api, manifest: ModuleManifest) -> PublishedModule {
    let views = api.context.registry.agents(now_us());
    let agents =
        views.iter().filter(|view| for_agent(&manifest, &view.agent)).map(|view| view.agent.id.to_string());
    PublishedModule {
        agents: agents.collect(),
        kind: manifest.kind.to_string(),
        version: manifest.version,
        revision: manifest.revision,
        sha256: manifest.sha256,
        size: manifest.size,
        args: manifest.args,
        instances: manifest.instances,
        slots: manifest.slots,
        standing: manifest.standing,
        config: manifest.config,
        limits: Limits {
            memory_mb: manifest.limits.memory_mb,
            open_files: manifest.limits.open_files,
            nice: manifest.limits.nice,
        },
        from: manifest.agents.map(|chosen| ChosenAgents {
            agents: chosen.agents,
            regions: chosen.regions,
            tags: chosen.tags,
        }),
        published: manifest.published,
    }
}

impl From<artifact::Error> for Problem {
    fn from(error: artifact::Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::NotPublished { .. } => Self::new(StatusCode::NOT_FOUND, "not-found", detail),
            Error::TooMany { .. } | Error::Overtaken | Error::Full { .. } => Self::conflict(detail),
            Error::Off => Self::new(StatusCode::CONFLICT, "no-registry", detail),
            Error::Key(_) | Error::NotOurs { .. } | Error::Decode(_) => Self::internal(detail),
            Error::Nats(_) | Error::Ends => Self::unavailable(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> ManifestQuery {
        let map = pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
        serde_json::from_value(Value::Object(map)).unwrap()
    }

    #[test]
    fn a_manifest_is_read_and_what_is_wrong_is_named() {
        let kind = || ModuleType::new("hello").unwrap();
        let good = query(&[
            ("version", "1.0"),
            ("instances", "2"),
            ("standing", "true"),
            ("args", "[\"--fast\"]"),
            ("config", "{\"greeting\":\"hi\"}"),
            ("limits", "{\"nice\":5}"),
            ("agents", "{\"regions\":[\"eu\"]}"),
        ]);
        let manifest = good.manifest(kind()).unwrap();
        assert_eq!((manifest.instances, manifest.slots, manifest.standing), (Some(2), None, true));
        assert_eq!((manifest.args.as_slice(), manifest.limits.nice), (&["--fast".to_owned()][..], Some(5)));
        assert_eq!(manifest.agents.unwrap().regions, ["eu"]);
        let all = query(&[("version", "1"), ("agents", "{}")]).manifest(kind()).unwrap();
        assert_eq!(all.agents, None);
        for (name, value) in [
            ("version", ""),
            ("instances", "65"),
            ("slots", "none"),
            ("standing", "yes"),
            ("args", "--fast"),
            ("config", "[]"),
            ("config", "{\"greeting\":[null]}"),
            ("limits", "{\"nice\":20}"),
            ("agents", "{\"limit\":1}"),
        ] {
            let mut pairs = vec![("version", "1")];
            pairs.retain(|(known, _)| *known != name);
            pairs.push((name, value));
            let errors = query(&pairs).manifest(kind()).unwrap_err().into_errors();
            assert!(errors[0].field.starts_with(name), "{name}: {errors:?}");
        }
    }
}
