//! A whole module: put the program into an agent's modules directory, and `hello` can be measured.

use imn_module::{Fault, Job, JobContext, Module, async_trait};
use serde::Deserialize;
use serde_json::{Value, json};

struct Hello;

/// What a job may say in `params`.
#[derive(Deserialize)]
struct Params {
    #[serde(default = "world")]
    name: String,
}

fn world() -> String {
    "world".to_owned()
}

#[async_trait]
impl Module for Hello {
    fn kind(&self) -> &'static str {
        "hello"
    }

    async fn run(&self, job: Job, ctx: &JobContext) -> Result<Value, Fault> {
        let params: Params = job.params()?;
        ctx.text(format!("about to greet {}", params.name)).await;
        Ok(json!({ "greeting": format!("hello {} from {}", params.name, job.target) }))
    }
}

fn main() -> Result<(), imn_module::Error> {
    imn_module::run(Hello)
}
