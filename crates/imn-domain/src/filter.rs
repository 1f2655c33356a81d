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
//! A field that is absent satisfies `!=` and nothing else.

mod lexer;
mod parser;
mod sort;

use std::cmp::Ordering;

pub use sort::Sort;

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// Text.
    Text(String),
    /// A number; of times, microseconds since the Unix epoch.
    Number(f64),
}

/// Why something cannot stand in a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiteralError {
    /// There is no such field.
    UnknownField,
    /// The field cannot have this value: why, and what it can have.
    Value(String),
}

/// Something that can be filtered and ordered. A path is a field's name, or a map's and a key: `["tags", "pop"]`.
pub trait Fields {
    /// What a text stands for when a field is compared with it.
    ///
    /// # Errors
    /// When there is no such field, or it cannot have such a value.
    fn literal(path: &[String], text: &str) -> Result<FieldValue, LiteralError>;
    /// The value of a field; `None` when it has none.
    fn value(&self, path: &[String]) -> Option<FieldValue>;
    /// Whether lists can be ordered by a field.
    fn is_sortable(path: &[String]) -> bool;
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
    Is { path: Vec<String>, op: Op, value: FieldValue },
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
    /// Reads a filter over the fields of `T`; an empty text lets everything pass.
    ///
    /// # Errors
    /// The position of the first thing that cannot be read, or that `T` does not have.
    pub fn parse<T: Fields>(text: &str) -> Result<Self, FilterError> {
        parser::parse::<T>(text).map(|root| Self { root })
    }

    /// Whether something passes.
    pub fn matches(&self, item: &impl Fields) -> bool {
        self.root.as_ref().is_none_or(|node| node.matches(item))
    }

    /// Whether everything passes.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }
}

impl Node {
    fn matches(&self, item: &impl Fields) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.matches(item)),
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(item)),
            Self::Not(node) => !node.matches(item),
            Self::Is { path, op, value } => match item.value(path) {
                Some(found) => op.holds(&found, value),
                None => *op == Op::NotEqual,
            },
        }
    }
}

impl Op {
    fn holds(self, found: &FieldValue, value: &FieldValue) -> bool {
        let ordering = || found.compare(value);
        match self {
            Self::Equal => ordering() == Some(Ordering::Equal),
            Self::NotEqual => ordering() != Some(Ordering::Equal),
            Self::Less => ordering() == Some(Ordering::Less),
            Self::LessOrEqual => ordering().is_some_and(Ordering::is_le),
            Self::Greater => ordering() == Some(Ordering::Greater),
            Self::GreaterOrEqual => ordering().is_some_and(Ordering::is_ge),
            Self::Has => {
                let wanted = value.text().to_lowercase();
                wanted == "*" || found.text().to_lowercase().contains(&wanted)
            }
        }
    }
}

impl FieldValue {
    /// The order of two values; `None` when they are of different kinds.
    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Number(a), Self::Number(b)) => Some(a.total_cmp(b)),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
        }
    }
}

/// The path that a field's text names.
fn path(field: &str) -> Vec<String> {
    match field.split_once('.') {
        Some((map, key)) => vec![map.to_owned(), key.to_owned()],
        None => vec![field.to_owned()],
    }
}

