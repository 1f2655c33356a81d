//! Pages of lists: tokens bound to what was asked.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::ToSchema;
use xxhash_rust::xxh3::xxh3_64;

use super::problem::Problem;

/// Items of a page when the request does not say.
const DEFAULT_LIMIT: usize = 100;
/// Most items of a page.
const MAX_LIMIT: usize = 1_000;

/// One page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// Give it as `page_token`, with all other parameters unchanged, for the next page; null at the end.
    #[schema(required)]
    pub(crate) next_page_token: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Token<K> {
    /// Hash of what was asked.
    q: u64,
    /// Where the next page begins.
    k: K,
}

impl<T> List<T> {
    /// A list that is never divided into pages.
    pub(crate) fn whole(items: Vec<T>) -> Self {
        Self { items, next_page_token: None }
    }

    pub(crate) fn map<U>(self, convert: impl FnMut(T) -> U) -> List<U> {
        List { items: self.items.into_iter().map(convert).collect(), next_page_token: self.next_page_token }
    }
}

/// The number of items asked for.
pub(crate) fn limit(text: Option<&str>) -> Result<usize, Problem> {
    let Some(text) = text else { return Ok(DEFAULT_LIMIT) };
    text.parse()
        .ok()
        .filter(|limit| (1..=MAX_LIMIT).contains(limit))
        .ok_or_else(|| Problem::field("limit", format!("{text:?} is no number from 1 to {MAX_LIMIT}")))
}

/// A token for the page that begins after `key`, valid for the same `question` only.
pub(crate) fn token<K: Serialize>(question: &str, key: K) -> Option<String> {
    let token = Token { q: xxh3_64(question.as_bytes()), k: key };
    serde_json::to_vec(&token).ok().map(|bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// Reads [`token`].
pub(crate) fn after<K: DeserializeOwned>(question: &str, text: Option<&str>) -> Result<Option<K>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let token: Token<K> = BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| Problem::field("page_token", "is no token of this list"))?;
    if token.q != xxh3_64(question.as_bytes()) {
        let message = "belongs to a request with other parameters; change only limit from page to page";
        return Err(Problem::field("page_token", message));
    }
    Ok(Some(token.k))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn many_texts_are_no_tokens_and_a_token_is_of_its_question_alone() {
        let pieces = [
            "e",
            "eyJxIjo",
            "xLCJrIjpb",
            "XX0",
            "MTIzNDU2Nzg5MCw",
            "=",
            "-",
            "_",
            ".",
            "A",
            "\u{e4}",
            "bnVsbH0",
            "fQ",
        ];
        for text in imn_testkit::hostile::texts(&pieces) {
            // Nobody guesses the hash of the question.
            assert!(after::<(Vec<Value>, String)>("targets", Some(&text)).is_err(), "{text}");
            let token = token("targets", &text).unwrap();
            assert_eq!(after::<String>("targets", Some(&token)).unwrap().as_deref(), Some(text.as_str()));
            assert!(after::<String>("tiers", Some(&token)).is_err());
        }
    }
}
