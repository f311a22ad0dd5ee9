//! Notices when the configuration's files have changed and come to rest.
//!
//! The file system's events only wake us; what counts is whether the files look different from when they were
//! last told of. So renames, Kubernetes' swapped links and lost events are all the same, and noise in the same
//! folder costs a look. It never reads what a file means; loading is for [`super::load`].

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use toml::de::{DeTable, DeValue};
use tracing::warn;

use super::{include, reference};

/// How long the files must have been quiet.
const QUIET: Duration = Duration::from_secs(2);
/// How often to look when nothing wakes us.
const POLL: Duration = Duration::from_secs(2);
/// How often to look although events come: network file systems do not tell of what others write.
const RECHECK: Duration = Duration::from_secs(30);
/// Between two looks, however many events there are.
const BREATH: Duration = Duration::from_millis(200);

/// Watches the files of one configuration: the main file, the included ones, those that values refer to.
pub struct Watch {
    main: PathBuf,
    files: Files,
    /// How the files looked when a change was last told.
    told: Look,
    /// Held for its events; `None`: we poll.
    watcher: Option<(RecommendedWatcher, mpsc::Receiver<()>)>,
    quiet: Duration,
}

/// How the files look: which there are, and of each what changes with its content.
type Look = BTreeMap<PathBuf, Option<(Option<SystemTime>, u64, PathBuf)>>;

/// What to look at.
#[derive(Debug, Clone, Default)]
struct Files {
    main: PathBuf,
    /// Files named by `file:` references.
    named: BTreeSet<PathBuf>,
    /// Patterns of `include`.
    patterns: Vec<String>,
}

impl Watch {
    /// Begins to watch. Make it before the files are loaded, so that no change falls in between.
    pub fn new(main: &Path) -> Self {
        let files = Files::of(main);
        let watcher = watcher(&files);
        Self { main: main.to_path_buf(), told: files.look(), files, watcher, quiet: QUIET }
    }

    /// Returns once files have changed and then been quiet for two seconds. May be dropped at any moment: a
    /// change that was seen but not told is seen again.
    pub async fn quiet_change(&mut self) {
        let mut seen = self.told.clone();
        let mut since = Instant::now();
        loop {
            let files = self.files.clone();
            let look = spawn_blocking(move || files.look()).await.unwrap_or_else(|_| seen.clone());
            if look != seen {
                seen = look;
                since = Instant::now();
            }
            if seen == self.told {
                self.wake(if self.watcher.is_some() { RECHECK } else { POLL }).await;
            } else if since.elapsed() < self.quiet {
                self.wake(self.quiet - since.elapsed()).await;
            } else {
                return self.tell().await;
            }
        }
    }

    /// Takes the files as they are now for told. What to watch may have changed with them.
    pub async fn tell(&mut self) {
        let main = self.main.clone();
        let fresh = spawn_blocking(move || {
            let files = Files::of(&main);
            (watcher(&files), files.look(), files)
        });
        if let Ok((watcher, told, files)) = fresh.await {
            (self.watcher, self.told, self.files) = (watcher, told, files);
        }
    }

    /// Waits for an event, or for so long.
    async fn wake(&mut self, most: Duration) {
        match &mut self.watcher {
            Some((_, events)) => {
                if let Ok(event) = timeout(most, events.recv()).await {
                    if event.is_none() {
                        self.watcher = None;
                    }
                    sleep(BREATH.min(most)).await;
                }
            }
            None => sleep(most.min(POLL)).await,
        }
    }
}

impl Files {
    /// Reads the main file and what it includes, as far as they can be read.
    fn of(main: &Path) -> Self {
        let mut files = Self { main: main.to_path_buf(), ..Self::default() };
        files.scan(main);
        for path in files.included() {
            files.scan(&path);
        }
        files
    }

    fn scan(&mut self, path: &Path) {
        let Ok(text) = fs::read_to_string(path) else {
            return;
        };
        let folder = include::folder(path);
        let (table, _) = DeTable::parse_recoverable(&text);
        if path == self.main
            && let Some(DeValue::Array(patterns)) =
                table.get_ref().get("include").map(|value| value.get_ref())
        {
            let texts = patterns.iter().filter_map(|pattern| pattern.get_ref().as_str());
            self.patterns.extend(texts.filter_map(|text| {
                match reference::resolve(text, &folder, &|name| env::var(name)) {
                    Some(value) => value.ok(),
                    None => Some(text.to_owned()),
                }
            }));
        }
        for (_, value) in table.get_ref() {
            self.references(value.get_ref(), &folder);
        }
    }

    fn references(&mut self, value: &DeValue<'_>, folder: &Path) {
        match value {
            DeValue::String(text) => self.named.extend(reference::file_path(text, folder).flatten()),
            DeValue::Array(values) => {
                values.iter().for_each(|value| self.references(value.get_ref(), folder))
            }
            DeValue::Table(table) => {
                table.iter().for_each(|(_, value)| self.references(value.get_ref(), folder))
            }
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
        }
    }

    fn included(&self) -> Vec<PathBuf> {
        self.patterns
            .iter()
            .filter_map(|pattern| include::files(pattern, &self.main).ok())
            .flatten()
            .collect()
    }

