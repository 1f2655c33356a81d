//! `imn module logs`: what modules have written, and what they write.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::Result;
use imn_runtime::task::Signals;
use imn_sink::format::list::{self, Column, Format};
use serde_json::Value;

use super::{item, print, query};
use crate::{
    cli::Common,
    client::{Client, Events, encoded},
    exit::{Code, Exit},
};

const COLUMNS: &[Column] = &[
    Column::new("TIME", "time"),
    Column::new("INSTANCE", "instance"),
    Column::new("STREAM", "stream"),
    Column::new("LEVEL", "level"),
    Column::new("MESSAGE", "message"),
    Column::wide("SEQ", "seq"),
    Column::wide("DROPPED", "dropped"),
];

/// The server shows that it lives every ten seconds.
const SILENCE: Duration = Duration::from_secs(30);

/// Shows the latest lines of a type or an instance, and with `follow` those to come, until Ctrl-C.
pub(super) async fn run(of: &str, lines: usize, follow: bool, common: &Common) -> Result<Code> {
    let client = Client::find(&common.connect)?;
    let path = format!("{}/logs", item("modules", of));
    let lines = lines.to_string();
    if !follow {
        let items = client.whole(&path, &query([("lines", &Some(lines))])).await?;
        let mut text = Vec::new();
        match common.output {
            Format::Table => items.iter().try_for_each(|line| write(&mut text, line))?,
            format => list::write(&mut text, format, COLUMNS, &items)?,
        }
        print(&text)?;
        return Ok(Code::Ok);
    }
    let mut signals = Signals::listen()?;
    let path = format!("{path}/live?lines={}", encoded(&lines));
    let mut events = tokio::select! {
        opened = client.events(&path) => opened?,
        _ = signals.next() => return Ok(Code::Interrupted),
    };
    loop {
        let (name, data) = tokio::select! {
            event = next(&mut events) => event?,
            _ = signals.next() => return Ok(Code::Interrupted),
        };
        if name == "dropped" {
            writeln!(io::stderr(), "{} lines missed: this reader is too slow", data["count"])?;
            continue;
        }
        let mut text = Vec::new();
        match common.output {
            Format::Table | Format::Wide | Format::Csv => write(&mut text, &data)?,
            // A stream has no end that could close an array.
            Format::Json | Format::Ndjson => list::write(&mut text, Format::Ndjson, COLUMNS, &[data])?,
            Format::Yaml => list::write(&mut text, Format::Yaml, COLUMNS, &[data])?,
        }
        print(&text)?;
    }
}

async fn next(events: &mut Events) -> Result<(String, Value)> {
    match tokio::time::timeout(SILENCE, events.next()).await {
        Ok(Ok(Some(event))) => Ok(event),
        Ok(Ok(None)) => Err(Exit::new(Code::Error, "the server ended the stream").into()),
        Ok(Err(failure)) => Err(failure.into()),
        Err(_) => Err(Exit::new(Code::Partial, "nothing was heard of the server for 30 seconds").into()),
    }
}

/// A line for people.
fn write(out: &mut Vec<u8>, line: &Value) -> io::Result<()> {
    // Texts of others do not steer the terminal.
    let field = |name: &str| {
        let text = line[name].as_str().unwrap_or("-");
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>()
    };
    if let Some(dropped) = line["dropped"].as_u64().filter(|dropped| *dropped > 0) {
        writeln!(
            out,
            "{:<28}{:<24}{dropped} lines were too many to be told",
            field("time"),
            field("instance")
        )?;
    }
    let level = field("level").to_uppercase();
    writeln!(out, "{:<28}{:<24}{level:<6}{}", field("time"), field("instance"), field("message"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_shown_as_it_is_and_does_not_steer() {
        let mut out = Vec::new();
        let line = json!({"time": "2026-11-28T08:00:00Z", "instance": "lon1-echo-0", "level": "warn",
            "message": "a\u{1b}[2J b", "dropped": 3});
        write(&mut out, &line).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("lon1-echo-0             3 lines were too many to be told"), "{text}");
        assert!(lines[1].ends_with("lon1-echo-0             WARN  a\u{fffd}[2J b"), "{text}");
    }
}
