//! From what is published to the list of each agent; and nobody's executables out of the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::TryStreamExt;
use imn_contract::{
    AgentId,
    latest::{AgentControl, AgentOp, ModuleManifest, Registry as Published, Selector},
    stream as names, subject,
};
use imn_domain::Agent;
use imn_runtime::{nats, task::Stop};
use tokio::time::Instant;
use ulid::Ulid;

use super::{Artifacts, Error, Found};
use crate::{clock::now_us, context::Context, readiness::Part};

/// How often it is looked at whether agents have come, or are elsewhere.
const LOOK: Duration = Duration::from_secs(2);
/// How often all that is published is read anew, and what nobody names is removed.
const RESYNC: Duration = Duration::from_secs(30);
/// No upload lasts so long: a request has two minutes.
const ABANDONED: Duration = Duration::from_mins(5);

/// What was last seen to stand in the store.
#[derive(Default)]
struct Known {
    published: Vec<ModuleManifest>,
    lists: BTreeMap<AgentId, Vec<ModuleManifest>>,
}

/// Keeps the lists of all agents as they should be, until `stop`.
pub(crate) async fn run(context: Context, stop: Stop) {
    let artifacts = &context.artifacts;
    if artifacts.signer.is_none() {
        return;
    }
    let mut connected = context.client.events().connected();
    let mut known = Known::default();
    let mut due = Instant::now();
    loop {
        // A stream that is not made yet does not answer.
        if *connected.borrow_and_update() && context.readiness.is_ok(Part::Streams) {
            let anew = Instant::now() >= due;
            match stop.until(reconcile(&context, &mut known, anew)).await {
                None => return,
                Some(Ok(())) if anew => due = Instant::now() + RESYNC,
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::warn!(%error, "lists of the registry stay as they are"),
            }
        }
        tokio::select! {
            () = stop.requested() => return,
            () = artifacts.changed.notified() => due = Instant::now(),
            () = tokio::time::sleep(LOOK) => {}
            // Whoever was away may have lost its store.
            Ok(()) = connected.changed() => {
                known = Known::default();
                due = Instant::now();
            }
        }
    }
}

async fn reconcile(context: &Context, known: &mut Known, anew: bool) -> Result<(), Error> {
    let artifacts = &context.artifacts;
    if anew {
        known.published = artifacts.published().await?;
        // What somebody else has written over a list is found so.
        known.lists.clear();
    }
    let views = context.registry.agents(now_us());
    known.lists.retain(|agent, _| views.iter().any(|view| view.agent.id == *agent));
    for agent in views.into_iter().map(|view| view.agent) {
        let wanted: Vec<ModuleManifest> =
            known.published.iter().filter(|manifest| for_agent(manifest, &agent)).cloned().collect();
        if known.lists.get(&agent.id) != Some(&wanted) {
            artifacts.give(&agent.id, &wanted).await?;
            known.lists.insert(agent.id, wanted);
        }
    }
    if anew { artifacts.sweep(&known.published).await } else { Ok(()) }
}

/// Whether an agent is to run a module.
pub(crate) fn for_agent(manifest: &ModuleManifest, agent: &Agent) -> bool {
    let Some(Selector { agents, regions, tags, .. }) = &manifest.agents else { return true };
    let named = |name: &String| name == agent.id.as_str() || Some(name) == agent.name.as_ref();
    (agents.is_empty() || agents.iter().any(named))
        && (regions.is_empty() || agent.region.as_ref().is_some_and(|region| regions.contains(region)))
        && tags.iter().all(|(key, value)| agent.tags.get(key) == Some(value))
}

impl Artifacts {
    /// Makes the list of an agent say this, and tells it.
    async fn give(&self, agent: &AgentId, wanted: &[ModuleManifest]) -> Result<(), Error> {
        let subject = names::kv_subject(names::REGISTRY_BUCKET, &names::registry_key(agent));
        let Found { list, sequence, .. } = self.find(&subject).await?;
        match &list {
            Some(list) if list.modules == wanted => return Ok(()),
            // Nothing is for it, and nothing ever was.
            None if sequence == 0 && wanted.is_empty() => return Ok(()),
            None if sequence > 0 => {
                tracing::error!(%agent, "list of the registry is not signed by this network's key; written anew");
            }
            _ => {}
        }
        let list = list.unwrap_or_else(super::nothing);
        let list = Published { agent: Some(agent.clone()), modules: wanted.to_vec(), ..list };
        let revision = self.write(&subject, list, sequence).await?;
        let control = AgentControl { v: 1, op: AgentOp::Registry { revision } };
        self.client.publish(&subject::agent_control(agent), &control).await?;
        tracing::info!(%agent, revision, modules = wanted.len(), "list of the registry written");
        Ok(())
    }

