//! Filters and orders of lists, after AIP-160 and AIP-132.
//!
//! ```text
//! filter      = sequence { "AND" sequence }
//! sequence    = term { "OR" term }          OR binds tighter than AND, as in AIP-160
//! term        = [ "NOT" ] ( restriction | "(" filter ")" )
//! restriction = field op value              field = name { "." name }
//! op          = "=" | "!=" | "<" | "<=" | ">" | ">=" | ":"
//! value       = "quoted text" | bare text up to white space or a parenthesis
//! ```
//!
//! `:` asks whether a text contains the value, without regard to case; `field:*` asks whether the field is there.
//! Numbers compare as numbers, texts as texts. A field that is absent satisfies `!=` and nothing else.

mod lexer;
mod order;
mod parser;

use std::{borrow::Cow, cmp::Ordering};

pub use order::OrderBy;

/// The fields of one kind of thing.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Plain fields.
    pub fields: &'static [&'static str],
    /// Maps, whose keys follow a dot.
    pub maps: &'static [&'static str],
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue<'a> {
    /// Text; times are RFC 3339, which sorts as it should.
    Text(Cow<'a, str>),
    /// A number.
    Number(f64),
    /// Yes or no.
    Bool(bool),
}

impl<'a> From<&'a str> for FieldValue<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for FieldValue<'_> {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

/// Something that can be filtered and ordered.
pub trait Fields {
    /// The value of a field by its path, such as `tags.pop`; `None` when it has none.
    fn field(&self, path: &str) -> Option<FieldValue<'_>>;
}

/// Where and why a filter or order cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at position {position}: {message}")]
pub struct FilterError {
    /// The character at fault, counted from 1.
    pub position: usize,
    /// What is wrong and what to do.
    pub message: String,
}

/// A filter, ready to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    root: Option<Node>,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Is { field: String, op: Op, value: String, number: Option<f64> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Has,
}

impl Filter {
    /// Reads a filter; an empty text lets everything pass.
    ///
    /// # Errors
    /// The position of the first thing that cannot be read, or of a field that `schema` does not have.
    pub fn parse(text: &str, schema: Schema) -> Result<Self, FilterError> {
        parser::parse(text, schema).map(|root| Self { root })
    }

    /// Whether something passes.
    pub fn matches(&self, item: &impl Fields) -> bool {
        self.root.as_ref().is_none_or(|node| node.matches(item))
    }

    /// The value that a filter demands of a field, when it is `field = value`, alone or as one of a conjunction: a
    /// hint for an index.
    pub fn demands(&self, wanted: &str) -> Option<&str> {
        fn look<'a>(node: &'a Node, wanted: &str) -> Option<&'a str> {
            match node {
                Node::Is { field, op: Op::Equal, value, .. } if field == wanted => Some(value),
                Node::All(nodes) => nodes.iter().find_map(|node| look(node, wanted)),
                _ => None,
            }
        }
        look(self.root.as_ref()?, wanted)
    }
}

impl Node {
    fn matches(&self, item: &impl Fields) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.matches(item)),
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(item)),
            Self::Not(node) => !node.matches(item),
            Self::Is { field, op, value, number } => match item.field(field) {
                Some(found) => op.holds(&found, value, *number),
                None => *op == Op::NotEqual,
            },
        }
    }
}

impl Op {
    fn holds(self, found: &FieldValue<'_>, value: &str, number: Option<f64>) -> bool {
        if self == Self::Has {
            return value == "*" || found.text().to_lowercase().contains(&value.to_lowercase());
        }
        let ordering = match (found, number) {
            (FieldValue::Number(found), Some(number)) => found.partial_cmp(&number),
            _ => Some(found.text().as_ref().cmp(value)),
        };
        match self {
            Self::Equal => ordering == Some(Ordering::Equal),
            Self::NotEqual => ordering != Some(Ordering::Equal),
            Self::Less => ordering == Some(Ordering::Less),
            Self::LessOrEqual => ordering.is_some_and(Ordering::is_le),
            Self::Greater => ordering == Some(Ordering::Greater),
            Self::GreaterOrEqual => ordering.is_some_and(Ordering::is_ge),
            Self::Has => false,
        }
    }
}

impl FieldValue<'_> {
    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Number(number) => number.to_string().into(),
            Self::Bool(yes) => if *yes { "true" } else { "false" }.into(),
        }
    }
}

impl Schema {
    fn check(&self, field: &str, position: usize) -> Result<(), FilterError> {
        let of_map =
            field.split_once('.').is_some_and(|(map, key)| self.maps.contains(&map) && !key.is_empty());
        if self.fields.contains(&field) || of_map {
            return Ok(());
        }
        let mut known: Vec<String> = self.fields.iter().map(|field| (*field).to_owned()).collect();
        known.extend(self.maps.iter().map(|map| format!("{map}.KEY")));
        let message = format!("there is no field {field:?}; use {}", known.join(", "));
        Err(FilterError { position, message })
    }
}
