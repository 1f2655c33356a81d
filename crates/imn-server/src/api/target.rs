//! A target as clients write and read it.

use std::collections::BTreeMap;

use imn_contract::TargetId;
use imn_domain::{self as domain, MonitoringState as State, TargetKind as Kind, canonical, classify};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    policy::ExpectedOutcome,
    problem::{FieldError, Problem},
    text,
};

/// The tier of targets that name none.
const DEFAULT_TIER: &str = "standard";
const MAX_TAGS: usize = 64;
pub(crate) const MAX_TEXT: usize = 256;

/// What a target's address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TargetKind {
    /// An IPv4 or IPv6 address.
    Ip,
    /// A DNS name.
    Host,
    /// An http or https URL.
    Url,
    /// A routing prefix.
    Prefix,
    /// A DNS resolver, `address:port`.
    Resolver,
}

/// How a target is doing, by the consensus of its agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MonitoringState {
    /// Never answered yet.
    Unknown,
    /// Reachable.
    Active,
    /// Loss or anomalies in most recent rounds.
    Degraded,
    /// Answered before, unreachable now.
    Down,
    /// Down for a day; needs review.
    Excluded,
    /// Never had a baseline, silent; does not alert.
    Unresponsive,
    /// Verified, probed hourly, not alerting.
    Standby,
    /// Switched off by a user.
    Inactive,
}

/// A target as a client writes it: exactly one of `address`, `ip`, `host`, `url`, `prefix` and `resolver`. A target
/// as GET gave it is taken too: what the server writes is ignored.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TargetSpec {
    /// What the address is; by default what it looks like.
    pub(crate) kind: Option<TargetKind>,
    /// Whatever it is.
    #[schema(examples("192.0.2.1"))]
    pub(crate) address: Option<String>,
    /// Shorthand: an IPv4 or IPv6 address.
    pub(crate) ip: Option<String>,
    /// Shorthand: a DNS name.
    pub(crate) host: Option<String>,
    /// Shorthand: an http or https URL.
    pub(crate) url: Option<String>,
    /// Shorthand: a prefix.
    pub(crate) prefix: Option<String>,
    /// Shorthand: a DNS resolver, `address` or `address:port`.
    pub(crate) resolver: Option<String>,
    /// Name for people.
    pub(crate) display_name: Option<String>,
    /// Name of its tier; `standard` by default.
    pub(crate) tier: Option<String>,
    /// Free tags.
    pub(crate) tags: BTreeMap<String, String>,
    /// Parameters that override those of the tier's probes; those of one type alone under its name, as in
    /// `{"tcp": {"port": 443}}`.
    #[schema(value_type = Object)]
    pub(crate) params: Map<String, Value>,
    /// What is expected of it; absent: what its tier expects.
    pub(crate) expected_outcome: Option<ExpectedOutcome>,
    /// `inactive` switches measurement off, anything else on; what else the state is, the measurements say.
    pub(crate) monitoring_state: Option<MonitoringState>,
    /// Written by the server; ignored.
    #[serde(skip_serializing)]
    #[schema(read_only)]
    pub(crate) id: Option<String>,
    /// Written by the server; ignored.
    #[serde(skip_serializing)]
    #[schema(read_only)]
    pub(crate) state_reason: Option<String>,
    /// Written by the server; ignored.
    #[serde(skip_serializing)]
    #[schema(read_only)]
    pub(crate) state_since: Option<String>,
    /// Written by the server; ignored.
    #[serde(skip_serializing)]
    #[schema(read_only)]
    pub(crate) created: Option<String>,
    /// Written by the server; ignored.
    #[serde(skip_serializing)]
    #[schema(read_only)]
    pub(crate) updated: Option<String>,
}

/// A target.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Target {
    /// Identifier.
    pub(crate) id: String,
    /// What the address is.
    pub(crate) kind: TargetKind,
    /// The address in canonical text; unique among targets.
    pub(crate) address: String,
    /// Name for people.
    #[schema(required)]
    pub(crate) display_name: Option<String>,
    /// Name of its tier.
    pub(crate) tier: String,
    /// Free tags.
    pub(crate) tags: BTreeMap<String, String>,
    /// Parameters that override those of the tier's probes.
    #[schema(value_type = Object)]
    pub(crate) params: Map<String, Value>,
    /// What is expected of it.
    #[schema(required)]
    pub(crate) expected_outcome: Option<ExpectedOutcome>,
    /// How it is doing.
    pub(crate) monitoring_state: MonitoringState,
    /// Why.
    #[schema(required)]
    pub(crate) state_reason: Option<String>,
    /// Since when, RFC 3339 UTC.
    pub(crate) state_since: String,
    /// When it was made, RFC 3339 UTC.
    pub(crate) created: String,
    /// When it was last changed by a user, RFC 3339 UTC.
    pub(crate) updated: String,
}

impl TargetSpec {
    /// A new target.
    pub(crate) fn create(self, now_us: i64) -> Result<domain::Target, Problem> {
        let blank = domain::Target {
            id: TargetId::generate(),
            kind: Kind::Ip,
            address: String::new(),
            display_name: None,
            tier: String::new(),
            tags: BTreeMap::new(),
            params: Map::new(),
            expected_outcome: None,
            monitoring_state: State::Unknown,
            state_reason: None,
            state_since_us: now_us,
            created_us: now_us,
            updated_us: now_us,
            revision: 1,
        };
        self.write(blank, now_us)
    }

    /// The target after all that users decide was replaced; its revision is the next one.
    pub(crate) fn replace(self, old: domain::Target, now_us: i64) -> Result<domain::Target, Problem> {
        if self.id.as_ref().is_some_and(|id| *id != old.id.as_str()) {
            return Err(Problem::field("id", format!("a target keeps its id, {:?}", old.id.as_str())));
        }
        let revision = old.revision + 1;
        let new = self.write(old, now_us)?;
        Ok(domain::Target { updated_us: now_us, revision, ..new })
    }

