//! Log lines as records of OTLP, and what must not be shown taken out of records and spans.

use std::fmt;

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, SeverityNumber},
    trace::v1::Span,
};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use super::{Inlet, Redactor, now_ns};
use crate::telemetry::trace;

/// Libraries by which lines are sent, and this one: what they say of it is not sent, or it would have no end.
const OWN: &[&str] =
    &["h2", "hyper", "opentelemetry", "tonic", "tower", concat!("imn_runtime", "::telemetry")];

/// Hands every line to the exporter.
#[derive(Debug)]
pub(in super::super) struct Logs {
    inlet: Inlet<LogRecord>,
}

impl Logs {
    pub(super) fn new(inlet: Inlet<LogRecord>) -> Self {
        Self { inlet }
    }
}

impl<S: Subscriber> Layer<S> for Logs {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        if OWN.iter().any(|own| meta.target().starts_with(own)) {
            return;
        }
        let severity = match *meta.level() {
            Level::ERROR => SeverityNumber::Error,
            Level::WARN => SeverityNumber::Warn,
            Level::INFO => SeverityNumber::Info,
            Level::DEBUG => SeverityNumber::Debug,
            Level::TRACE => SeverityNumber::Trace,
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields.put("code.namespace", Value::StringValue(meta.target().to_owned()));
        let now = now_ns();
        let (trace_id, span_id) = trace::ids()
            .map(|(trace, span)| (trace.to_bytes().to_vec(), span.to_bytes().to_vec()))
            .unwrap_or_default();
        self.inlet.offer(LogRecord {
            time_unix_nano: now,
            observed_time_unix_nano: now,
            severity_number: severity.into(),
            severity_text: meta.level().to_string(),
            body: Some(AnyValue { value: Some(Value::StringValue(fields.message)) }),
            attributes: fields.attributes,
            trace_id,
            span_id,
            ..LogRecord::default()
        });
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    attributes: Vec<KeyValue>,
}

impl Fields {
    fn put(&mut self, name: &str, value: Value) {
        self.attributes.push(KeyValue {
            key: name.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        });
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), Value::DoubleValue(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), Value::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.put(field.name(), Value::IntValue(value)),
            Err(_) => self.put(field.name(), Value::StringValue(value.to_string())),
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), Value::BoolValue(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.put(field.name(), Value::StringValue(value.to_owned()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Takes out of a record what must not be shown.
pub(super) fn clean_record(redactor: Redactor, record: &mut LogRecord) {
    if let Some(body) = record.body.as_mut() {
        clean_value(redactor, "message", body);
    }
    clean_attributes(redactor, &mut record.attributes);
}

/// Takes out of a span what must not be shown.
pub(super) fn clean_span(redactor: Redactor, span: &mut Span) {
    span.name = redactor.text(&span.name);
    if let Some(status) = span.status.as_mut() {
        status.message = redactor.text(&status.message);
    }
    clean_attributes(redactor, &mut span.attributes);
    for event in &mut span.events {
        event.name = redactor.text(&event.name);
        clean_attributes(redactor, &mut event.attributes);
    }
    for link in &mut span.links {
        clean_attributes(redactor, &mut link.attributes);
    }
}

fn clean_attributes(redactor: Redactor, attributes: &mut [KeyValue]) {
    for attribute in attributes {
        if let Some(value) = attribute.value.as_mut() {
            clean_value(redactor, &attribute.key, value);
        }
    }
}

fn clean_value(redactor: Redactor, name: &str, value: &mut AnyValue) {
    match value.value.as_mut() {
        Some(Value::StringValue(text)) => *text = redactor.field(name, text).into_owned(),
        Some(Value::ArrayValue(array)) => {
            array.values.iter_mut().for_each(|value| clean_value(redactor, name, value));
        }
        Some(Value::KvlistValue(list)) => clean_attributes(redactor, &mut list.values),
        Some(_) if redactor.hides(name) => {
            value.value = Some(Value::StringValue(redactor.field(name, "").into_owned()));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(redactor: Redactor, name: &str, text: &str) -> String {
        let text = AnyValue { value: Some(Value::StringValue(text.to_owned())) };
        let attribute = KeyValue { key: name.to_owned(), value: Some(text.clone()), ..KeyValue::default() };
        let mut record =
            LogRecord { body: Some(text), attributes: vec![attribute.clone()], ..LogRecord::default() };
        clean_record(redactor, &mut record);
        let mut span = Span {
            name: format!("{name}={:?}", attribute.value),
            attributes: vec![attribute],
            ..Span::default()
        };
        clean_span(redactor, &mut span);
        format!("{record:?} {span:?}")
    }

    proptest! {
        #[test]
        fn no_secret_and_no_target_leaves(secret in "[A-Za-z0-9]{12,40}", target in "[a-z]{3,8}\\.example|10(\\.[1-9][0-9]){3}") {
            let (open, personal) = (Redactor::new(false), Redactor::new(true));
            let url = format!("nats://u:{secret}@h");
            for text in [format!("eyJ{secret}.{secret}.{secret}"), url] {
                prop_assert!(!shown(open, "detail", &text).contains(&secret));
            }
            let value = Some(AnyValue { value: Some(Value::StringValue(secret.clone())) });
            let attribute = KeyValue { key: "password".to_owned(), value, ..KeyValue::default() };
            let mut span = Span { attributes: vec![attribute], ..Span::default() };
            clean_span(open, &mut span);
            let text = format!("{span:?}");
            prop_assert!(!text.contains(&secret));
            let error = format!("resolve {target}: none");
            for (name, text) in [("imn.target", &target), ("error", &error)] {
                prop_assert!(!shown(personal, name, text).contains(&target));
            }
        }
    }
}
