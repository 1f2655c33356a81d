//! From tokens to a tree.

use super::{
    FieldValue, Fields, FilterError, LiteralError, Node, Op,
    lexer::{Placed, Token, error, tokens},
    no_field, path,
};

/// Longest filter, in bytes.
const MAX_LEN: usize = 8 * 1024;
/// Deepest nesting.
const MAX_DEPTH: usize = 50;

pub(super) fn parse<T: Fields>(text: &str) -> Result<Option<Node>, FilterError> {
    if text.len() > MAX_LEN {
        return Err(error(1, format!("the filter has {} bytes; at most {MAX_LEN} are taken", text.len())));
    }
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Ok(None);
    }
    let mut parser = Parser { tokens, at: 0, end: text.chars().count() + 1 };
    let node = parser.filter::<T>(0)?;
    match parser.next() {
        None => Ok(Some(node)),
        Some((position, _)) => Err(error(position, "expected AND, OR or the end")),
    }
}

struct Parser {
    tokens: Vec<Placed>,
    at: usize,
    /// The position behind the last character.
    end: usize,
}

impl Parser {
    fn filter<T: Fields>(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut nodes = vec![self.sequence::<T>(depth)?];
        while self.eat(&Token::And) {
            nodes.push(self.sequence::<T>(depth)?);
        }
        Ok(single(nodes, Node::All))
    }

    fn sequence<T: Fields>(&mut self, depth: usize) -> Result<Node, FilterError> {
        let mut nodes = vec![self.term::<T>(depth)?];
        while self.eat(&Token::Or) {
            nodes.push(self.term::<T>(depth)?);
        }
        Ok(single(nodes, Node::Any))
    }

    fn term<T: Fields>(&mut self, depth: usize) -> Result<Node, FilterError> {
        let position = self.position();
        if depth > MAX_DEPTH {
            return Err(error(position, format!("nested deeper than {MAX_DEPTH}")));
        }
        if self.eat(&Token::Not) {
            return Ok(Node::Not(Box::new(self.term::<T>(depth + 1)?)));
        }
        match self.next() {
            Some((_, Token::Open)) => {
                let node = self.filter::<T>(depth + 1)?;
                if self.eat(&Token::Close) {
                    Ok(node)
                } else {
                    Err(error(self.position(), "expected AND, OR or `)`"))
                }
            }
            Some((_, Token::Word(field))) => self.restriction::<T>(&field, position),
            Some(_) => Err(error(position, "expected a field, NOT or `(`")),
            None => Err(error(position, "the filter ends where a field, NOT or `(` should stand")),
        }
    }

    fn restriction<T: Fields>(&mut self, field: &str, position: usize) -> Result<Node, FilterError> {
        let path = path(field);
        // `field:*` needs no value that fits, so it shows whether there is such a field.
        let unknown = |fault: &LiteralError| *fault == LiteralError::UnknownField;
        if T::literal(&path, "*").is_err_and(|fault| unknown(&fault)) {
            return Err(error(position, no_field(field)));
        }
        let at = self.position();
        let Some((_, Token::Op(op))) = self.next() else {
            return Err(error(at, format!("expected = != < <= > >= or : after {field}")));
        };
        let at = self.position();
        let Some((_, Token::Word(text) | Token::Quoted(text))) = self.next() else {
            return Err(error(at, format!("expected a value after {field} {}", op.sign())));
        };
        let value = match T::literal(&path, &text) {
            // A part of a text need not be one of its values.
            _ if op == Op::Has => FieldValue::Text(text),
            Ok(value) => value,
            Err(LiteralError::Value(message)) => return Err(error(at, message)),
            Err(LiteralError::UnknownField) => return Err(error(position, no_field(field))),
        };
        Ok(Node::Is { path, op, value })
    }

    fn next(&mut self) -> Option<Placed> {
        let token = self.tokens.get(self.at).cloned();
        self.at += usize::from(token.is_some());
        token
    }

    fn eat(&mut self, wanted: &Token) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|(_, token)| token == wanted);
        self.at += usize::from(found);
        found
    }

    fn position(&self) -> usize {
        self.tokens.get(self.at).map_or(self.end, |(position, _)| *position)
    }
}

impl Op {
    fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Has => ":",
        }
    }
}

fn single(mut nodes: Vec<Node>, several: impl FnOnce(Vec<Node>) -> Node) -> Node {
    if nodes.len() == 1 { nodes.remove(0) } else { several(nodes) }
}