fn no_field(field: &str) -> String {
    format!("there is no field {field:?} to use here")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Thing(&'static [(&'static str, &'static str)]);

    impl Fields for Thing {
        fn literal(path: &[String], text: &str) -> Result<FieldValue, LiteralError> {
            match path.join(".").as_str() {
                "n" => text
                    .parse()
                    .map(FieldValue::Number)
                    .map_err(|_| LiteralError::Value("no number".to_owned())),
                "state" | "tier" | "name" | "address" | "tags.pop" => Ok(FieldValue::Text(text.to_owned())),
                _ => Err(LiteralError::UnknownField),
            }
        }

        fn value(&self, path: &[String]) -> Option<FieldValue> {
            let name = path.join(".");
            let (_, text) = self.0.iter().find(|(field, _)| *field == name)?;
            Self::literal(path, text).ok()
        }

        fn is_sortable(path: &[String]) -> bool {
            Self::literal(path, "0").is_ok()
        }
    }

    const EDGE: Thing = Thing(&[
        ("state", "down"),
        ("tier", "low"),
        ("name", "Edge 1"),
        ("tags.pop", "jfk"),
        ("n", "10"),
        ("address", "2001:db8::1"),
    ]);

    #[test]
    fn filters_pass_what_they_say() {
        for (text, passes) in [
            ("", true),
            ("state=down AND tags.pop=\"jfk\"", true),
            ("state=down AND tags.pop='jfk' AND NOT (tier=low OR name:\"edge\")", false),
            ("state=up OR tier=low", true),
            // OR binds tighter than AND.
            ("state=up AND tier=high OR tier=low", false),
            ("(state=up AND tier=high) OR tier=low", true),
            ("NOT NOT state=down", true),
            ("n>9 AND n<=10 AND n!=9", true),
            ("n<9", false),
            ("name:EDGE", true),
            ("tags.pop:*", true),
            ("address=2001:db8::1", true),
            ("name=\"Edge \\1\"", true),
            ("state!=up", true),
        ] {
            assert_eq!(Filter::parse::<Thing>(text).unwrap().matches(&EDGE), passes, "{text}");
        }
        assert!(!Filter::parse::<Thing>("tags.pop:*").unwrap().matches(&Thing(&[])));
    }

    #[test]
    fn errors_name_the_position() {
        for (text, position) in [
            ("state", 6),
            ("state=", 7),
            ("state=down tier=low", 12),
            ("state=down AND", 15),
            ("color=red", 1),
            ("state=down AND n=ten", 18),
            ("(state=down", 12),
            ("state=\"down", 7),
            ("state ! down", 7),
            ("AND", 1),
            ("state=down)", 11),
        ] {
            let error = Filter::parse::<Thing>(text).unwrap_err();
            assert_eq!(error.position, position, "{text}: {error}");
        }
        assert!(Filter::parse::<Thing>(&"(".repeat(5000)).is_err());
        assert!(Filter::parse::<Thing>(&"NOT ".repeat(2000)).is_err());
    }

    #[test]
    fn orders_compare_field_by_field() {
        let a = Thing(&[("tier", "low"), ("n", "9")]);
        let b = Thing(&[("tier", "low"), ("n", "10")]);
        let none = Thing(&[("tier", "low")]);
        let order = |text, a: &Thing, b: &Thing| {
            let sort = Sort::parse::<Thing>(text).unwrap();
            sort.compare(&sort.key(a), &sort.key(b))
        };
        assert_eq!(order("tier, n", &a, &b), Ordering::Less);
        assert_eq!(order("tier, n desc", &a, &b), Ordering::Greater);
        assert_eq!(order("n desc", &a, &none), Ordering::Less);
        assert_eq!(Sort::parse::<Thing>("tier, color").unwrap_err().position, 7);
        assert!(Sort::parse::<Thing>("tier down").is_err());
        assert!(Sort::parse::<Thing>("tier,,n").is_err());
    }

    #[test]
    fn many_texts_are_filters_or_errors() {
        let pieces = [
            "state", "n", "tags.pop", "colour", "=", "!=", "<", ">=", ":", "*", " ", " AND ", " OR ", "NOT ",
            "(", ")", "\"", "'", "\\", "10", "down", "-", ".", ",", "desc", "\u{e4}", "\u{202e}", "\0",
        ];
        for text in imn_testkit::hostile::texts(&pieces) {
            let end = text.chars().count() + 1;
            match Filter::parse::<Thing>(&text) {
                Ok(filter) => drop(filter.matches(&EDGE)),
                Err(error) => assert!((1..=end).contains(&error.position), "{text:?}: {error}"),
            }
            if let Err(error) = Sort::parse::<Thing>(&text) {
                assert!((1..=end).contains(&error.position), "{text:?}: {error}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_filter_or_an_error(text in "\\PC{0,60}|[a-z=<>!:() \"ANDORT.]{0,60}") {
            let _ = Filter::parse::<Thing>(&text).map(|filter| filter.matches(&EDGE));
            let _ = Sort::parse::<Thing>(&text);
        }
    }
}
