//! Management over the HTTP API: lists, single things, and changes to them.

pub(crate) mod agent;
pub(crate) mod job;
mod live;
pub(crate) mod module;
mod registry;
pub(crate) mod results;
pub(crate) mod target;
pub(crate) mod tier;
pub(crate) mod token;

use std::{
    future::Future,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anyhow::Result;
use imn_runtime::task::Signals;
use imn_sink::format::list::{self, Column, Format};
use serde_json::{Map, Value};

use crate::{
    cli::{Common, ConnectArgs, Selection, Watched, once},
    client::{Client, encoded},
    exit::{Code, Exit},
};

/// How often a watched list is asked for.
const WATCH: Duration = Duration::from_secs(2);
/// Moves the cursor home and clears what is below it.
const HOME: &str = "\x1b[H\x1b[2J";

/// Runs a verb that talks to the server.
fn block_on<T>(verb: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(verb)
}

/// A list as it was asked for: once, or again and again.
async fn show_list<F>(watched: &Watched, columns: &[Column], ask: F) -> Result<Code>
where
    F: AsyncFn(&Client) -> Result<Vec<Value>>,
{
    show(watched, |out, format, rows: &Vec<Value>| list::write(out, format, columns, rows), ask).await
}

/// The pages of a list as they were asked for, narrowed by these parameters besides.
async fn show_pages<'a>(
    watched: &Watched,
    columns: &[Column],
    path: &str,
    which: &'a Selection,
    more: &[(&'a str, String)],
) -> Result<Code> {
    let mut query = query([("filter", &which.filter), ("order_by", &which.order_by)]);
    query.extend_from_slice(more);
    show_list(watched, columns, async |client| Ok(client.list(path, &query, which.limit).await?)).await
}

/// Anything as it was asked for: once, or again and again until Ctrl-C.
async fn show<T, F>(
    watched: &Watched,
    write: impl Fn(&mut Vec<u8>, Format, &T) -> io::Result<()>,
    ask: F,
) -> Result<Code>
where
    F: AsyncFn(&Client) -> Result<T>,
{
    let client = Client::find(&watched.common.connect)?;
    let format = watched.common.output;
    let mut signals = Signals::listen()?;
    let mut last = Vec::new();
    loop {
        let mut text = Vec::new();
        tokio::select! {
            answer = ask(&client) => write(&mut text, format, &answer?)?,
            _ = signals.next() => return Ok(Code::Interrupted),
        }
        if !watched.watch {
            print(&text)?;
            return Ok(Code::Ok);
        }
        // Who reads a pipe wants what is new, once.
        if io::stdout().is_terminal() {
            print(&[HOME.as_bytes(), &text].concat())?;
        } else if text != last {
            print(&text)?;
        }
        last = text;
        tokio::select! {
            () = tokio::time::sleep(WATCH) => {}
            _ = signals.next() => return Ok(Code::Interrupted),
        }
    }
}

/// One thing.
fn show_one(common: &Common, columns: &[Column], object: &Value) -> Result<Code> {
    let mut text = Vec::new();
    list::write_one(&mut text, common.output, columns, object)?;
    print(&text)?;
    Ok(Code::Ok)
}

/// One thing that was made or changed: for people its line of the list.
fn show_changed(common: &Common, columns: &[Column], object: &Value) -> Result<Code> {
    if !matches!(common.output, Format::Table | Format::Wide) {
        return show_one(common, columns, object);
    }
    let mut text = Vec::new();
    list::write(&mut text, common.output, columns, std::slice::from_ref(object))?;
    print(&text)?;
    Ok(Code::Ok)
}

fn print(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

/// Removes each of them; the first that cannot be is the error, after the others were tried.
async fn remove(connect: &ConnectArgs, what: &str, collection: &str, keys: &[String]) -> Result<Code> {
    let client = Client::find(connect)?;
    let mut failed = None;
    for key in keys {
        match client.delete(&item(collection, key)).await {
            Ok(_) => writeln!(io::stdout(), "{what} {key} removed")?,
            Err(failure) if failed.is_none() && keys.len() == 1 => return Err(failure.into()),
            Err(failure) => {
                writeln!(io::stderr(), "error: {what} {key}: {failure}")?;
                failed.get_or_insert(failure.code());
            }
        }
    }
    Ok(failed.unwrap_or(Code::Ok))
}

/// The path of one thing of a collection.
fn item(collection: &str, key: &str) -> String {
    format!("/api/v1/{collection}/{}", encoded(key))
}

/// `k=v` pairs as parameters: each value as JSON where it is some, else as text.
pub(crate) fn params(pairs: &[(String, String)]) -> Result<Map<String, Value>, Exit> {
    let pairs = once("--param", pairs)?;
    Ok(pairs.into_iter().map(|(key, value)| (key, json_or_text(&value))).collect())
}

fn json_or_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Query parameters of those that are given.
fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a Option<String>)>) -> Vec<(&'a str, String)> {
    pairs.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
}

fn nothing_to_change(flags: &str) -> anyhow::Error {
    Exit::usage(format!("nothing to change: give at least one of {flags}")).into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_are_json_or_text() {
        let pairs = [("count", "3"), ("interval", "10ms"), ("fail", "true"), ("note", "\"3\"")];
        let pairs: Vec<_> = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let expected = json!({"count": 3, "interval": "10ms", "fail": true, "note": "3"});
        assert_eq!(Value::Object(params(&pairs).unwrap()), expected);
        assert!(params(&[pairs[0].clone(), pairs[0].clone()]).is_err());
    }

    #[test]
    fn addresses_are_one_segment() {
        assert_eq!(item("targets", "http://x/y"), "/api/v1/targets/http%3A%2F%2Fx%2Fy");
    }
}
