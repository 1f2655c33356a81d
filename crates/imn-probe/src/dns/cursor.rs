//! Reading within one DNS message.

use super::text;

/// Octets of a name at most, length octets included (RFC 1035 §2.3.4).
const LONGEST_NAME: usize = 255;
const POINTER: u8 = 0b1100_0000;

/// A place in a message, and where what is being read ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
    end: usize,
}

/// Why something could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The message, or the record's own length, ends before it does.
    #[error("ends early")]
    Cut,
    /// A compression pointer that does not point back, as in a loop (RFC 1035 §4.1.4).
    #[error("a compression pointer that does not point back")]
    Pointer,
    /// A label of a kind that does not exist.
    #[error("a label of an unknown kind")]
    Label,
    /// A name of more than 255 octets.
    #[error("a name of more than 255 octets")]
    LongName,
    /// Data that does not have the form of its type.
    #[error("data that does not fit its type")]
    Data,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0, end: message.len() }
    }

    /// Octets left.
    pub(super) fn left(&self) -> usize {
        self.end - self.at
    }

    /// The next `length` octets as a place of their own, which may still point back into the message.
    pub(super) fn split(&mut self, length: usize) -> Result<Self, Fault> {
        if length > self.left() {
            return Err(Fault::Cut);
        }
        let part = Self { end: self.at + length, ..*self };
        self.at += length;
        Ok(part)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let part = self.split(length)?;
        Ok(&self.message[part.at..part.end])
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        let rest = &self.message[self.at..self.end];
        self.at = self.end;
        rest
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        self.take(1).map(|octets| octets[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.take(2).map(|octets| u16::from_be_bytes([octets[0], octets[1]]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.take(4).map(|octets| u32::from_be_bytes([octets[0], octets[1], octets[2], octets[3]]))
    }

    /// A string behind its length octet.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    /// A name, compressed or not, as zone files write it, with its final dot.
    pub(super) fn name(&mut self) -> Result<String, Fault> {
        let mut name = String::new();
        let (mut at, mut end) = (self.at, self.end);
        // Where this name began, or the part of it that a pointer led to: the next pointer must lead before it.
        let mut before = self.at;
        let mut octets = 1;
        let mut jumped = false;
        loop {
            let length = *self.message[..end].get(at).ok_or(Fault::Cut)?;
            match length & POINTER {
                0 if length == 0 => {
                    if !jumped {
                        self.at = at + 1;
                    }
                    if name.is_empty() {
                        name.push('.');
                    }
                    return Ok(name);
                }
                0 => {
                    let label =
                        self.message[..end].get(at + 1..at + 1 + usize::from(length)).ok_or(Fault::Cut)?;
                    octets += 1 + label.len();
                    if octets > LONGEST_NAME {
                        return Err(Fault::LongName);
                    }
                    text::label(&mut name, label);
                    name.push('.');
                    at += 1 + label.len();
                }
                POINTER => {
                    let low = *self.message[..end].get(at + 1).ok_or(Fault::Cut)?;
                    if !jumped {
                        self.at = at + 2;
                        jumped = true;
                    }
                    let to = usize::from(length & !POINTER) << 8 | usize::from(low);
                    if to >= before {
                        return Err(Fault::Pointer);
                    }
                    (at, before, end) = (to, to, self.message.len());
                }
                _ => return Err(Fault::Label),
            }
        }
    }
}
