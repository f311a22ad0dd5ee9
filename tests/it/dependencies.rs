//! What Arauto is built from: every crate has a licence we accept and comes from the public registry.
//!
//! Looks only at `Cargo.lock` and at the crates that were fetched to build this test. Advisories are not
//! looked at here, because their database cannot be had from the registry: `tests/run` does that where it
//! can.

use std::process::Command;

/// Licences whose text asks for no more than being kept with the program, or, in the case of MPL-2.0, that
/// changes to that crate's own files stay open.
const ACCEPTED: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Big crates that would be linked, and hold connections or runtimes, twice if two versions of them crept in.
const ONCE: [&str; 11] = [
    "axum",
    "http",
    "hyper",
    "prometheus",
    "rdkafka",
    "rdkafka-sys",
    "reqwest",
    "ring",
    "rustls",
    "tokio",
    "tracing",
];

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn every_licence_is_accepted() {
    let packages = built_packages();
    assert!(packages.len() > 100, "only {} packages: is this still the right question?", packages.len());
    let refused: Vec<_> = packages
        .iter()
        .filter(|package| !accepted(package["license"].as_str().unwrap_or_default()))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "licences that are not accepted:\n{}", refused.join("\n"));
}

#[test]
fn every_crate_comes_from_the_registry() {
    for package in locked_packages() {
        let name = package["name"].as_str().expect("a name");
        let expected = if name == env!("CARGO_PKG_NAME") { None } else { Some(REGISTRY) };
        assert_eq!(package.get("source").and_then(toml::Value::as_str), expected, "the source of {name}");
    }
}

#[test]
fn big_crates_are_there_once() {
    let packages = locked_packages();
    for name in ONCE {
        let versions: Vec<_> = packages
            .iter()
            .filter(|package| package["name"].as_str() == Some(name))
            .map(|package| package["version"].as_str().expect("a version"))
            .collect();
        assert_eq!(versions.len(), 1, "versions of {name}: {versions:?}");
    }
}

#[test]
fn licence_expressions_are_understood() {
    for (expression, expected) in [
        ("MIT", true),
        ("MIT OR GPL-3.0-only", true),
        ("MIT/Apache-2.0", true),
        ("MIT AND GPL-3.0-only", false),
        ("(MIT OR GPL-2.0-only) AND ISC", true),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", true),
        ("MIT AND (GPL-2.0-only OR LGPL-3.0-only)", false),
        ("GPL-2.0-only OR MIT AND ISC", true),
        ("", false),
    ] {
        assert_eq!(accepted(expression), expected, "{expression:?}");
    }
}

/// Every package of the lock file, for every platform.
fn locked_packages() -> Vec<toml::Table> {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let lock: toml::Table = lock.parse().expect("cargo writes TOML");
    let packages = lock["package"].as_array().expect("packages").iter();
    packages.map(|package| package.as_table().expect("a table").clone()).collect()
}

/// The packages built on this platform: only those have been fetched, and cargo reads a licence from the
/// crate itself.
fn built_packages() -> Vec<serde_json::Value> {
    let rustc = output(Command::new("rustc").arg("-vV"));
    let platform = rustc.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc knows its host");
    let metadata = output(
        Command::new(env!("CARGO"))
            .args([
                "metadata",
                "--format-version",
                "1",
                "--locked",
                "--offline",
                "--filter-platform",
                platform,
            ])
            .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")]),
    );
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("cargo writes JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn output(command: &mut Command) -> String {
    let output = command.output().expect("the command can be started");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Can the terms of this SPDX expression be met with accepted licences alone? `AND` binds tighter than `OR`;
/// old crates write `/` for `OR`. <https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/>
fn accepted(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<_> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    let accepted = any(&mut rest);
    assert!(rest.is_empty(), "not understood: {expression}");
    accepted
}

fn any(tokens: &mut &[&str]) -> bool {
    let mut accepted = all(tokens);
    while let ["OR", rest @ ..] = *tokens {
        *tokens = rest;
        // Not `||`, which would leave the tokens of the other side unread.
        accepted |= all(tokens);
    }
    accepted
}

fn all(tokens: &mut &[&str]) -> bool {
    let mut accepted = one(tokens);
    while let ["AND", rest @ ..] = *tokens {
        *tokens = rest;
        accepted &= one(tokens);
    }
    accepted
}

fn one(tokens: &mut &[&str]) -> bool {
    match *tokens {
        ["(", rest @ ..] => {
            *tokens = rest;
            let accepted = any(tokens);
            *tokens = tokens.strip_prefix(&[")"]).expect("a closing bracket");
            accepted
        }
        [licence, "WITH", exception, rest @ ..] => {
            *tokens = rest;
            ACCEPTED.contains(&format!("{licence} WITH {exception}").as_str())
        }
        [licence, rest @ ..] => {
            *tokens = rest;
            ACCEPTED.contains(licence)
        }
        [] => false,
    }
}
