//! JSON Schemas of every message, generated from the types.

use schemars::{Schema, generate::SchemaSettings};

use crate::{
    codec::Message,
    v1::{
        AgentControl, Announce, AssignmentFile, AssignmentMeta, AssignmentShard, Attempt, BatchColumns,
        BgpOutcome, ControlReply, DnsOutcome, EchoOutcome, Health, Heartbeat, HostOutcome, HttpOutcome,
        JobRequest, JobResult, JobView, LogLine, ModuleConfig, ModuleControl, ModuleLog, PingOutcome,
        Progress, Registry, Renewal, SimpleError, SimpleReply, SimpleRequest, StampOutcome, Submit,
        SubmitReply, Task, TaskReply, TraceOutcome, Vouch, VouchReply, Watermark, WatermarkRequest,
    },
};

/// One schema and the name of the file that it is committed under.
#[derive(Clone, Debug)]
pub struct SchemaFile {
    /// File name, for example `job.v1.json`.
    pub file: String,
    /// The schema, draft 2020-12.
    pub schema: Schema,
}

/// The schemas of all messages and outcomes, in a fixed order.
pub fn schemas() -> Vec<SchemaFile> {
    let mut files = Vec::new();
    macro_rules! messages {
        ($($type:ty),+ $(,)?) => {
            $(files.push(file(<$type as Message>::NAME, generator().into_root_schema_for::<$type>()));)+
        };
    }
    messages!(
        Submit,
        SubmitReply,
        JobRequest,
        JobView,
        Task,
        TaskReply,
        Attempt,
        JobResult,
        Progress,
        LogLine,
        Announce,
        Health,
        ModuleConfig,
        ModuleControl,
        ModuleLog,
        ControlReply,
        Heartbeat,
        AgentControl,
        SimpleRequest,
        SimpleReply,
        SimpleError,
        Vouch,
        VouchReply,
        Renewal,
        Registry,
        AssignmentMeta,
        AssignmentShard,
        AssignmentFile,
        BatchColumns,
        Watermark,
        WatermarkRequest,
    );
    files.push(file("outcome-bgp", generator().into_root_schema_for::<BgpOutcome>()));
    files.push(file("outcome-ping", generator().into_root_schema_for::<PingOutcome>()));
    files.push(file("outcome-dns", generator().into_root_schema_for::<DnsOutcome>()));
    files.push(file("outcome-http", generator().into_root_schema_for::<HttpOutcome>()));
    files.push(file("outcome-trace", generator().into_root_schema_for::<TraceOutcome>()));
    files.push(file("outcome-echo", generator().into_root_schema_for::<EchoOutcome>()));
    files.push(file("outcome-heartbeat", generator().into_root_schema_for::<HostOutcome>()));
    files.push(file("outcome-stamp", generator().into_root_schema_for::<StampOutcome>()));
    files
}

fn generator() -> schemars::SchemaGenerator {
    SchemaSettings::draft2020_12().into_generator()
}

fn file(name: &str, schema: Schema) -> SchemaFile {
    SchemaFile { file: format!("{name}.v1.json"), schema }
}
