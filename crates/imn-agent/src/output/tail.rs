//! The end of a file that another process appends to.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
};

/// Bytes of a file that are read in one go; what is left is read the next time.
const MOST: u64 = 1 << 20;
/// A line is cut to this.
const LONGEST: usize = 8_192;

#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    at: u64,
    /// The beginning of a line whose end has not been written yet.
    rest: Vec<u8>,
}

impl Tail {
    /// Reads from byte `at` on.
    pub(super) fn new(path: PathBuf, at: u64) -> Self {
        Self { path, at, rest: Vec::new() }
    }

    /// Hands over each line that has been completed since.
    pub(super) fn read(&mut self, mut take: impl FnMut(String)) {
        let Ok(length) = std::fs::metadata(&self.path).map(|meta| meta.len()) else { return };
        if length < self.at {
            // It was begun anew; what was not read before that is in the copy.
            let mut kept = self.path.clone().into_os_string();
            kept.push(".1");
            let mut rest = Vec::new();
            if read_from(&PathBuf::from(kept), self.at, &mut rest).is_ok() {
                self.split(&rest, &mut take);
            }
            self.at = 0;
        }
        if length == self.at {
            return;
        }
        let mut bytes = Vec::new();
        // One that cannot be read now is read the next time.
        if read_from(&self.path, self.at, &mut bytes).is_ok() {
            self.at += bytes.len() as u64;
            self.split(&bytes, &mut take);
        }
    }

    fn split(&mut self, bytes: &[u8], take: &mut impl FnMut(String)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST.saturating_sub(self.rest.len());
            let line = part.strip_suffix(b"\n");
            self.rest.extend(line.unwrap_or(part).iter().take(room));
            if line.is_some() {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.rest)).trim_end().to_owned();
                if !line.is_empty() {
                    take(line);
                }
            }
        }
    }
}

fn read_from(path: &PathBuf, at: u64, into: &mut Vec<u8>) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    file.take(MOST).read_to_end(into).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use proptest::prelude::*;

    fn lines(tail: &mut Tail) -> Vec<String> {
        let mut found = Vec::new();
        tail.read(|line| found.push(line));
        found
    }

    #[test]
    fn lines_are_told_when_they_are_whole_and_over_a_new_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.log");
        let mut tail = Tail::new(path.clone(), 0);
        assert!(lines(&mut tail).is_empty(), "there is no file yet");
        let mut file = File::options().append(true).create(true).open(&path).unwrap();
        file.write_all(b"one\n\ntw").unwrap();
        assert_eq!(lines(&mut tail), ["one"]);
        file.write_all(b"o\nthree\n").unwrap();
        // As an agent keeps it within bounds.
        std::fs::copy(&path, directory.path().join("x.log.1")).unwrap();
        file.set_len(0).unwrap();
        file.write_all(b"four\n").unwrap();
        assert_eq!(lines(&mut tail), ["two", "three", "four"]);
        let mut later = Tail::new(path, 5);
        assert!(lines(&mut later).is_empty());
        file.write_all(&vec![b'x'; 3 * LONGEST]).unwrap();
        file.write_all(b"\nend\n").unwrap();
        let found = lines(&mut later);
        assert_eq!((found[0].len(), found[1].as_str()), (LONGEST, "end"));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_lines_are_the_same(text in proptest::collection::vec("[a-z]{1,6}", 1..8), cut in 0..50_usize) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("x.log");
            let whole = text.join("\n") + "\n";
            let (first, second) = whole.split_at(cut.min(whole.len()));
            let mut tail = Tail::new(path.clone(), 0);
            std::fs::write(&path, first).unwrap();
            let mut found = lines(&mut tail);
            std::fs::write(&path, format!("{first}{second}")).unwrap();
            found.extend(lines(&mut tail));
            prop_assert_eq!(found, text);
        }
    }
}