    fn look(&self) -> Look {
        let mut look = Look::new();
        let fixed = std::iter::once(&self.main).chain(&self.named).cloned();
        for path in fixed.chain(self.included()) {
            let seen = fs::metadata(&path).ok().map(|metadata| {
                // A swapped link shows in the real path even if size and time are the same.
                let real = path.canonicalize().unwrap_or_default();
                (metadata.modified().ok(), metadata.len(), real)
            });
            look.insert(path, seen);
        }
        look
    }

    /// The folders in which a change would show, as named and as they really are.
    fn folders(&self) -> BTreeSet<PathBuf> {
        let fixed = std::iter::once(&self.main).chain(&self.named).cloned();
        let files: Vec<_> = fixed.chain(self.included()).collect();
        let real = files.iter().filter_map(|path| path.canonicalize().ok());
        let mut folders: BTreeSet<_> =
            real.chain(files.iter().cloned()).map(|path| include::folder(&path)).collect();
        folders.extend(self.patterns.iter().flat_map(|pattern| include::folders(pattern, &self.main)));
        folders
            .into_iter()
            .map(|folder| if folder.as_os_str().is_empty() { ".".into() } else { folder })
            .collect()
    }
}

/// A watcher of all folders that exist, or `None`, which means to poll.
fn watcher(files: &Files) -> Option<(RecommendedWatcher, mpsc::Receiver<()>)> {
    // One place is enough: an event only says that it is time to look.
    let (wake, events) = mpsc::channel(1);
    let handler = move |event: notify::Result<Event>| {
        // Our own reading is an event too.
        if !matches!(event, Ok(Event { kind: EventKind::Access(_), .. })) {
            // Full means that the wake-up is already due.
            wake.try_send(()).ok();
        }
    };
    let watch = || {
        let mut watcher = notify::recommended_watcher(handler)?;
        for folder in files.folders().iter().filter(|folder| folder.is_dir()) {
            watcher.watch(folder, RecursiveMode::NonRecursive)?;
        }
        Ok::<_, notify::Error>(watcher)
    };
    watch()
        .inspect_err(
            |error| warn!(%error, "configuration files cannot be watched, looking every 2 s instead"),
        )
        .ok()
        .map(|watcher| (watcher, events))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough for several looks, short enough for a test.
    const SHORT: Duration = Duration::from_millis(300);
    /// Below `POLL`, so that only an event can have woken us in time.
    const SOON: Duration = Duration::from_millis(1_800);

    fn watch(main: &Path) -> Watch {
        Watch { quiet: SHORT, ..Watch::new(main) }
    }

    async fn told(watch: &mut Watch) -> bool {
        timeout(SOON, watch.quiet_change()).await.is_ok()
    }

    #[tokio::test]
    async fn changes_are_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("secret"), "a").unwrap();
        fs::write(at("main"), "include = [\"d/*.toml\"]\nx = [{ y = \"file:secret\" }]").unwrap();
        let mut watch = watch(&at("main"));

        fs::write(at("noise"), "a").unwrap();
        assert!(!told(&mut watch).await, "a file that is none of ours");
        fs::write(at("d/1.toml"), "a").unwrap();
        assert!(told(&mut watch).await, "a new included file");
        assert!(!told(&mut watch).await, "told once");
        fs::write(at("new"), "include = []").unwrap();
        fs::rename(at("new"), at("main")).unwrap();
        assert!(told(&mut watch).await, "the main file replaced by a rename");
        fs::remove_file(at("d/1.toml")).unwrap();
        fs::write(at("secret"), "bc").unwrap();
        assert!(!told(&mut watch).await, "files that are no longer ours");
        fs::remove_file(at("main")).unwrap();
        assert!(told(&mut watch).await, "the main file gone");
    }

    #[tokio::test]
    async fn a_secret_file_is_watched_too() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("secret"), "a").unwrap();
        fs::write(at("main"), "x = [{ y = \"file:secret\" }]").unwrap();
        let mut watch = watch(&at("main"));
        fs::write(at("secret"), "bc").unwrap();
        assert!(told(&mut watch).await);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn swapped_links_are_a_change() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["..v1", "..v2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("main"), "a = 1").unwrap();
        }
        symlink("..v1", at("..data")).unwrap();
        symlink("..data/main", at("main")).unwrap();
        let mut watch = watch(&at("main"));
        symlink("..v2", at("..tmp")).unwrap();
        fs::rename(at("..tmp"), at("..data")).unwrap();
        assert!(told(&mut watch).await);
    }

    #[tokio::test]
    async fn without_events_it_polls() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("main");
        fs::write(&main, "a = 1").unwrap();
        let mut watch = Watch { watcher: None, ..watch(&main) };
        // A dropped wait loses nothing.
        timeout(SHORT, watch.quiet_change()).await.unwrap_err();
        fs::write(&main, "a = 22").unwrap();
        timeout(2 * POLL + SHORT, watch.quiet_change()).await.unwrap();
    }

    #[tokio::test]
    async fn it_waits_until_writers_rest() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("main");
        fs::write(&main, "a = 1").unwrap();
        let mut watch = watch(&main);
        let last = async {
            for n in 0..4 {
                fs::write(&main, "a".repeat(n)).unwrap();
                sleep(SHORT / 2).await;
            }
            Instant::now()
        };
        let told = async {
            watch.quiet_change().await;
            Instant::now()
        };
        let (told, last) = tokio::join!(told, last);
        assert!(told >= last && told - last < SOON, "{told:?} {last:?}");
    }
}
