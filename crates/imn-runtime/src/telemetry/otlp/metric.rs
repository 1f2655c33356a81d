//! Metrics as OTLP has them, made of the page that Prometheus would read: one source for both.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};

use super::SCOPE;

/// All metrics of some pages.
pub(super) fn resource_metrics(
    pages: &[String],
    resource: &Resource,
    start: u64,
    now: u64,
) -> ResourceMetrics {
    let metrics = pages.iter().flat_map(|page| read(page, start, now)).collect();
    let scope = InstrumentationScope {
        name: SCOPE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    ResourceMetrics {
        resource: Some(resource.clone()),
        scope_metrics: vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }],
        ..ResourceMetrics::default()
    }
}

/// One family of a page.
#[derive(Default)]
struct Family<'a> {
    name: &'a str,
    kind: &'a str,
    help: &'a str,
    unit: &'a str,
    samples: Vec<Sample<'a>>,
}

struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
}

fn read(page: &str, start: u64, now: u64) -> Vec<Metric> {
    let mut families: Vec<Family<'_>> = Vec::new();
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what @ ("HELP" | "TYPE" | "UNIT")), Some(name), text) => {
                if families.last().is_none_or(|family| family.name != name) {
                    families.push(Family { name, ..Family::default() });
                }
                if let Some(family) = families.last_mut() {
                    let text = text.unwrap_or_default();
                    match what {
                        "HELP" => family.help = text,
                        "TYPE" => family.kind = text,
                        _ => family.unit = text,
                    }
                }
            }
            (Some("#"), ..) => {}
            _ => {
                let sample = sample(line);
                if let Some((family, sample)) = families.last_mut().zip(sample) {
                    family.samples.push(sample);
                }
            }
        }
    }
    families.into_iter().filter_map(|family| family.metric(start, now)).collect()
}

/// `name{label="value",…} value`, perhaps with an exemplar behind it.
fn sample(line: &str) -> Option<Sample<'_>> {
    let at = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(at);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches(',');
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = unquoted(after)?;
            labels.push((label, value));
            rest = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name, labels, value })
}

/// A text up to its closing quote, and what follows.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    None
}

impl Family<'_> {
    fn metric(self, start: u64, now: u64) -> Option<Metric> {
        let (name, data) = match self.kind {
            "counter" => {
                let data_points = self.points(start, now, |sample| sample.name.ends_with("_total"));
                let sum = Sum { data_points, aggregation_temporality: cumulative(), is_monotonic: true };
                (self.name.to_owned(), Data::Sum(sum))
            }
            "histogram" => {
                let histogram = Histogram {
                    data_points: self.histograms(start, now),
                    aggregation_temporality: cumulative(),
                };
                (self.name.to_owned(), Data::Histogram(histogram))
            }
            "info" => (
                format!("{}_info", self.name),
                Data::Gauge(Gauge { data_points: self.points(0, now, |_| true) }),
            ),
            _ => (self.name.to_owned(), Data::Gauge(Gauge { data_points: self.points(0, now, |_| true) })),
        };
        (!self.samples.is_empty()).then(|| Metric {
            name,
            description: self.help.to_owned(),
            unit: self.unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        })
    }

    fn points(&self, start: u64, now: u64, fits: impl Fn(&Sample<'_>) -> bool) -> Vec<NumberDataPoint> {
        let point = |sample: &Sample<'_>| NumberDataPoint {
            attributes: attributes(&sample.labels),
            start_time_unix_nano: start,
            time_unix_nano: now,
            value: Some(number_data_point::Value::AsDouble(sample.value)),
            ..NumberDataPoint::default()
        };
        self.samples.iter().filter(|sample| fits(sample)).map(point).collect()
    }

    fn histograms(&self, start: u64, now: u64) -> Vec<HistogramDataPoint> {
        let mut series: BTreeMap<Vec<(&str, String)>, HistogramDataPoint> = BTreeMap::new();
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            let bound = labels.iter().position(|(name, _)| *name == "le").map(|at| labels.remove(at).1);
            let point = series.entry(labels).or_insert_with_key(|labels| HistogramDataPoint {
                attributes: attributes(labels),
                start_time_unix_nano: start,
                time_unix_nano: now,
                ..HistogramDataPoint::default()
            });
            match (sample.name.rsplit('_').next(), bound) {
                (Some("sum"), _) => point.sum = Some(sample.value),
                (Some("count"), _) => point.count = sample.value as u64,
                (_, Some(bound)) => {
                    // Those of the page hold what lies below; here each holds its own.
                    let below: u64 = point.bucket_counts.iter().sum();
                    point.bucket_counts.push((sample.value as u64).saturating_sub(below));
                    if let Ok(bound) = bound.parse::<f64>()
                        && bound.is_finite()
                    {
                        point.explicit_bounds.push(bound);
                    }
                }
                _ => {}
            }
        }
        series.into_values().collect()
    }
}

