//! The two text forms of metrics: OpenMetrics, which we make, and Prometheus' older one for whoever asks for no other.

use std::fmt::Write as _;

use super::Metrics;

const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of OpenMetrics in the form that the header `Accept` asks for, with its media type.
pub fn negotiated(accept: Option<&str>, page: String) -> (&'static str, String) {
    if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        (Metrics::CONTENT_TYPE, page)
    } else {
        (CLASSIC, classic(&page))
    }
}

/// Prometheus' text format 0.0.4: a counter has the name of its samples there, and there are no units and no end.
fn classic(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    let mut help = None;
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), text) => help = Some((name, text.unwrap_or_default())),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                    // A string takes everything.
                    let _ = writeln!(out, "# HELP {name}{suffix} {text}");
                }
                let _ = writeln!(out, "# TYPE {name}{suffix} {kind}");
            }
            (Some("#"), ..) => {}
            _ => {
                out += line;
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_form_that_is_asked_for() {
        let page = "# HELP imn_jobs Jobs done.\n# TYPE imn_jobs counter\nimn_jobs_total 3\n\
                    # HELP imn_wait_seconds Wait.\n# TYPE imn_wait_seconds histogram\n# UNIT imn_wait_seconds seconds\n\
                    imn_wait_seconds_sum 1.5\nimn_wait_seconds_count 1\nimn_wait_seconds_bucket{le=\"+Inf\"} 1\n\
                    # TYPE imn_build info\nimn_build_info{version=\"1\"} 1\n# EOF\n";
        let classic = "# HELP imn_jobs_total Jobs done.\n# TYPE imn_jobs_total counter\nimn_jobs_total 3\n\
                       # HELP imn_wait_seconds Wait.\n# TYPE imn_wait_seconds histogram\n\
                       imn_wait_seconds_sum 1.5\nimn_wait_seconds_count 1\nimn_wait_seconds_bucket{le=\"+Inf\"} 1\n\
                       # TYPE imn_build_info gauge\nimn_build_info{version=\"1\"} 1\n";
        assert_eq!(negotiated(Some("*/*"), page.to_owned()), (CLASSIC, classic.to_owned()));
        assert_eq!(negotiated(None, page.to_owned()).0, CLASSIC);
        // What Prometheus sends.
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(negotiated(Some(accept), page.to_owned()), (Metrics::CONTENT_TYPE, page.to_owned()));
    }
}
