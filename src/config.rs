//! Configuration: what the user wrote → checked settings, or all its mistakes at once.
//!
//! `load` reads the main file, what it includes and what the values refer to; it opens no socket.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;
use toml::de::DeTable;
use url::Url;

mod check;
mod file;
mod include;
pub mod level;
pub mod mistake;
pub(crate) mod read;
pub(crate) mod reference;
pub mod reload;
pub mod secret;
pub mod settings;
pub mod value;
pub mod watch;
mod written;

use file::{File, endpoint::Endpoint};
use mistake::{Mistakes, Place, Report};
use read::{Reader, Table};
use reference::Env;
use settings::Settings;

/// Judges the URL of an endpoint by the networks of `security.allow`; the error is what kind of address it leads to.
/// Handed in, because addresses are the HTTP client's business and nothing here depends on that.
pub type AddressRule<'r> = &'r dyn Fn(&[IpNet], &Url) -> Result<(), &'static str>;

/// Loads and checks a configuration, all but the addresses of endpoints.
pub fn load(path: &Path) -> Result<Settings, Mistakes> {
    load_judged(path, &|_, _| Ok(()))
}

/// Loads and checks a configuration.
pub fn load_judged(path: &Path, rule: AddressRule<'_>) -> Result<Settings, Mistakes> {
    load_with(path, text(path), rule, &|name| env::var(name))
}

/// Checks a configuration whose main file is in memory; `path` is what it is called and includes are relative to.
pub fn load_text(path: &Path, text: &str, rule: AddressRule<'_>) -> Result<Settings, Mistakes> {
    load_with(path, Ok(text.into()), rule, &|name| env::var(name))
}

fn load_with(
    path: &Path,
    text: Result<Arc<str>, io::ErrorKind>,
    rule: AddressRule<'_>,
    env: Env<'_>,
) -> Result<Settings, Mistakes> {
    let mut reader = Reader { report: Report::default(), env, folder: include::folder(path), file: 0 };
    let settings = match text {
        Ok(text) => {
            let mut file = parse(path, &text, &mut reader, File::read);
            file.endpoints.extend(included(path, &file, &mut reader));
            Some(check::settings(&file, rule, &mut reader.report))
        }
        Err(why) => {
            let file = reader.report.file(path.display().to_string(), "".into());
            let help = "name the file with --config or ARAUTO_CONFIG";
            reader.report.add(Place { file, offset: None }, format!("the file cannot be read: {why}"), help);
            None
        }
    };
    reader.report.finish()?;
    Ok(settings.expect("a file that cannot be read has been reported"))
}

/// The endpoints of the included files, in the order of the patterns and of the files' names.
fn included(main: &Path, file: &File, reader: &mut Reader<'_>) -> Vec<Endpoint> {
    let mut read: Vec<PathBuf> = Vec::new();
    let mut endpoints = Vec::new();
    let folder = include::folder(main);
    for pattern in file.include.set().into_iter().flat_map(|list| &list.value.items) {
        let files = match include::files(&pattern.value.value, main) {
            Ok(files) => files,
            Err(error) => {
                let message = format!("{} in include is no pattern: {}", pattern.value, error.msg);
                reader.report.add(pattern.place, message, "write one such as \"endpoints.d/*.toml\"");
                continue;
            }
        };
        if files.is_empty() {
            let message = format!("{} in include matches no file", pattern.value);
            let help = format!("it is relative to {}", shown(&folder));
            reader.report.add(pattern.place, message, help);
        }
        for path in files.into_iter().filter(|path| !read.contains(path)).collect::<Vec<_>>() {
            match text(&path) {
                Ok(text) => endpoints.extend(parse(&path, &text, reader, |t| {
                    t.sections("endpoints", "[[endpoints]]", Endpoint::read)
                })),
                Err(why) => {
                    let message = format!("{}, which is included, cannot be read: {why}", path.display());
                    reader.report.add(pattern.place, message, "make it readable, or move it away");
                }
            }
            read.push(path);
        }
    }
    endpoints
}

fn parse<'e, T>(
    path: &Path,
    text: &Arc<str>,
    reader: &mut Reader<'e>,
    read: impl FnOnce(&mut Table<'_, 'e>) -> T,
) -> T {
    reader.file = reader.report.file(path.display().to_string(), Arc::clone(text));
    reader.folder = include::folder(path);
    let (table, errors) = DeTable::parse_recoverable(text);
    reader.report.syntax(reader.file, &errors);
    Table::root(table.get_ref(), reader, read)
}

fn text(path: &Path) -> Result<Arc<str>, io::ErrorKind> {
    let bytes = fs::read(path).map_err(|error| error.kind())?;
    String::from_utf8(bytes).map(Arc::from).map_err(|_| io::ErrorKind::InvalidData)
}

fn shown(folder: &Path) -> String {
    match folder.to_str() {
        Some("") => "the current directory".to_owned(),
        _ => folder.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arauto.toml");
        fs::write(&path, "[kafka]\nbrokers = \"env:BROKERS\"\ntopics = [\"env:TOPIC\", \"env:NONE\"]\n")
            .unwrap();
        let load = |none: Option<&str>| {
            load_with(&path, text(&path), &|_, _| Ok(()), &|name| match name {
                "BROKERS" => Ok("kafka:9092".to_owned()),
                "TOPIC" => Ok("orders".to_owned()),
                _ => none.map(str::to_owned).ok_or(env::VarError::NotPresent),
            })
        };
        let settings = load(Some("payments")).unwrap();
        assert_eq!(settings.kafka.brokers, "kafka:9092");
        assert!(settings.kafka.topics[1].matches("payments"));

        let mistakes = load(None).unwrap_err();
        assert_eq!(mistakes.as_slice().len(), 1, "{mistakes}");
        assert_eq!((mistakes.as_slice()[0].line, mistakes.as_slice()[0].column), (3, 24));

        // A value that came from a reference is not shown, whatever is wrong with it.
        let mistakes = load(Some("not a topic")).unwrap_err();
        assert!(mistakes.to_string().contains("the value of env:NONE is no topic name"), "{mistakes}");
        assert!(!mistakes.to_string().contains("not a topic"), "{mistakes}");
    }
}