fn cumulative() -> i32 {
    AggregationTemporality::Cumulative.into()
}

fn attributes(labels: &[(&str, String)]) -> Vec<KeyValue> {
    let text = |value: &String| AnyValue { value: Some(any_value::Value::StringValue(value.clone())) };
    let pair = |(name, value): &(&str, String)| KeyValue {
        key: (*name).to_owned(),
        value: Some(text(value)),
        ..KeyValue::default()
    };
    labels.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{
        encoding::text::encode,
        metrics::{counter::Counter, family, gauge::Gauge as Measured, histogram::Histogram as Distribution},
        registry::{Registry, Unit},
    };
    use proptest::prelude::*;

    #[test]
    fn a_page_of_the_registry_is_read_whole() {
        let mut registry = Registry::with_prefix("imn");
        let jobs = family::Family::<Vec<(String, String)>, Counter>::default();
        let label = |value: &str| vec![("type".to_owned(), value.to_owned())];
        jobs.get_or_create(&label("a\"b\\c\nd,e}")).inc_by(3);
        jobs.get_or_create(&label("icmp")).inc();
        registry.register("jobs", "Jobs done", jobs);
        let depth: Measured = Measured::default();
        depth.set(-2);
        registry.register_with_unit("depth", "Depth", Unit::Bytes, depth);
        let wait = Distribution::new([0.5, 1.0]);
        for seconds in [0.1, 0.2, 0.7, 9.0] {
            wait.observe(seconds);
        }
        registry.register("wait", "Wait", wait);
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        let metrics = read(&page, 1, 2);
        let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["imn_jobs", "imn_depth_bytes", "imn_wait"], "{page}");
        let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("{:?}", metrics[0]) };
        assert!(sum.is_monotonic);
        let mut values: Vec<(String, Option<number_data_point::Value>)> = sum
            .data_points
            .iter()
            .map(|point| (format!("{:?}", point.attributes[0].value), point.value))
            .collect();
        values.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(values[0].0.contains(r#"a\"b\\c\nd,e}"#), "{values:?}");
        assert_eq!(values[0].1, Some(number_data_point::Value::AsDouble(3.0)));
        let Some(Data::Gauge(gauge)) = &metrics[1].data else { panic!("{:?}", metrics[1]) };
        assert_eq!(gauge.data_points[0].value, Some(number_data_point::Value::AsDouble(-2.0)));
        assert_eq!(metrics[1].unit, "bytes");
        let Some(Data::Histogram(histogram)) = &metrics[2].data else { panic!("{:?}", metrics[2]) };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.bucket_counts.as_slice()), (4, &[2, 1, 1][..]));
        assert_eq!((point.explicit_bounds.as_slice(), point.sum), (&[0.5, 1.0][..], Some(10.0)));
    }

    proptest! {
        #[test]
        fn any_page_gives_metrics(page in "((# (TYPE|HELP) [a-z_]{1,6} [a-z]{0,9}|[a-z_]{1,6}(\\{[a-z]{0,3}=?\"?.{0,5}\"?\\})? ?[0-9.e+-]{0,5})\n){0,8}") {
            let _ = read(&page, 1, 2);
        }
    }
}
