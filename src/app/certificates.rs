//! Which endpoints' receivers have shown certificates, and until when those are valid.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{task::block_in_place, time::Instant};

use crate::{
    config::settings::Endpoint,
    http::expiry::Expiry,
    metrics::Metrics,
    notices::{Facts, Kind, Notices},
    pipeline::delivery::{millis, now as time},
    registry::Registry,
};

/// It is looked this often whether anything has changed, or come near; a new certificate is shown this late.
const LOOK: Duration = Duration::from_secs(2);

/// A look that takes long is taken so much more seldom: it holds up who asks for an endpoint's series.
const SELDOM: u32 = 100;

const DAY: i64 = 86_400_000;

/// Keeps the metric in step with endpoints and connections, and tells what is about to expire.
pub(super) struct Certificates {
    pub(super) expiry: Expiry,
    pub(super) registry: Arc<Registry>,
    pub(super) metrics: Metrics,
    pub(super) notices: Notices,
    /// How long before its end one is told of.
    pub(super) before: Duration,
}

/// How near a certificate's end is; each is told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Near,
    HalfWay,
    LastDay,
    Expired,
}

impl Certificates {
    /// Runs for ever.
    pub(super) async fn run(self) {
        let (mut seen, mut ends, mut wait) = (None, Vec::new(), LOOK);
        let mut told: HashMap<Arc<str>, Stage> = HashMap::new();
        loop {
            let now = (self.expiry.changes(), self.registry.snapshot().generation());
            if seen.replace(now) != Some(now) {
                let begun = Instant::now();
                // With a hundred thousand endpoints that takes a while.
                ends = block_in_place(|| self.look());
                wait = LOOK.max(begun.elapsed() * SELDOM);
                let current: HashMap<&str, i64> = ends.iter().map(|(of, end)| (&*of.id, *end)).collect();
                // Some receivers show two in turn: what is near stays told.
                let near = |end: &i64| stage(*end - time(), millis(self.before)).is_some();
                told.retain(|id, _| current.get(&**id).is_some_and(near));
            }
            self.tell(&ends, &mut told);
            tokio::time::sleep(wait).await;
        }
    }

    /// The endpoints whose receivers have shown one, each with its end in unix milliseconds.
    fn look(&self) -> Vec<(Arc<Endpoint>, i64)> {
        let snapshot = self.registry.snapshot();
        let https = || snapshot.endpoints().iter().filter(|endpoint| endpoint.url.scheme() == "https");
        self.expiry.keep(https().map(|endpoint| &endpoint.url));
        let ends =
            https().filter_map(|endpoint| Some((Arc::clone(endpoint), self.expiry.of(&endpoint.url)?)));
        let ends: Vec<_> = ends.collect();
        self.metrics.certificates(ends.iter().map(|(endpoint, end)| (&*endpoint.id, *end)));
        ends
    }

    fn tell(&self, ends: &[(Arc<Endpoint>, i64)], told: &mut HashMap<Arc<str>, Stage>) {
        let now = time();
        for (endpoint, end) in ends {
            let Some(stage) = stage(end - now, millis(self.before)) else { continue };
            if told.insert(Arc::clone(&endpoint.id), stage).is_none_or(|before| before < stage) {
                let reason = Some(if stage == Stage::Expired { "expired" } else { "expires" });
                let facts = || Facts { until: Some(*end), reason, ..Facts::default() };
                self.notices.tell(Kind::CertificateExpiring, &endpoint.id, facts);
            }
        }
    }
}

/// Both in milliseconds; `None`: it is not near.
fn stage(left: i64, before: i64) -> Option<Stage> {
    match left {
        ..=0 => Some(Stage::Expired),
        left if left > before => None,
        1..=DAY => Some(Stage::LastDay),
        left if left <= before / 2 => Some(Stage::HalfWay),
        _ => Some(Stage::Near),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_the_end_the_further_the_stage() {
        for (left, before, expected) in [
            (15 * DAY, 14 * DAY, None),
            (14 * DAY, 14 * DAY, Some(Stage::Near)),
            (7 * DAY + 1, 14 * DAY, Some(Stage::Near)),
            (7 * DAY, 14 * DAY, Some(Stage::HalfWay)),
            (DAY + 1, 14 * DAY, Some(Stage::HalfWay)),
            (DAY, 14 * DAY, Some(Stage::LastDay)),
            (1, 14 * DAY, Some(Stage::LastDay)),
            (0, 14 * DAY, Some(Stage::Expired)),
            (-DAY, 0, Some(Stage::Expired)),
            (1, 0, None),
            (DAY / 24, DAY / 48, None),
        ] {
            assert_eq!(stage(left, before), expected, "{left} {before}");
        }
        assert!(
            Stage::Near < Stage::HalfWay
                && Stage::HalfWay < Stage::LastDay
                && Stage::LastDay < Stage::Expired
        );
    }
}
