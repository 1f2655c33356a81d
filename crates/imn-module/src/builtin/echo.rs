//! `echo`: gives back what it gets.

use async_trait::async_trait;
use imn_contract::{
    Fault,
    latest::{EchoInput, EchoOutcome},
};
use serde_json::{Value, json};

use crate::{Job, JobContext, Module};

pub(super) struct Echo;

#[async_trait]
impl Module for Echo {
    fn kind(&self) -> &'static str {
        "echo"
    }

    fn params_schema(&self) -> Value {
        json!({ "type": "object", "description": "Anything; it comes back." })
    }

    fn slots(&self) -> u32 {
        16
    }

    async fn run(&self, job: Job, _: &JobContext) -> Result<Value, Fault> {
        Ok(json!(EchoOutcome { echo: EchoInput { target: job.target, params: job.params } }))
    }
}
