//! Major 1 of every message.

mod agent;
mod assignment;
mod ingest;
mod job;
mod module;
mod outcome;
mod registry;

pub use agent::{
    AgentControl, AgentOp, AgentStatus, AssignmentMark, ClockState, Heartbeat, ModuleSummary, Renewal, Roll,
    RollState, SimpleError, SimpleReply, SimpleRequest, SpoolState, Tuning, Vouch, VouchReply,
};
pub use assignment::{Assignment, AssignmentFile, AssignmentMeta, AssignmentShard};
pub use ingest::{Batch, BatchColumns, Gap, Round, TimestampSource, Watermark, WatermarkRequest};
pub use job::{
    Attempt, AttemptStatus, JobRequest, JobResult, JobState, JobView, LogLine, Progress, ProgressKind,
    ResultStatus, Selector, Submit, SubmitReply, Task, TaskReply, TaskView,
};
pub use module::{
    Announce, AnnounceEvent, ControlReply, Health, ModuleConfig, ModuleControl, ModuleLog, ModuleOp,
    ModuleState, OutputStream,
};
pub use outcome::{
    BgpOrigin, BgpOutcome, BgpPath, BgpSession, BgpUpdate, CertificateOutcome, DnsCounts, DnsEdns, DnsFlags,
    DnsOutcome, DnsPhases, DnsRecord, DnsTls, DnsWrong, EchoInput, EchoOutcome, Head, HostOutcome, HttpHop,
    HttpOutcome, HttpPhases, IcmpExtension, IcmpObject, LossKind, MplsLabel, Outcome, PingOutcome,
    RttSummary, StampClock, StampClocks, StampDirection, StampOutcome, TlsOutcome, TraceHop, TraceOutcome,
    TracePath, TraceResponder, Typed,
};
pub use registry::{MAX_ARTIFACT_BYTES, ModuleLimits, ModuleManifest, Registry};

pub(crate) const fn one() -> u32 {
    1
}

macro_rules! message {
    ($($type:ty => $name:literal),+ $(,)?) => {
        $(impl crate::Message for $type {
            const NAME: &'static str = $name;
        })+
    };
}

message! {
    Submit => "submit",
    SubmitReply => "submit-reply",
    JobRequest => "job-request",
    JobView => "job-view",
    Task => "job",
    TaskReply => "ack",
    Attempt => "attempt",
    JobResult => "result",
    Progress => "progress",
    LogLine => "log",
    Announce => "announce",
    Health => "health",
    ModuleConfig => "module-config",
    ModuleControl => "module-control",
    ModuleLog => "module-log",
    ControlReply => "control-reply",
    Heartbeat => "heartbeat",
    AgentControl => "agent-control",
    SimpleRequest => "simple-request",
    SimpleReply => "simple-reply",
    SimpleError => "simple-error",
    Vouch => "vouch",
    VouchReply => "vouch-reply",
    Renewal => "renewal",
    Registry => "registry",
    AssignmentMeta => "assignment-meta",
    AssignmentShard => "assignment-shard",
    AssignmentFile => "assignment-file",
    BatchColumns => "ingest-batch",
    Watermark => "watermark",
    WatermarkRequest => "watermark-request",
}
