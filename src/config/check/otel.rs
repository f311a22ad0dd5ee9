//! `[otel]`: where spans go.

use std::collections::HashSet;

use url::Url;

use super::{header, non_empty, seconds};
use crate::config::{file, mistake::Report, secret::Secret, settings::Otel, written::Text, written::Written};

/// Where collectors take spans (<https://opentelemetry.io/docs/specs/otlp/#otlphttp-request>).
const PATH: &str = "/v1/traces";

/// What is sent there says of itself how it is to be read.
const REFUSED: [&str; 2] = ["content-encoding", "content-type"];

/// Checks the section; `None`: there are no spans.
pub(super) fn otel(written: &file::Otel, report: &mut Report) -> Option<Otel> {
    let Some(key) = written.endpoint.set() else {
        let others = written.sample_ratio.is_absent()
            && written.headers.is_absent()
            && written.service_name.is_absent()
            && written.timeout.is_absent();
        if written.endpoint.is_absent() && !others {
            let help = "write one such as \"http://localhost:4318\", or \"off\"";
            report.missing(written.place, "no endpoint in [otel]", help);
        }
        return None;
    };
    let headers = headers(written, report);
    let service_name = non_empty(&written.service_name, "arauto", "service_name in [otel]", report);
    if key.value.value == "off" {
        return None;
    }
    Some(Otel {
        endpoint: endpoint(key, report)?,
        sample_ratio: written.sample_ratio.or(1.0),
        headers,
        service_name,
        timeout: written.timeout.or(seconds(10)),
    })
}

fn endpoint(key: &Written<Text>, report: &mut Report) -> Option<Url> {
    // The text is not shown: it may hold a user name and a password.
    let wrong = match Url::parse(&key.value.value) {
        Err(error) => format!("is no URL: {error}"),
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            "begins with neither http:// nor https://".to_owned()
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            let help = "send them in headers = { authorization = \"env:NAME\" }";
            report.add(key.place, "endpoint in [otel] holds a user name or password", help);
            return None;
        }
        Ok(mut url) => {
            if url.path() == "/" {
                url.set_path(PATH);
            }
            return Some(url);
        }
    };
    let help = "write one such as \"http://localhost:4318\", or \"off\"";
    report.add(key.place, format!("endpoint in [otel] {wrong}"), help);
    None
}

fn headers(written: &file::Otel, report: &mut Report) -> Vec<(String, Secret)> {
    let mut seen = HashSet::new();
    let mut headers = Vec::new();
    for (name, value) in written.headers.set().into_iter().flat_map(|w| &w.value) {
        let shown = format!("{:?}", name.value);
        let Some(lower) = header::name_of(name, &name.value, &shown, &mut seen, report) else { continue };
        if REFUSED.contains(&&*lower) {
            let help = "remove it: what is sent says itself how it is to be read";
            report.add(name.place, format!("the header {shown} may not be set"), help);
        } else if header::value_fits(name, value, report) {
            headers.push((lower, value.clone()));
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use crate::config;

    #[test]
    fn the_path_is_added_where_there_is_none() {
        for (written, expected) in [
            ("http://localhost:4318", Some("http://localhost:4318/v1/traces")),
            ("https://collector.example/", Some("https://collector.example/v1/traces")),
            ("https://collector.example/otlp/v1/traces", Some("https://collector.example/otlp/v1/traces")),
            ("off", None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("arauto.toml");
            let head = "[kafka]\nbrokers = \"b\"\ntopics = [\"orders\"]";
            std::fs::write(&path, format!("{head}\n[otel]\nendpoint = \"{written}\"\n")).unwrap();
            let otel = config::load(&path).unwrap().otel;
            assert_eq!(otel.map(|otel| otel.endpoint.to_string()).as_deref(), expected, "{written}");
        }
    }
}
