//! References: `env:NAME` and `file:path` in place of a string.
//!
//! Errors name the reference, never what it holds.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// How environment variables are read; tests bring their own.
pub(crate) type Env<'e> = &'e dyn Fn(&str) -> Result<String, env::VarError>;

/// Why a reference has no value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("names no environment variable")]
    NoName,
    #[error("is an environment variable that is not set")]
    Unset,
    #[error("is an environment variable that is not UTF-8")]
    VariableNotText,
    #[error("names no file")]
    NoPath,
    #[error("cannot be read ({0})")]
    Unreadable(io::ErrorKind),
    #[error("is a file that is not UTF-8")]
    FileNotText,
}

/// The value behind a reference; `None`: the text is none.
pub(crate) fn resolve(text: &str, folder: &Path, env: Env<'_>) -> Option<Result<String, Error>> {
    if let Some(name) = text.strip_prefix("env:") {
        return Some(variable(name, env));
    }
    file_path(text, folder).map(|path| content(path.as_deref()))
}

/// The file a text refers to: `None` if it is no such reference, `Some(None)` if it names no file.
pub(super) fn file_path(text: &str, folder: &Path) -> Option<Option<PathBuf>> {
    let path = text.strip_prefix("file:")?;
    Some((!path.is_empty()).then(|| folder.join(path)))
}

fn variable(name: &str, env: Env<'_>) -> Result<String, Error> {
    // A name with `=` or NUL can never be set, and some platforms panic when asked for it.
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(Error::NoName);
    }
    env(name).map_err(|error| match error {
        env::VarError::NotPresent => Error::Unset,
        env::VarError::NotUnicode(_) => Error::VariableNotText,
    })
}

fn content(path: Option<&Path>) -> Result<String, Error> {
    let bytes = fs::read(path.ok_or(Error::NoPath)?).map_err(|error| Error::Unreadable(error.kind()))?;
    let mut text = String::from_utf8(bytes).map_err(|_| Error::FileNotText)?;
    // Editors end files with a newline; whoever wants one at the end of a secret writes two.
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_resolve() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in
            [("unix", &b"a\n"[..]), ("two", b"a\n\n"), ("dos", b"a\r\n"), ("bare", b"a"), ("junk", b"\xff")]
        {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        let env = |name: &str| match name {
            "SET" => Ok("v".to_owned()),
            _ => Err(env::VarError::NotPresent),
        };
        for (text, expected) in [
            ("plain", None),
            ("env:SET", Some("v")),
            ("env:UNSET", Some("is an environment variable that is not set")),
            ("env:", Some("names no environment variable")),
            ("file:", Some("names no file")),
            ("file:unix", Some("a")),
            ("file:two", Some("a\n")),
            ("file:dos", Some("a")),
            ("file:bare", Some("a")),
            ("file:junk", Some("is a file that is not UTF-8")),
            ("file:none", Some("cannot be read (entity not found)")),
        ] {
            let found = resolve(text, folder.path(), &env).map(|r| r.unwrap_or_else(|e| e.to_string()));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }
}
