//! A type without columns of its own: whether it succeeded, and the outcome as it is.

use imn_contract::latest::Outcome;

use super::Line;

const COLUMNS: [(&str, usize); 1] = [("success", 7)];
/// An outcome may be as long as a message.
const SHOWN: usize = 400;

pub(super) fn line(outcome: &Outcome) -> Line {
    let head = outcome.head();
    let mut notes = Vec::new();
    if head.error.is_none() {
        let text = serde_json::to_string(outcome).unwrap_or_default();
        let mut shown: String = text.chars().take(SHOWN).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        notes.push(shown);
    }
    let success = if head.success { "yes" } else { "no" };
    Line { columns: &COLUMNS, figures: vec![success.to_owned()], notes, below: Vec::new() }
}
