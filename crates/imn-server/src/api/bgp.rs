//! `/bgp`: how a prefix is announced, and what was found.

use axum::{Json, extract::State};
use imn_domain::{
    TargetKind,
    bgp::{End, Evidence, Finding, Status},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Api,
    decode::{Key, Query},
    problem::Problem,
    targets::find,
    text,
};
use crate::{bgp, clock::now_us};

/// Which time.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BgpQuery {
    /// Rounds due from this time on, RFC 3339; a day before `to` by default.
    from: Option<String>,
    /// Rounds due before this time, RFC 3339; now by default.
    to: Option<String>,
}

/// How a prefix is announced, as each agent sees it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BgpView {
    /// The target's id.
    pub(crate) target: String,
    /// The prefix.
    pub(crate) prefix: String,
    /// From when on rounds were looked at, RFC 3339 UTC.
    pub(crate) from: String,
    /// Until when.
    pub(crate) to: String,
    /// What each agent sees.
    pub(crate) agents: Vec<BgpAgentView>,
    /// What was found in that time, oldest first: each time that a finding opened, became worse, or ended.
    pub(crate) findings: Vec<BgpFinding>,
    /// Older findings that are left out, because there were more than 1,000 of one agent.
    pub(crate) findings_omitted: usize,
}

/// What one agent sees of a prefix.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BgpAgentView {
    /// The agent.
    pub(crate) agent: String,
    /// Origins that are expected: declared in `params.origins` of the target, or learned.
    pub(crate) expected_origins: Vec<u32>,
    /// Origins seen at the end of the time, and by how many peers.
    pub(crate) origins: Vec<BgpOriginView>,
    /// Peers that have a route then.
    pub(crate) visible_peers: usize,
    /// Peers that had one since their sessions are up.
    pub(crate) peers: usize,
    /// More specific prefixes announced then.
    pub(crate) more_specifics: Vec<String>,
    /// Withdrawals in the ten minutes before the last update, of all peers.
    pub(crate) flaps: usize,
    /// Updates looked at.
    pub(crate) updates: u64,
    /// The last of them, RFC 3339 UTC.
    #[schema(required)]
    pub(crate) last: Option<String>,
    /// Updates that did not fit into bounded state; where it is not 0, the rest is incomplete.
    pub(crate) overflow: u64,
    /// Findings that are open at the end of the time, with all that speaks for them.
    pub(crate) open: Vec<BgpFinding>,
}

/// An origin, and by how many peers it is seen.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BgpOriginView {
    /// The AS.
    pub(crate) asn: u32,
    /// Peers.
    pub(crate) peers: usize,
}

/// Something that was found about a prefix.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BgpFinding {
    /// The target's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<String>,
    /// The agent whose source shows it.
    pub(crate) agent: String,
    /// `origin_change`, `more_specific`, `flapping` or `withdrawal`.
    pub(crate) kind: &'static str,
    /// `open` or `ended`.
    pub(crate) state: &'static str,
    /// Why it ended: `over`, `unseen` (nobody is left to tell) or `adopted` (it has been so for a week).
    #[schema(required)]
    pub(crate) end: Option<&'static str>,
    /// When it opened, became worse or ended, RFC 3339 UTC.
    pub(crate) time: String,
    /// `info`, `warning` or `critical`.
    #[schema(value_type = String)]
    pub(crate) severity: Value,
    /// The prefix that it is about: the target's or one within it.
    pub(crate) prefix: String,
    /// The AS that originates the route in question.
    #[schema(required)]
    pub(crate) origin_asn: Option<u32>,
    /// The origins that were expected.
    pub(crate) expected_origins: Vec<u32>,
    /// Whether an expected origin was seen at the same time.
    pub(crate) moas: bool,
    /// Of a withdrawal: peers that still have a route.
    #[schema(required)]
    pub(crate) visible_peers: Option<usize>,
    /// Of a withdrawal: all peers.
    #[schema(required)]
    pub(crate) all_peers: Option<usize>,
    /// Of flapping: withdrawals within the window.
    #[schema(required)]
    pub(crate) flaps: Option<usize>,
    /// In words.
    pub(crate) text: String,
    /// What it rests on.
    pub(crate) evidence: BgpEvidence,
}

/// What a finding rests on.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BgpEvidence {
    /// Peers that told of it, the first 64.
    pub(crate) peers: Vec<BgpPeer>,
    /// How many peers told of it.
    pub(crate) peer_count: usize,
    /// Paths that they told, the first 16.
    pub(crate) as_paths: Vec<String>,
    /// When the first update that says so was received, RFC 3339 UTC.
    pub(crate) first: String,
    /// When the last one was.
    pub(crate) last: String,
    /// How many.
    pub(crate) updates: u64,
}

