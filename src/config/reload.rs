//! What a reload may do: whether new settings take effect now, and what of them only a restart can bring.
//!
//! Pure. Only the endpoints and the log's level are reloaded; the registry takes the former from the new settings.

use std::collections::HashSet;

use super::settings::Settings;

/// What asked for the reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// SIGHUP: somebody means it.
    Signal,
    /// Files changed, perhaps half of them.
    FileChange,
}

/// What becomes of the new settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They take effect.
    Apply,
    /// They would remove so many endpoints that somebody has to say so, with SIGHUP.
    NeedsSignal {
        /// How many endpoints would be gone.
        removed: usize,
        /// How many there are.
        of: usize,
    },
}

/// Judges new settings. A file change may remove one endpoint or a tenth of them: half-written folders must not
/// commit events away.
pub fn judge(old: &Settings, new: &Settings, trigger: Trigger) -> Verdict {
    let kept: HashSet<&str> = new.endpoints.iter().map(|endpoint| &*endpoint.id).collect();
    let of = old.endpoints.len();
    let removed = old.endpoints.iter().filter(|endpoint| !kept.contains(&*endpoint.id)).count();
    match trigger {
        Trigger::FileChange if removed > 1 && removed * 10 > of => Verdict::NeedsSignal { removed, of },
        Trigger::FileChange | Trigger::Signal => Verdict::Apply,
    }
}

/// Names of the sections that differ and that only a restart brings into effect.
pub fn needs_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let sections = [
        ("on_removed", old.on_removed != new.on_removed),
        ("unknown_grace", old.unknown_grace != new.unknown_grace),
        ("kafka", old.kafka != new.kafka),
        ("topics", old.topics != new.topics),
        ("events", old.events != new.events),
        ("limits", old.limits != new.limits),
        ("attempts", old.attempts != new.attempts),
        ("security", old.security != new.security),
        ("admin", old.admin != new.admin),
        ("log", old.log.format != new.log.format),
        ("otel", old.otel != new.otel),
        ("notices", old.notices != new.notices),
    ];
    sections.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::config;

    fn settings(head: &str, endpoints: std::ops::Range<usize>) -> Settings {
        let mut text = format!("{head}\n[kafka]\nbrokers = \"localhost\"\ntopics = [\"orders\"]\n");
        for id in endpoints {
            writeln!(
                text,
                "[[endpoints]]\nid = \"e{id}\"\nurl = \"https://example.com\"\nsignature = \"none\""
            )
            .unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arauto.toml");
        std::fs::write(&path, text).unwrap();
        config::load(&path).unwrap()
    }

    #[test]
    fn many_removals_wait_for_a_signal() {
        let needs = |removed, of| Verdict::NeedsSignal { removed, of };
        for (old, new, expected) in [
            (0..0, 0..5, Verdict::Apply),
            (0..1, 0..0, Verdict::Apply),
            (0..3, 0..2, Verdict::Apply),
            (0..3, 0..1, needs(2, 3)),
            (0..3, 0..0, needs(3, 3)),
            (0..20, 0..18, Verdict::Apply),
            (0..20, 0..17, needs(3, 20)),
            (0..3, 3..6, needs(3, 3)),
        ] {
            let (old, new) = (settings("", old), settings("", new));
            assert_eq!(judge(&old, &new, Trigger::FileChange), expected);
            assert_eq!(judge(&old, &new, Trigger::Signal), Verdict::Apply);
        }
    }

    #[test]
    fn sections_that_need_a_restart_are_named() {
        let old = settings("", 0..2);
        assert_eq!(needs_restart(&old, &settings("[log]\nlevel = \"debug\"", 1..9)), [""; 0]);
        let head = "on_removed = \"drop\"\n[topics]\npartitions = 7\n[log]\nformat = \"json\"
            [otel]\nendpoint = \"http://localhost:4318\"";
        assert_eq!(needs_restart(&old, &settings(head, 0..2)), ["on_removed", "topics", "log", "otel"]);
    }
}
