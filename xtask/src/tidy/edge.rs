//! The layers: which crate may depend on which.

use serde_json::Value;

/// What each crate may use of the workspace. The testkit is for tests of all; the rest is in ARCHITECTURE.md.
const ALLOWED: &[(&str, &[&str])] = &[
    ("imn-metric", &[]),
    ("imn-contract", &["imn-metric"]),
    ("imn-probe", &["imn-metric"]),
    ("imn-domain", &["imn-metric", "imn-contract"]),
    ("imn-runtime", &["imn-metric", "imn-contract"]),
    ("imn-store", &["imn-metric", "imn-domain", "imn-contract"]),
    ("imn-sink", &["imn-metric", "imn-runtime", "imn-contract"]),
    ("imn-module", &["imn-metric", "imn-runtime", "imn-contract", "imn-domain", "imn-probe"]),
    ("imn-agent", &["imn-metric", "imn-runtime", "imn-contract", "imn-domain"]),
    ("imn-server", &["imn-metric", "imn-runtime", "imn-domain", "imn-store", "imn-sink", "imn-contract"]),
    (
        "imn",
        &[
            "imn-metric",
            "imn-contract",
            "imn-domain",
            "imn-probe",
            "imn-runtime",
            "imn-store",
            "imn-sink",
            "imn-module",
            "imn-agent",
            "imn-server",
        ],
    ),
    ("imn-testkit", &[]),
    ("imn-bench", &["imn-metric", "imn-probe", "imn-testkit"]),
    ("xtask", &[]),
];

/// The only crate that may use `anyhow`, beside the tools of development.
const ANYHOW: &[&str] = &["imn", "imn-bench", "xtask"];

/// Edges in `cargo metadata` that the layers forbid, and crates that they do not know, each in words.
pub(super) fn forbidden(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ALLOWED.iter().find(|(crate_name, _)| *crate_name == name) else {
            found.push(format!(
                "{name} is in no layer: give it one in xtask/src/tidy/edge.rs and ARCHITECTURE.md"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            let is_dev = dependency["kind"].as_str() == Some("dev");
            let is_ours = ALLOWED.iter().any(|(crate_name, _)| *crate_name == on);
            if is_ours && !allowed.contains(&on) && !(is_dev && on == "imn-testkit") {
                found.push(format!("{name} must not depend on {on}"));
            }
            if on == "anyhow" && !ANYHOW.contains(&name) {
                found.push(format!(
                    "{name} must not use anyhow: library errors are enums that name the operation"
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<_> =
            dependencies.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
        json!({"packages": [{"name": name, "dependencies": dependencies}]})
    }

    #[test]
    fn a_forbidden_edge_is_named() {
        assert_eq!(
            forbidden(&package("imn-server", &[("imn-probe", None)])),
            ["imn-server must not depend on imn-probe"]
        );
        assert_eq!(forbidden(&package("imn-agent", &[("imn-module", Some("dev"))])).len(), 1);
        assert!(forbidden(&package("imn-store", &[("anyhow", None)]))[0].contains("enums"));
        assert!(forbidden(&package("imn-common", &[]))[0].contains("in no layer"));
    }

    #[test]
    fn an_allowed_edge_is_not() {
        let metadata =
            package("imn-server", &[("imn-store", None), ("imn-testkit", Some("dev")), ("serde", None)]);
        assert!(forbidden(&metadata).is_empty());
    }
}
