//! The form of log lines: what must not be shown is taken out, and the trace that a line belongs to is named.

use std::fmt;

use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::{Redactor, trace};

/// Writes fields as text, in the form of `tracing_subscriber`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields(pub(super) Redactor);

impl<'w> FormatFields<'w> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut out = Out { writer, redactor: self.0, empty: true, result: Ok(()) };
        fields.record(&mut out);
        out.result
    }
}

struct Out<'w> {
    writer: Writer<'w>,
    redactor: Redactor,
    empty: bool,
    result: fmt::Result,
}

impl Out<'_> {
    fn put(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = self.write(field.name(), value);
        }
    }

    fn write(&mut self, name: &str, value: &str) -> fmt::Result {
        let shown = self.redactor.field(name, value);
        if !std::mem::replace(&mut self.empty, false) {
            self.writer.write_char(' ')?;
        }
        match name.strip_prefix("r#").unwrap_or(name) {
            "message" => write!(self.writer, "{shown}"),
            name if self.writer.has_ansi_escapes() => {
                write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{shown}")
            }
            name => write!(self.writer, "{name}={shown}"),
        }
    }
}

impl Visit for Out<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" { self.put(field, value) } else { self.record_debug(field, &value) }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }
}

/// Lines for people: those of `inner`, and the trace.
pub(super) struct Text<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for Text<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some((trace, span)) = trace::ids() else { return self.0.format_event(context, writer, event) };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writeln!(writer, "{} trace_id={trace} span_id={span}", line.trim_end_matches('\n'))
    }
}

/// Objects for programs: those of `inner`, with the trace.
pub(super) struct Json<F>(pub(super) F, pub(super) Redactor);

impl<S, N, F> FormatEvent<S, N> for Json<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let mut fields: Map<String, Value> = serde_json::from_str(&line).map_err(|_| fmt::Error)?;
        // The target of a line is the place in the program that wrote it.
        for (name, value) in fields.iter_mut().filter(|(name, _)| *name != "target" && *name != "timestamp") {
            clean(self.1, name, value);
        }
        if let Some((trace, span)) = trace::ids() {
            fields.insert("trace_id".to_owned(), Value::String(trace.to_string()));
            fields.insert("span_id".to_owned(), Value::String(span.to_string()));
        }
        let line = serde_json::to_string(&fields).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

fn clean(redactor: Redactor, name: &str, value: &mut Value) {
    match value {
        Value::String(text) => *text = redactor.field(name, text).into_owned(),
        Value::Array(values) => values.iter_mut().for_each(|value| clean(redactor, name, value)),
        Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| clean(redactor, name, value)),
        _ if redactor.hides(name) => *value = Value::String(redactor.field(name, "").into_owned()),
        _ => {}
    }
}
