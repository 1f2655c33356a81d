//! What stands in `deny.toml`, checked on every crate of the lock file: bans, licences, sources. `cargo deny` reads
//! the same file and checks more; this part needs no program that is not here.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Rules {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// The targets that `deny.toml` is about: what others would pull in is never built.
pub(super) fn targets(rules: &str) -> Result<Vec<String>> {
    let rules: Rules = toml::from_str(rules).context("read deny.toml")?;
    Ok(rules.graph.targets)
}

/// Crates in `cargo metadata` that `deny.toml` forbids, each in words.
pub(super) fn forbidden(rules: &str, metadata: &Value) -> Result<Vec<String>> {
    let rules: Rules = toml::from_str(rules).context("read deny.toml")?;
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(source) = package["source"].as_str() else { continue };
        if !source.starts_with("registry+") {
            found.push(format!("{name} comes from {source}, which is no registry"));
        }
        if let Some(ban) = rules.bans.deny.iter().find(|ban| ban.name == name) {
            found.push(format!("{name} is banned: {}", ban.reason));
        }
        let license = package["license"].as_str().unwrap_or_default();
        if !is_allowed(license, &rules.licenses.allow) {
            found.push(format!("{name} has the licence {license:?}, which deny.toml does not allow"));
        }
    }
    Ok(found)
}

/// Whether one of the choices of an SPDX expression is allowed in all its parts. A slash is an old way to write `OR`.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
    let is_known = |license: &str| allowed.iter().any(|a| a == license.trim());
    let all = |choice: &str| choice.split(" AND ").all(is_known);
    if !expression.contains('(') {
        return plain.split(" OR ").any(all);
    }
    // `A AND (B OR C)`: each part is a choice of its own.
    plain.split(" AND ").all(|part| part.split(" OR ").any(is_known))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RULES: &str = "graph.targets = ['t']\nlicenses.allow = ['MIT', 'Apache-2.0', 'Unicode-3.0']\n[[bans.deny]]\ncrate = 'openssl'\nreason = 'rustls'\n";

    fn package(name: &str, license: &str, source: &str) -> Value {
        json!({"packages": [{"name": name, "license": license, "source": source}]})
    }

    #[test]
    fn a_banned_crate_a_foreign_licence_and_a_foreign_source_are_named() {
        let check = |name, license, source| forbidden(RULES, &package(name, license, source)).unwrap();
        assert!(check("serde", "MIT OR Apache-2.0", "registry+x").is_empty());
        assert!(check("ident", "(MIT OR Apache-2.0) AND Unicode-3.0", "registry+x").is_empty());
        assert!(check("old", "MIT/Apache-2.0", "registry+x").is_empty());
        assert_eq!(check("openssl", "MIT", "registry+x"), ["openssl is banned: rustls"]);
        assert_eq!(check("gpl", "GPL-3.0 OR AGPL-3.0", "registry+x").len(), 1);
        assert_eq!(check("both", "MIT AND GPL-3.0", "registry+x").len(), 1);
        assert_eq!(check("git", "MIT", "git+https://example.net").len(), 1);
        assert_eq!(check("none", "", "registry+x").len(), 1);
    }
}