/// A peer of a collector.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BgpPeer {
    /// The collector.
    pub(crate) collector: String,
    /// The peer's address.
    pub(crate) address: String,
    /// Its AS number.
    pub(crate) asn: u32,
}

pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(view))
}

/// Show how a prefix is announced and what was found about it
///
/// Findings follow from the stored rounds of type `bgp` in the time asked for and from the origins that the target
/// declares in `params.origins`; without any, the first minute of that time is what is expected.
#[utoipa::path(get, path = "/api/v1/targets/{id}/bgp", tag = "targets", operation_id = "get_target_bgp",
    params(("id" = String, Path, description = "Its id or its address, percent-encoded"), BgpQuery),
    responses((status = 200, description = "The prefix as each agent sees it", body = BgpView)))]
async fn view(
    State(api): State<Api>,
    id: Key,
    Query(query): Query<BgpQuery>,
) -> Result<Json<BgpView>, Problem> {
    let to = text::time_field("to", query.to.as_deref())?.unwrap_or_else(now_us);
    let from = text::time_field("from", query.from.as_deref())?.unwrap_or(to.saturating_sub(bgp::BACK_US));
    if from >= to {
        return Err(Problem::field("from", "is not before to"));
    }
    let target = find(&api, &id).await?;
    if target.kind != TargetKind::Prefix {
        return Err(Problem::field("id", "the target is no prefix"));
    }
    let views = bgp::views(&*api.context.results, &target, from, to).await?;
    let mut findings = Vec::new();
    let mut omitted = 0;
    let mut agents = Vec::new();
    for view in views {
        let agent = view.agent.as_str();
        findings.extend(
            view.found.iter().map(|finding| (finding.time_us, BgpFinding::new(None, agent, finding))),
        );
        omitted += view.omitted;
        agents.push(BgpAgentView::new(agent, &view.status, &view.open));
    }
    findings.sort_by_key(|(time_us, _)| *time_us);
    Ok(Json(BgpView {
        target: target.id.to_string(),
        prefix: target.address,
        from: text::time(from),
        to: text::time(to),
        agents,
        findings: findings.into_iter().map(|(_, finding)| finding).collect(),
        findings_omitted: omitted,
    }))
}

impl BgpAgentView {
    fn new(agent: &str, status: &Status, open: &[Finding]) -> Self {
        Self {
            agent: agent.to_owned(),
            expected_origins: status.expected.clone(),
            origins: status
                .origins
                .iter()
                .map(|(asn, peers)| BgpOriginView { asn: *asn, peers: *peers })
                .collect(),
            visible_peers: status.visible,
            peers: status.peers,
            more_specifics: status.more_specifics.iter().map(ToString::to_string).collect(),
            flaps: status.flaps,
            updates: status.updates,
            last: status.last_us.map(text::time),
            overflow: status.overflow,
            open: open.iter().map(|finding| BgpFinding::new(None, agent, finding)).collect(),
        }
    }
}

impl BgpFinding {
    fn new(target: Option<String>, agent: &str, finding: &Finding) -> Self {
        Self {
            target,
            agent: agent.to_owned(),
            kind: finding.kind.as_str(),
            state: finding.state.as_str(),
            end: finding.end.map(End::as_str),
            time: text::time(finding.time_us),
            severity: serde_json::to_value(finding.severity).unwrap_or_default(),
            prefix: finding.prefix.to_string(),
            origin_asn: finding.origin,
            expected_origins: finding.expected.clone(),
            moas: finding.moas,
            visible_peers: finding.visible.map(|(visible, _)| visible),
            all_peers: finding.visible.map(|(_, all)| all),
            flaps: finding.flaps,
            text: finding.text(),
            evidence: BgpEvidence::from(&finding.evidence),
        }
    }
}

impl From<&bgp::Found> for BgpFinding {
    fn from(found: &bgp::Found) -> Self {
        Self::new(Some(found.target.to_string()), found.agent.as_str(), &found.finding)
    }
}

impl From<&Evidence> for BgpEvidence {
    fn from(evidence: &Evidence) -> Self {
        let peer = |peer: &imn_domain::bgp::Peer| BgpPeer {
            collector: peer.collector.to_string(),
            address: peer.address.to_string(),
            asn: peer.asn,
        };
        Self {
            peers: evidence.peers.iter().map(peer).collect(),
            peer_count: evidence.peer_count,
            as_paths: evidence.paths.clone(),
            first: text::time(evidence.first_us),
            last: text::time(evidence.last_us),
            updates: evidence.updates,
        }
    }
}