    /// Removes executables that nothing published names: those of before, and uploads that were cut short.
    async fn sweep(&self, published: &[ModuleManifest]) -> Result<(), Error> {
        let failed = |error: &dyn std::fmt::Display| nats::Error::Client {
            operation: "remove executables from",
            subject: names::ARTIFACTS.to_owned(),
            message: error.to_string(),
        };
        let jetstream = self.client.jetstream();
        let stream = jetstream.get_stream_no_info(names::ARTIFACTS).await.map_err(|e| failed(&e))?;
        let named: BTreeSet<&str> = published.iter().map(|manifest| manifest.object.as_str()).collect();
        for filter in [names::ARTIFACT_CHUNKS, names::ARTIFACT_INFOS] {
            let mut subjects = stream.info_with_subjects(filter).await.map_err(|e| failed(&e))?;
            while let Some((subject, _)) = subjects.try_next().await.map_err(|e| failed(&e))? {
                let object = object_of(&subject);
                if object.as_ref().is_none_or(|object| !named.contains(object.as_str()) && is_over(object)) {
                    stream.purge().filter(&subject).await.map_err(|e| failed(&e))?;
                    tracing::info!(subject, "executable that nothing names removed");
                }
            }
        }
        Ok(())
    }
}

/// The object that a chunk or description is of, as its upload has named it.
fn object_of(subject: &str) -> Option<String> {
    use base64::{Engine, engine::general_purpose::URL_SAFE};
    let last = subject::last_token(subject);
    if subject.starts_with(names::ARTIFACT_CHUNKS.trim_end_matches('>')) {
        return Some(last.to_owned());
    }
    let name = String::from_utf8(URL_SAFE.decode(last).ok()?).ok()?;
    Some(subject::last_token(&name).to_owned())
}

/// Whether no upload of this name can be under way any more.
fn is_over(object: &str) -> bool {
    let Ok(made) = Ulid::from_string(object) else { return true };
    let made = UNIX_EPOCH + Duration::from_millis(made.timestamp_ms());
    SystemTime::now().duration_since(made).is_ok_and(|age| age >= ABANDONED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(agents: &str) -> ModuleManifest {
        let text = format!(
            r#"{{"type":"hello","version":"1","revision":1,"sha256":"","size":1,"object":"","published":"","agents":{agents}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_module_is_for_the_agents_that_its_publisher_chose() {
        let agent = Agent {
            id: "lon1".parse().unwrap(),
            name: Some("London 1".to_owned()),
            region: Some("eu".to_owned()),
            location: None,
            provider: None,
            tags: BTreeMap::from([("pop".to_owned(), "lon".to_owned())]),
            public_ip: None,
            max_targets: None,
            first_seen_us: 0,
            last_heartbeat_us: 0,
            heartbeat: None,
        };
        for (agents, wanted) in [
            ("null", true),
            (r#"{"agents":["lon1"]}"#, true),
            (r#"{"agents":["London 1"]}"#, true),
            (r#"{"agents":["ams1"]}"#, false),
            (r#"{"regions":["us","eu"]}"#, true),
            (r#"{"regions":["us"]}"#, false),
            (r#"{"tags":{"pop":"lon"}}"#, true),
            (r#"{"tags":{"pop":"lon","tier":"1"}}"#, false),
            (r#"{"agents":["lon1"],"regions":["us"]}"#, false),
        ] {
            assert_eq!(for_agent(&manifest(agents), &agent), wanted, "{agents}");
        }
    }

    #[test]
    fn an_object_is_known_by_its_chunks_and_by_its_description() {
        use base64::{Engine, engine::general_purpose::URL_SAFE};
        let object = Ulid::generate().to_string();
        assert_eq!(object_of(&names::artifact_chunks(&object)).as_deref(), Some(object.as_str()));
        let info = names::artifact_info(&URL_SAFE.encode(format!("hello.{object}")));
        assert_eq!(object_of(&info).as_deref(), Some(object.as_str()));
        assert!(!is_over(&object), "it may still be on its way");
        assert!(is_over("01ARZ3NDEKTSV4RRFFQ69G5FAV") && is_over("no ulid"));
    }
}
