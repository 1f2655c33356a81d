//! Records of CSV (RFC 4180), with the lines on which they begin.

/// Reads records one by one. One that is broken is an error of its own: those behind it are read all the same.
#[derive(Clone, Debug)]
pub struct CsvRecords<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> CsvRecords<'a> {
    /// The records of a text, which may begin with a byte order mark.
    pub fn new(text: &'a str) -> Self {
        Self { rest: text.trim_start_matches('\u{feff}'), line: 1 }
    }
}

impl Iterator for CsvRecords<'_> {
    /// Number of the line on which the record begins, and its cells.
    type Item = (usize, Result<Vec<String>, String>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let line = self.line;
            let record = self.record();
            // A blank line is no record.
            if !matches!(&record, Ok(cells) if cells.len() == 1 && cells[0].is_empty()) {
                return Some((line, record));
            }
        }
    }
}

impl CsvRecords<'_> {
    fn record(&mut self) -> Result<Vec<String>, String> {
        let mut cells = Vec::new();
        loop {
            let cell = if let Some(quoted) = self.rest.strip_prefix('"') {
                self.quoted(quoted)?
            } else {
                let end = self.rest.find([',', '\n']).unwrap_or(self.rest.len());
                let (cell, rest) = self.rest.split_at(end);
                self.rest = rest;
                cell.strip_suffix('\r').unwrap_or(cell).to_owned()
            };
            cells.push(cell);
            if let Some(rest) = self.rest.strip_prefix(',') {
                self.rest = rest;
                continue;
            }
            let rest = self.rest.strip_prefix('\r').unwrap_or(self.rest);
            if let Some(rest) = rest.strip_prefix('\n') {
                (self.rest, self.line) = (rest, self.line + 1);
                return Ok(cells);
            }
            if rest.is_empty() {
                self.rest = rest;
                return Ok(cells);
            }
            let end = self.rest.find('\n').map_or(self.rest.len(), |at| at + 1);
            (self.rest, self.line) = (&self.rest[end..], self.line + 1);
            return Err("something follows a closing quotation mark".to_owned());
        }
    }

    /// The cell whose text begins at `text`, after the opening quotation mark.
    fn quoted(&mut self, text: &str) -> Result<String, String> {
        let offset = self.rest.len() - text.len();
        let mut cell = String::new();
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' if chars.next_if(|(_, next)| *next == '"').is_some() => cell.push('"'),
                '"' => {
                    self.rest = &self.rest[offset + at + 1..];
                    return Ok(cell);
                }
                c => {
                    self.line += usize::from(c == '\n');
                    cell.push(c);
                }
            }
        }
        self.rest = "";
        Err("a quotation is not closed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str) -> Vec<(usize, Result<Vec<String>, String>)> {
        CsvRecords::new(text).collect()
    }

    #[test]
    fn records_are_read_with_their_lines() {
        let text = "a,b\r\n\"x,\"\"y\"\"\n2\",\r\n\n3,4";
        let cells: Vec<(usize, Vec<String>)> =
            records(text).into_iter().map(|(line, cells)| (line, cells.unwrap())).collect();
        let owned = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        assert_eq!(cells, [(1, owned(["a", "b"])), (2, owned(["x,\"y\"\n2", ""])), (5, owned(["3", "4"]))]);
        assert!(records("a\n\"b").pop().unwrap().1.is_err());
        let broken = records("\"a\"b,c\nd,e");
        assert!(broken[0].1.is_err());
        assert_eq!(broken[1], (2, Ok(owned(["d", "e"]))));
    }

    fn quoted(cell: &str) -> String {
        format!("\"{}\"", cell.replace('"', "\"\""))
    }

    #[test]
    fn many_texts_come_to_an_end_and_what_is_quoted_comes_back() {
        let pieces = ["a", "\"", "\"\"", ",", "\r", "\n", "\r\n", " ", "\u{feff}", "\u{e4}", "# count=", "1"];
        for text in imn_testkit::hostile::texts(&pieces) {
            let (mut last, mut count) = (0, 0);
            for (line, record) in CsvRecords::new(&text) {
                assert!(line > last, "{text:?}");
                (last, count) = (line, count + 1);
                let Ok(cells) = record else { continue };
                let written = cells.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",") + "\r\n";
                assert_eq!(records(&written), [(1, Ok(cells))], "{text:?}");
            }
            assert!(count <= text.len(), "{text:?}");
        }
    }
}
