//! Agents make the keys of their module instances themselves; what each may do, the server vouches for.

use std::sync::Arc;

use async_nats::Message as Raw;
use futures::StreamExt;
use imn_contract::{
    AgentId, ErrorCode, Fault, InstanceId,
    latest::{Vouch, VouchReply},
    subject,
};
use imn_runtime::{
    credential::{Authority, Role},
    nats,
    task::Stop,
};

use crate::context::Context;

/// Answers agents, as one of the servers, until `stop`. Whoever may publish on an agent's subject is that agent.
pub(crate) async fn vouch(context: Context, authority: Arc<Authority>, stop: Stop) -> nats::Result<()> {
    let mut asked = context.client.queue_subscribe(subject::VOUCH_ALL, subject::SERVER_QUEUE).await?;
    while let Some(Some(request)) = stop.until(asked.next()).await {
        let answer = match nats::decode::<Vouch>(&request) {
            Ok(vouch) => sign(&context, &authority, &request, &vouch),
            Err(fault) => Err(fault),
        };
        let sent = match answer {
            Ok(jwt) => {
                let reply = VouchReply { v: 1, jwt: Some(jwt), error: None };
                context.client.respond(&request, &reply).await
            }
            Err(fault) => {
                tracing::warn!(subject = %request.subject, %fault, "key not vouched for");
                let reply = VouchReply { v: 1, jwt: None, error: Some(fault.clone()) };
                context.client.respond_fault(&request, &reply, &fault).await
            }
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "answer not sent");
        }
    }
    Ok(())
}

fn sign(context: &Context, authority: &Authority, request: &Raw, vouch: &Vouch) -> Result<String, Fault> {
    let agent = AgentId::new(subject::last_token(&request.subject))
        .map_err(|error| Fault::invalid("agent", error.to_string()))?;
    check(&agent, vouch)?;
    // An agent and a type whose names have dashes may make the name of another's instance. Who is an agent, only the
    // agents' own heartbeats say.
    let owner = context.registry.owner(&vouch.instance);
    if let Some(owner) = owner.filter(|owner| *owner != agent) {
        let message = format!("{} is an instance of the agent {owner}", vouch.instance);
        return Err(Fault::new(ErrorCode::Denied, message).at("instance"));
    }
    let role =
        Role::Module { agent: agent.clone(), kind: vouch.kind.clone(), instance: vouch.instance.clone() };
    let jwt = authority
        .vouch(&role, &vouch.public_key, None)
        .map_err(|error| Fault::invalid("public_key", error.to_string()))?;
    tracing::info!(%agent, instance = %vouch.instance, key = vouch.public_key, "key vouched for");
    Ok(jwt)
}

/// The instance is a slot of this type at this agent.
fn check(agent: &AgentId, vouch: &Vouch) -> Result<(), Fault> {
    let slot = vouch.instance.as_str().rsplit('-').next().and_then(|slot| slot.parse().ok());
    let named = slot.and_then(|slot| InstanceId::slot(agent, &vouch.kind, slot).ok());
    if named.as_ref() == Some(&vouch.instance) {
        return Ok(());
    }
    let message =
        format!("instances of {} at this agent are named {agent}-{}-0 and so on", vouch.kind, vouch.kind);
    Err(Fault::new(ErrorCode::Denied, message).at("instance"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_vouched_for_its_own_slots_only() {
        let agent = AgentId::new("lon1").unwrap();
        let vouch = |kind: &str, instance: &str| Vouch {
            v: 1,
            kind: kind.parse().unwrap(),
            instance: instance.parse().unwrap(),
            public_key: String::new(),
        };
        check(&agent, &vouch("hello", "lon1-hello-0")).unwrap();
        check(&agent, &vouch("hello", "lon1-hello-63")).unwrap();
        for (kind, instance) in [
            ("hello", "ams1-hello-0"),
            ("hello", "lon1-icmp-0"),
            ("hello", "lon1-hello"),
            ("hello", "lon1-hello-00"),
            ("hello", "lon1-hello-x"),
            ("icmp", "lon1-hello-0"),
        ] {
            let fault = check(&agent, &vouch(kind, instance)).unwrap_err();
            assert_eq!((fault.code, fault.field.as_deref()), (403, Some("instance")), "{kind} {instance}");
        }
    }
}
