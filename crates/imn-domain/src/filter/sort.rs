//! `order_by=field [desc], …`.

use std::cmp::Ordering;

use super::{FieldValue, Fields, FilterError, lexer::error, no_field, path};

/// An order of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sort {
    keys: Vec<(Vec<String>, bool)>,
}

impl Sort {
    /// Reads `field [asc|desc], …`; an empty text is no order.
    ///
    /// # Errors
    /// The position of the first thing that cannot be read, or of a field by which `T` cannot be ordered.
    pub fn parse<T: Fields>(text: &str) -> Result<Self, FilterError> {
        let mut keys = Vec::new();
        let mut position = 1;
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        for part in text.split(',') {
            let mut words = part.split_whitespace();
            let indent = part.chars().take_while(|c| c.is_whitespace()).count();
            let at = position + indent;
            let field = words.next().ok_or_else(|| error(at, "expected a field"))?;
            let path = path(field);
            if !T::is_sortable(&path) {
                return Err(error(at, no_field(field)));
            }
            let descending = match words.next() {
                None | Some("asc") => false,
                Some("desc") => true,
                Some(word) => return Err(error(at, format!("expected desc or a comma, not {word:?}"))),
            };
            if words.next().is_some() {
                return Err(error(at, "expected a comma between fields"));
            }
            keys.push((path, descending));
            position += part.chars().count() + 1;
        }
        Ok(Self { keys })
    }

    /// Whether no order was asked for.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What decides the place of something: its values, in order of importance.
    pub fn key(&self, item: &impl Fields) -> Vec<Option<FieldValue>> {
        self.keys.iter().map(|(path, _)| item.value(path)).collect()
    }

    /// Which of two keys comes first. What lacks a field comes last.
    pub fn compare(&self, a: &[Option<FieldValue>], b: &[Option<FieldValue>]) -> Ordering {
        for ((_, descending), (a, b)) in self.keys.iter().zip(a.iter().zip(b)) {
            let ordering = match (a, b) {
                (Some(a), Some(b)) => {
                    let ordering = a.compare(b).unwrap_or(Ordering::Equal);
                    if *descending { ordering.reverse() } else { ordering }
                }
                (a, b) => b.is_some().cmp(&a.is_some()),
            };
            if ordering.is_ne() {
                return ordering;
            }
        }
        Ordering::Equal
    }
}