    fn write(self, onto: domain::Target, now_us: i64) -> Result<domain::Target, Problem> {
        let mut errors = Vec::new();
        let (kind, address) = self.address(&onto).unwrap_or_else(|error| {
            errors.push(error);
            (Kind::Ip, String::new())
        });
        if self.tags.len() > MAX_TAGS {
            errors.push(FieldError::new("tags", format!("are more than {MAX_TAGS}")));
        }
        for (tag, value) in &self.tags {
            if tag.is_empty() || tag.len() > MAX_TEXT || value.len() > MAX_TEXT {
                let message = format!("names have 1 to {MAX_TEXT} bytes, values at most {MAX_TEXT}");
                errors.push(FieldError::new(format!("tags.{}", text::clip(tag)), message));
            }
        }
        if self.display_name.as_ref().is_some_and(|name| name.len() > MAX_TEXT) {
            errors.push(FieldError::new("display_name", format!("has more than {MAX_TEXT} bytes")));
        }
        if !errors.is_empty() {
            return Err(Problem::fields(errors));
        }
        let was_off = onto.monitoring_state == State::Inactive;
        let (monitoring_state, state_reason, state_since_us) = match self.monitoring_state {
            Some(MonitoringState::Inactive) if !was_off => {
                (State::Inactive, Some("switched off by a user".to_owned()), now_us)
            }
            Some(state) if was_off && state != MonitoringState::Inactive => {
                (State::Unknown, Some("switched on by a user".to_owned()), now_us)
            }
            _ => (onto.monitoring_state, onto.state_reason, onto.state_since_us),
        };
        Ok(domain::Target {
            kind,
            address,
            // No name and an empty one are the same, as they are in CSV.
            display_name: self.display_name.filter(|name| !name.is_empty()),
            tier: self.tier.unwrap_or_else(|| DEFAULT_TIER.to_owned()),
            tags: self.tags,
            params: self.params,
            expected_outcome: self.expected_outcome.map(Into::into),
            monitoring_state,
            state_reason,
            state_since_us,
            ..onto
        })
    }

    /// Kind and canonical address, by whichever field gives it.
    pub(crate) fn address(&self, old: &domain::Target) -> Result<(Kind, String), FieldError> {
        let shorthands = [
            ("ip", &self.ip, Kind::Ip),
            ("host", &self.host, Kind::Host),
            ("url", &self.url, Kind::Url),
            ("prefix", &self.prefix, Kind::Prefix),
            ("resolver", &self.resolver, Kind::Resolver),
        ];
        let mut given = shorthands
            .into_iter()
            .filter_map(|(field, text, kind)| Some((field, text.as_deref()?, Some(kind))))
            .chain(self.address.as_deref().map(|text| ("address", text, None)));
        let Some((field, text, implied)) = given.next() else {
            if old.address.is_empty() {
                let message = "is missing: give address, or ip, host, url, prefix or resolver";
                return Err(FieldError::new("address", message));
            }
            return Ok((old.kind, old.address.clone()));
        };
        if let Some((second, _, _)) = given.next() {
            return Err(FieldError::new(second, format!("{field} is given already; give one of them")));
        }
        let stated = self.kind.map(Kind::from);
        if let (Some(implied), Some(stated)) = (implied, stated)
            && implied != stated
        {
            let message = format!("is {:?}, but the address is given as {field}", stated.as_str());
            return Err(FieldError::new("kind", message));
        }
        let read = match implied.or(stated) {
            // A literal address under `host` is an address all the same.
            Some(Kind::Host) => classify(text).and_then(|(kind, address)| match kind {
                Kind::Ip | Kind::Host => Ok((kind, address)),
                _ => canonical(Kind::Host, text).map(|address| (Kind::Host, address)),
            }),
            Some(kind) => canonical(kind, text).map(|address| (kind, address)),
            None => classify(text),
        };
        read.map_err(|error| FieldError::new(field, error.to_string()))
    }
}

impl From<domain::Target> for Target {
    fn from(target: domain::Target) -> Self {
        Self {
            id: target.id.to_string(),
            kind: target.kind.into(),
            address: target.address,
            display_name: target.display_name,
            tier: target.tier,
            tags: target.tags,
            params: target.params,
            expected_outcome: target.expected_outcome.map(Into::into),
            monitoring_state: target.monitoring_state.into(),
            state_reason: target.state_reason,
            state_since: text::time(target.state_since_us),
            created: text::time(target.created_us),
            updated: text::time(target.updated_us),
        }
    }
}

impl From<TargetKind> for Kind {
    fn from(kind: TargetKind) -> Self {
        match kind {
            TargetKind::Ip => Self::Ip,
            TargetKind::Host => Self::Host,
            TargetKind::Url => Self::Url,
            TargetKind::Prefix => Self::Prefix,
            TargetKind::Resolver => Self::Resolver,
        }
    }
}

impl From<Kind> for TargetKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Ip => Self::Ip,
            Kind::Host => Self::Host,
            Kind::Url => Self::Url,
            Kind::Prefix => Self::Prefix,
            Kind::Resolver => Self::Resolver,
        }
    }
}

impl From<State> for MonitoringState {
    fn from(state: State) -> Self {
        match state {
            State::Unknown => Self::Unknown,
            State::Active => Self::Active,
            State::Degraded => Self::Degraded,
            State::Down => Self::Down,
            State::Excluded => Self::Excluded,
            State::Unresponsive => Self::Unresponsive,
            State::Standby => Self::Standby,
            State::Inactive => Self::Inactive,
        }
    }
}
