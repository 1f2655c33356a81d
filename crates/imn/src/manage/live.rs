//! `imn target live`: rounds and transitions as the server commits them.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::Result;
use imn_runtime::task::Signals;
use imn_sink::format::list::{self, Column, Format};
use serde_json::Value;

use super::{item, print};
use crate::{
    cli::Common,
    client::{Client, Events},
    exit::{Code, Exit},
};

const COLUMNS: &[Column] = &[
    Column::new("EVENT", "event"),
    Column::new("TIME", "time"),
    Column::new("AGENT", "agent"),
    Column::new("TYPE", "type"),
    Column::new("TARGET", "target"),
    Column::new("ADDRESS", "address"),
    Column::new("SENT", "sent"),
    Column::new("RECEIVED", "received"),
    Column::new("LOSS %", "loss_pct"),
    Column::new("RTT us", "rtt_avg_us"),
    Column::new("FROM", "from"),
    Column::new("TO", "to"),
    Column::new("REASON", "reason"),
    Column::new("ERROR", "error"),
];

/// The server shows that it lives every ten seconds.
const SILENCE: Duration = Duration::from_secs(30);

/// Shows what happens to a target, or to all, until Ctrl-C.
pub(super) async fn run(target: Option<&str>, common: &Common) -> Result<Code> {
    let client = Client::find(&common.connect)?;
    let path = target
        .map_or_else(|| "/api/v1/live".to_owned(), |target| format!("{}/live", item("targets", target)));
    let mut signals = Signals::listen()?;
    let mut shown = Shown { format: common.output, begun: false };
    let mut events = tokio::select! {
        opened = client.events(&path) => opened?,
        _ = signals.next() => return Ok(Code::Interrupted),
    };
    loop {
        let event = tokio::select! {
            event = next(&mut events) => event?,
            _ = signals.next() => return Ok(Code::Interrupted),
        };
        let (name, data) = event;
        if name == "dropped" {
            writeln!(io::stderr(), "{} events missed: this reader is too slow", data["count"])?;
            continue;
        }
        print(&shown.text(&name, data)?)?;
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

struct Shown {
    format: Format,
    begun: bool,
}

impl Shown {
    fn text(&mut self, name: &str, mut data: Value) -> io::Result<Vec<u8>> {
        if let Some(fields) = data.as_object_mut() {
            fields.insert("event".to_owned(), name.into());
        }
        let first = !std::mem::replace(&mut self.begun, true);
        let mut text = Vec::new();
        match self.format {
            Format::Table | Format::Wide => {
                if first {
                    let [agent, kind, address] = ["AGENT", "TYPE", "ADDRESS"];
                    writeln!(
                        text,
                        "{:<28}{agent:<16}{kind:<10}{address:<24}{:>9}{:>12}",
                        "TIME", "ANSWERED", "RTT ms"
                    )?;
                }
                line(&mut text, name, &data)?;
            }
            // A stream has no end that could close an array.
            Format::Json | Format::Ndjson => list::write(&mut text, Format::Ndjson, COLUMNS, &[data])?,
            Format::Csv => {
                list::write(&mut text, Format::Csv, COLUMNS, &[data])?;
                if !first {
                    let header = text.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                    text.drain(..header);
                }
            }
            Format::Yaml => list::write(&mut text, Format::Yaml, COLUMNS, &[data])?,
        }
        Ok(text)
    }
}

/// A line for people.
fn line(out: &mut Vec<u8>, name: &str, data: &Value) -> io::Result<()> {
    // Texts of others do not steer the terminal.
    let field = |name: &str| {
        let text = data[name].as_str().unwrap_or("-");
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>()
    };
    match name {
        "round" => {
            let rtt =
                data["rtt_avg_us"].as_f64().map_or_else(|| "-".to_owned(), |us| format!("{:.3}", us / 1e3));
            let answered = format!("{}/{}", data["received"], data["sent"]);
            write!(out, "{:<28}{:<16}{:<10}", field("time"), field("agent"), field("type"))?;
            write!(out, "{:<24}{answered:>9}{rtt:>12}", field("address"))?;
            if data["error"].is_string() {
                write!(out, "  {}", field("error"))?;
            }
            writeln!(out)
        }
        "state" => {
            let (time, target) = (field("time"), field("target"));
            let (from, to, reason) = (field("from"), field("to"), field("reason"));
            writeln!(out, "{time:<28}target {target}: {from} -> {to}: {reason}")
        }
        other => writeln!(out, "{:<28}{other} {}", field("time"), field("job_id")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_lines_under_one_header() {
        let round = json!({"time": "2026-11-20T08:00:00.000000Z", "agent": "lon1", "type": "icmp", "sent": 3,
            "target": "t", "address": "127.0.0.5", "received": 2, "rtt_avg_us": 1500.0, "loss_pct": 100.0 / 3.0,
            "error": "bad\u{1b}[2J"});
        let state = json!({"time": "2026-11-20T08:00:01.000000Z", "target": "t", "from": "active", "to": "down",
            "reason": "silent"});
        let shown = |format| {
            let mut shown = Shown { format, begun: false };
            let mut text = shown.text("round", round.clone()).unwrap();
            text.extend(shown.text("state", state.clone()).unwrap());
            String::from_utf8(text).unwrap()
        };
        let table = shown(Format::Table);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("TIME ") && lines.len() == 3, "{table}");
        assert!(lines[1].contains(" 2/3       1.500  bad\u{fffd}[2J"), "{table}");
        assert!(lines[2].ends_with("target t: active -> down: silent"), "{table}");
        let csv = shown(Format::Csv);
        assert_eq!(csv.lines().filter(|line| line.starts_with("event,")).count(), 1, "{csv}");
        assert_eq!(csv.lines().count(), 3);
        for line in shown(Format::Json).lines() {
            assert!(serde_json::from_str::<Value>(line).unwrap()["event"].is_string(), "{line}");
        }
    }
}
