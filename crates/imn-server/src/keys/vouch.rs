//! Agents make keys themselves, for them and their modules; what each may do, the server vouches for.

use async_nats::Message as Raw;
use futures::StreamExt;
use imn_contract::{
    AgentId, ErrorCode, Fault, InstanceId,
    latest::{Renewal, Vouch, VouchReply},
    subject,
};
use imn_runtime::{
    credential::{Role, Vouching},
    nats,
    task::Stop,
};

use crate::context::Context;

/// Answers agents, as one of the servers, until `stop`. Whoever may publish on an agent's subject is that agent.
pub(crate) async fn answer(context: Context, stop: Stop) -> nats::Result<()> {
    let client = &context.client;
    let mut modules = client.queue_subscribe(subject::VOUCH_ALL, subject::SERVER_QUEUE).await?;
    let mut agents = client.queue_subscribe(subject::RENEW_ALL, subject::SERVER_QUEUE).await?;
    loop {
        let (request, answer) = tokio::select! {
            () = stop.requested() => return Ok(()),
            Some(request) = modules.next() => {
                let answer = of_module(&context, &request).await;
                (request, answer)
            }
            Some(request) = agents.next() => {
                let answer = of_agent(&context, &request).await;
                (request, answer)
            }
            else => return Ok(()),
        };
        let sent = match answer {
            Ok(Vouching { jwt, queue_jwt }) => {
                client.respond(&request, &VouchReply { v: 1, jwt: Some(jwt), queue_jwt, error: None }).await
            }
            Err(fault) => {
                tracing::warn!(subject = %request.subject, %fault, "key not vouched for");
                let reply = VouchReply { v: 1, jwt: None, queue_jwt: None, error: Some(fault.clone()) };
                client.respond_fault(&request, &reply, &fault).await
            }
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "answer not sent");
        }
    }
}

async fn of_agent(context: &Context, request: &Raw) -> Result<Vouching, Fault> {
    let agent = asker(request)?;
    let renewal = nats::decode::<Renewal>(request)?;
    let vouching = context.keys.vouch(&Role::Agent { agent: agent.clone() }, &renewal.public_key).await?;
    tracing::info!(%agent, key = renewal.public_key, "credentials renewed");
    Ok(vouching)
}

async fn of_module(context: &Context, request: &Raw) -> Result<Vouching, Fault> {
    let agent = asker(request)?;
    let vouch = nats::decode::<Vouch>(request)?;
    check(&agent, &vouch)?;
    // An agent and a type whose names have dashes may make the name of another's instance. Who is an agent, only the
    // agents' own heartbeats say.
    let owner = context.registry.owner(&vouch.instance);
    if let Some(owner) = owner.filter(|owner| *owner != agent) {
        let message = format!("{} is an instance of the agent {owner}", vouch.instance);
        return Err(Fault::new(ErrorCode::Denied, message).at("instance"));
    }
    let Vouch { kind, instance, public_key, .. } = vouch;
    let role = Role::Module { agent: agent.clone(), kind, instance: instance.clone() };
    let vouching = context.keys.vouch(&role, &public_key).await?;
    tracing::info!(%agent, %instance, key = public_key, "key vouched for");
    Ok(vouching)
}

fn asker(request: &Raw) -> Result<AgentId, Fault> {
    AgentId::new(subject::last_token(&request.subject))
        .map_err(|error| Fault::invalid("agent", error.to_string()))
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
