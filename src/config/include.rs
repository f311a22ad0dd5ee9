//! Which files an `include` pattern means.

use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern, PatternError};

/// Names with a leading dot are left out: editors' locks, and Kubernetes' `..data`, which shows each file again.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// The folder of a file; empty for a bare name.
pub(super) fn folder(file: &Path) -> PathBuf {
    file.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// The files a pattern of the main file matches, sorted, without the main file itself.
pub(super) fn files(pattern: &str, main: &Path) -> Result<Vec<PathBuf>, PatternError> {
    let found = glob::glob_with(&absolute(pattern, main), OPTIONS)?;
    // What cannot be looked into matches nothing; a pattern that matches nothing is a mistake.
    Ok(found.flatten().filter(|path| path.is_file() && path != main).collect())
}

/// The folders in which such files may appear.
pub(super) fn folders(pattern: &str, main: &Path) -> Vec<PathBuf> {
    let parent = folder(Path::new(&absolute(pattern, main)));
    match glob::glob_with(&parent.to_string_lossy(), OPTIONS) {
        Ok(found) => found.flatten().filter(|path| path.is_dir()).collect(),
        Err(_) => Vec::new(),
    }
}

/// The pattern with the main file's folder before it, whose own `*` and `[` mean themselves.
fn absolute(pattern: &str, main: &Path) -> String {
    let folder = folder(main);
    if Path::new(pattern).is_absolute() || folder.as_os_str().is_empty() {
        return pattern.to_owned();
    }
    let folder = Pattern::escape(&folder.to_string_lossy());
    Path::new(&folder).join(pattern).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn patterns_match_files() {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("a[b]");
        for folder in ["d", "d/..data", "e"] {
            fs::create_dir_all(base.join(folder)).unwrap();
        }
        for name in
            ["main.toml", "other.toml", "d/2.toml", "d/1.toml", "d/.#1.toml", "d/..data/1.toml", "e/3.toml"]
        {
            fs::write(base.join(name), "").unwrap();
        }
        let main = base.join("main.toml");
        for (pattern, expected) in [
            ("*.toml", &["other.toml"][..]),
            ("d/*.toml", &["d/1.toml", "d/2.toml"]),
            ("*/*.toml", &["d/1.toml", "d/2.toml", "e/3.toml"]),
            ("d/*/*.toml", &[]),
            ("e/3.toml", &["e/3.toml"]),
            ("d", &[]),
            ("none/*.toml", &[]),
        ] {
            let expected: Vec<_> = expected.iter().map(|name| base.join(name)).collect();
            assert_eq!(files(pattern, &main).unwrap(), expected, "{pattern}");
        }
        assert!(files("d/***", &main).is_err());
        assert_eq!(folders("*/*.toml", &main), [base.join("d"), base.join("e")]);
        assert_eq!(folders("*.toml", &main), [base]);
    }
}
