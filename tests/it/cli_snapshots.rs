//! What people read: the help of every command, and the main outputs, as snapshots.
//!
//! The commands are found in the completions that the binary makes of itself, so that none is left out. After a change
//! that is meant: `INSTA_UPDATE=always cargo test --test it cli_snapshots::`, and look at the difference.

use std::{collections::BTreeSet, fs, path::Path};

use insta::{Settings, assert_snapshot};

use crate::support::{
    command::{arauto, arauto_reading},
    config::{Config, ConfigFile, Endpoint, SECRET},
    hook::{Hook, Reply},
};

fn settings() -> Settings {
    let mut settings = Settings::clone_current();
    settings.set_snapshot_path("cli_snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (what, instead) in [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "[time]"),
        (r"msg_[a-z2-7]{32}", "[id]"),
        (r"127\.0\.0\.1:\d+", "[address]"),
        (r" *\d+\.\d\d ms", " [ms] ms"),
        (r"whsec_[A-Za-z0-9+/]{43}=", "[whsec]"),
        (r"whsk_[A-Za-z0-9+/]{86}==", "[whsk]"),
        (r"whpk_[A-Za-z0-9+/]{43}=", "[whpk]"),
        (r"webhook-timestamp: \d+", "webhook-timestamp: [time]"),
        (r"v1,[A-Za-z0-9+/]{43}=", "v1,[signature]"),
        (r"/[^ ]*arauto-config-[A-Za-z0-9]+", "[folder]"),
    ] {
        settings.add_filter(what, instead);
    }
    settings
}

/// The words of every command: each has a man page.
async fn commands() -> BTreeSet<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let output = arauto(&["man", text(folder.path())]).await;
    assert_eq!(output.code, 0, "{output:?}");
    let pages = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let words = |page: String| page.trim_end_matches(".1").split('-').skip(1).map(str::to_owned).collect();
    let commands: BTreeSet<Vec<String>> = pages.map(|page| words(page.into_string().unwrap())).collect();
    let told = format!("{} pages written to", commands.len());
    assert!(output.stdout.starts_with(&told), "{output:?}");
    commands
}

#[tokio::test]
async fn the_help_of_every_command() {
    let commands = commands().await;
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands {
        let words: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let output = arauto(&words).await;
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "{words:?}");
        assert!(!output.stdout.contains('\x1b'), "colours without a terminal: {words:?}");
        let name = [&["help".to_owned()], &command[..]].concat().join("_");
        settings().bind(|| assert_snapshot!(name, output.stdout));
    }
}

#[tokio::test]
async fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = arauto(&["completions", shell]).await;
        assert_eq!(output.code, 0, "{output:?}");
        for word in ["endpoints", "--replay-file", "--forward-to"] {
            let word = if shell == "fish" { word.trim_start_matches('-') } else { word };
            assert!(output.stdout.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(arauto(&["completions", "cmd"]).await.code, 2);
    let output = arauto(&["man", "/proc/nowhere"]).await;
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("the man pages cannot be written to /proc/nowhere: "), "{output:?}");
}

/// A configuration that needs nobody, with a good and a busy endpoint.
fn config(good: &Hook, busy: &Hook) -> ConfigFile {
    Config::new("localhost:1", "g", "p", &["orders"])
        .endpoint(Endpoint::new("crm", &good.url()).set("rate", "50/s").set("types", vec!["order.*"]))
        .endpoint(Endpoint::new("audit", &busy.url()).set("tenant", "acme").set("ordering", "key"))
        .endpoint(Endpoint::new("old", "https://old.example.com/hooks/token").set("enabled", false))
        .write()
}

#[tokio::test]
async fn the_main_outputs() {
    let good = Hook::accepting().await;
    let busy = Hook::start(|_| Reply::status(503).header("retry-after", "90").body("later")).await;
    let file = config(&good, &busy);
    let (path, headers) = (file.path(), file.dir().join("headers.txt"));
    let event = r#"{"type":"order.paid"}"#;
    let signed = arauto(&["sign", "--body", event, "--secret", SECRET]).await.stdout;
    fs::write(&headers, signed).unwrap();
    let verify = ["verify", "--secret", SECRET, "--headers", text(&headers)];
    let outputs: [(&str, &[&str], &str); 11] = [
        ("check", &["check"], ""),
        ("check_event", &["check", "--topic", "orders", "--event", "-"], event),
        ("endpoints_list", &["endpoints", "list"], ""),
        ("endpoints_test_crm", &["endpoints", "test", "crm"], ""),
        ("endpoints_test_audit", &["endpoints", "test", "audit"], ""),
        ("endpoints_test_unknown", &["endpoints", "test", "crn"], ""),
        ("secret_new", &["secret", "new"], ""),
        ("secret_new_ed25519", &["secret", "new", "--ed25519"], ""),
        ("sign", &["sign", "--secret", SECRET], event),
        ("verify", &verify, event),
        ("verify_changed", &verify, "{ \"type\": \"order.paid\" }\n"),
    ];
    for (name, words, stdin) in outputs {
        let output = arauto_reading(&[words, &["--config", text(&path)]].concat(), stdin).await;
        let told = format!("{}{}exit code {}\n", output.stdout, output.stderr, output.code);
        settings().bind(|| assert_snapshot!(format!("output_{name}"), told));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary directories have readable names")
}
