//! Tokens of a filter, with their positions.

use super::{FilterError, Op};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Open,
    Close,
    And,
    Or,
    Not,
    Op(Op),
    /// A name or bare value.
    Word(String),
    /// A value in quotes.
    Quoted(String),
}

/// A token and the position of its first character, counted from 1.
pub(super) type Placed = (usize, Token);

/// Splits a filter. A word that follows an operator is a value and runs up to white space or a parenthesis, so that
/// addresses and times need no quotes.
pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, FilterError> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens: Vec<Placed> = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let position = at + 1;
        let value = matches!(tokens.last(), Some((_, Token::Op(_))));
        match c {
            _ if c.is_whitespace() => at += 1,
            '(' => {
                tokens.push((position, Token::Open));
                at += 1;
            }
            ')' => {
                tokens.push((position, Token::Close));
                at += 1;
            }
            '"' | '\'' => {
                let (text, end) = quoted(&chars, at)?;
                tokens.push((position, Token::Quoted(text)));
                at = end;
            }
            '=' | '!' | '<' | '>' if value => {
                return Err(error(position, "one operator follows another; quote a value that begins so"));
            }
            _ if value => {
                let end = run(&chars, at, |c| !c.is_whitespace() && !matches!(c, '(' | ')' | '"' | '\''));
                tokens.push((position, Token::Word(chars[at..end].iter().collect())));
                at = end;
            }
            '=' | '!' | '<' | '>' | ':' => {
                let (op, len) = operator(c, chars.get(at + 1).copied())
                    .ok_or_else(|| error(position, "`!` alone is no operator; write `!=` or NOT"))?;
                tokens.push((position, Token::Op(op)));
                at += len;
            }
            _ => {
                let name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | '*');
                let end = run(&chars, at, name);
                if end == at {
                    return Err(error(position, format!("unexpected character {c:?}")));
                }
                let word: String = chars[at..end].iter().collect();
                let token = match word.as_str() {
                    "AND" => Token::And,
                    "OR" => Token::Or,
                    "NOT" => Token::Not,
                    _ => Token::Word(word),
                };
                tokens.push((position, token));
                at = end;
            }
        }
    }
    Ok(tokens)
}

fn operator(first: char, second: Option<char>) -> Option<(Op, usize)> {
    match (first, second) {
        ('=', _) => Some((Op::Equal, 1)),
        (':', _) => Some((Op::Has, 1)),
        ('!', Some('=')) => Some((Op::NotEqual, 2)),
        ('<', Some('=')) => Some((Op::LessOrEqual, 2)),
        ('>', Some('=')) => Some((Op::GreaterOrEqual, 2)),
        ('<', _) => Some((Op::Less, 1)),
        ('>', _) => Some((Op::Greater, 1)),
        _ => None,
    }
}

fn run(chars: &[char], from: usize, belongs: impl Fn(char) -> bool) -> usize {
    chars[from..].iter().position(|c| !belongs(*c)).map_or(chars.len(), |len| from + len)
}

fn quoted(chars: &[char], from: usize) -> Result<(String, usize), FilterError> {
    let mut text = String::new();
    let mut at = from + 1;
    while let Some(&c) = chars.get(at) {
        match c {
            _ if c == chars[from] => return Ok((text, at + 1)),
            '\\' => {
                at += 1;
                text.extend(chars.get(at));
            }
            _ => text.push(c),
        }
        at += 1;
    }
    Err(error(from + 1, "the quotation mark is not closed"))
}

pub(super) fn error(position: usize, message: impl Into<String>) -> FilterError {
    FilterError { position, message: message.into() }
}
