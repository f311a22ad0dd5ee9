//! Loads the configuration with what only the HTTP client knows: which addresses endpoints may have.

use std::path::Path;

use ipnet::IpNet;
use url::Url;

use crate::{
    config::{
        self,
        mistake::Mistakes,
        settings::{Security, Settings},
    },
    http::guard::Guard,
};

/// Loads a configuration to start with.
pub fn file(path: &Path) -> Result<Settings, Mistakes> {
    config::load_judged(path, &literal)
}

/// The same for one that is in memory.
pub fn text(path: &Path, text: &str) -> Result<Settings, Mistakes> {
    config::load_text(path, text, &literal)
}

/// Loads a configuration to go on with: addresses are judged by what runs as well, since the running client would
/// refuse what only a restart allows.
pub fn again(path: &Path, running: &Security) -> Result<Settings, Mistakes> {
    config::load_judged(path, &|allow, url| literal(allow, url).and_then(|()| literal(&running.allow, url)))
}

/// Judges a URL whose host is an address; a name is judged each time it is resolved.
fn literal(allow: &[IpNet], url: &Url) -> Result<(), &'static str> {
    Guard::new(allow).literal(url).map_err(|blocked| blocked.class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allow: &str, running: &[&str], host: &str, expected: Option<&str>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arauto.toml");
        let endpoint = format!("[[endpoints]]\nid = \"e\"\nurl = \"http://{host}/\"\nsignature = \"none\"");
        let security = format!("[security]\nallow = {allow}");
        std::fs::write(
            &path,
            format!("kafka = {{ brokers = \"b\", topics = [\"t\"] }}\n{security}\n{endpoint}"),
        )
        .unwrap();
        let running = running.iter().map(|net| net.parse().unwrap()).collect();
        let loaded = again(&path, &Security { allow: running, https_only: false });
        let told = loaded.err().map(|mistakes| mistakes.to_string());
        let expected = expected.map(|expected| format!("{}:{expected}", path.display()));
        assert_eq!(told, expected, "{host}");
    }

    const NOT_PUBLIC: &str = "6:7: url leads to an address that is not public (loopback); if it is meant, add its \
                              network to allow in [security], which takes effect at a restart";

    #[test]
    fn addresses_are_judged_by_the_file_and_by_what_runs() {
        check("[]", &[], "8.8.8.8", None);
        check("[]", &[], "example.com", None);
        check("[]", &["127.0.0.0/8"], "2130706433", Some(NOT_PUBLIC));
        check("[\"127.0.0.0/8\"]", &[], "127.0.0.1", Some(NOT_PUBLIC));
        check("[\"127.0.0.0/8\"]", &["127.0.0.1/32"], "127.0.0.1", None);
    }

    #[test]
    fn networks_that_cannot_be_read_are_the_only_mistake() {
        let message = "3:10: \"127\" is no network; write one such as \"10.20.0.0/16\" or \"fd00:20::/32\"";
        check("[\"127\"]", &[], "127.0.0.1", Some(message));
    }
}
