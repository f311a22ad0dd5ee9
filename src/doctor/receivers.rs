//! Are the endpoints' hosts there: names, connections, certificates? Nothing is sent to them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{Area, Finding};
use crate::{
    config::settings::{Endpoint, Settings},
    http::{
        Target,
        certificate::Certificate,
        guard::Guard,
        probe::{Prober, Seen, Trouble},
    },
    pipeline::{delivery::now, outcome::AttemptResult},
};

/// Hosts connected to at once.
const AT_ONCE: usize = 32;
/// Longest wait for one of them.
const CONNECT: Duration = Duration::from_secs(5);
/// A certificate is renewed in time if it is valid for longer than this.
const RENEWED: i64 = 14 * DAY;
const DAY: i64 = 86_400_000;

/// Endpoints of one host, by the first of their ids.
struct Host {
    first: Arc<Endpoint>,
    more: usize,
}

pub(super) async fn look(settings: &Settings) -> Vec<Finding> {
    let prober = match Prober::new(Guard::new(&settings.security.allow)) {
        Ok(prober) => prober,
        Err(error) => {
            let mend = "see that this machine has certificates of authorities (SSL_CERT_FILE, SSL_CERT_DIR)";
            return vec![Finding::problem(Area::Endpoints, "all", error.to_string(), mend)];
        }
    };
    let mut hosts = hosts(&settings.endpoints).into_iter();
    let (mut looks, mut findings) = (JoinSet::new(), Vec::new());
    loop {
        while looks.len() < AT_ONCE {
            let Some((name, host)) = hosts.next() else { break };
            let prober = prober.clone();
            looks.spawn(async move { examine(&prober, &name, &host).await });
        }
        match looks.join_next().await {
            Some(Ok(finding)) => findings.push(finding),
            Some(Err(error)) => {
                findings.push(Finding::problem(
                    Area::Endpoints,
                    "all",
                    error.to_string(),
                    "report this as a bug",
                ));
            }
            None => break,
        }
    }
    findings.sort_by(|one, other| one.what.cmp(&other.what));
    if findings.is_empty() {
        let mend = "add [[endpoints]], or enable one";
        findings.push(Finding::warning(Area::Endpoints, "all", "no endpoint is enabled", mend));
    }
    findings
}

/// Each host once, however many endpoints it has.
fn hosts(endpoints: &[Arc<Endpoint>]) -> BTreeMap<String, Host> {
    let mut hosts: BTreeMap<String, Host> = BTreeMap::new();
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.enabled) {
        let name = endpoint.url.origin().ascii_serialization();
        let first = || Host { first: Arc::clone(endpoint), more: 0 };
        hosts.entry(name).and_modify(|host| host.more += 1).or_insert_with(first);
    }
    hosts
}

async fn examine(prober: &Prober, name: &str, Host { first, more }: &Host) -> Finding {
    let what = match more {
        0 => format!("{} ({name})", first.id),
        more => format!("{} and {more} more ({name})", first.id),
    };
    let reached = match Target::new(&first.url, CONNECT.min(first.timeout)) {
        Ok(target) => prober.reach(&target).await,
        Err(error) => Err(error),
    };
    match reached {
        Ok((Ok(()), seen)) => reachable(what, &seen, now()),
        Ok((Err(trouble), _)) => unreachable(what, &trouble),
        Err(error) => {
            Finding::problem(Area::Endpoints, what, error.to_string(), "correct the endpoint's url")
        }
    }
}

fn reachable(what: String, seen: &Seen, now: i64) -> Finding {
    let peer = seen.peer.map(|peer| peer.to_string()).unwrap_or_default();
    let Some(certificate) = &seen.certificate else {
        return Finding::ok(Area::Endpoints, what, format!("{peer} accepts connections"));
    };
    let Certificate { issuer, .. } = certificate;
    let days = certificate.remaining(now) / DAY;
    let told = format!("{peer}, certificate by {issuer} valid for {days} days");
    if certificate.remaining(now) > RENEWED {
        return Finding::ok(Area::Endpoints, what, told);
    }
    let mend = "have its owner renew the certificate; once it has expired every delivery fails (tls)";
    Finding::warning(Area::Endpoints, what, told, mend)
}

fn unreachable(what: String, Trouble { result, detail }: &Trouble) -> Finding {
    let problem = |mend: &str| Finding::problem(Area::Endpoints, what.clone(), detail.clone(), mend);
    match result {
        AttemptResult::Dns => problem("correct the host in the endpoint's url, or this machine's DNS"),
        AttemptResult::Blocked => problem(
            "the address is not public: add its network to security.allow if it is meant, else correct the url",
        ),
        AttemptResult::Tls => problem(
            "have its owner mend the certificate (name, chain, expiry); an authority of your own is trusted by SSL_CERT_FILE",
        ),
        // It may be down for a while; that is what retries are for.
        AttemptResult::Connect | AttemptResult::Timeout | AttemptResult::Reset | AttemptResult::Status(_) => {
            let mend = "see whether it is up and no firewall is between; until then its deliveries wait";
            Finding::warning(Area::Endpoints, what, detail.clone(), mend)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn what_heals_by_itself_is_no_problem() {
        for (result, expected) in [
            (AttemptResult::Dns, Verdict::Problem),
            (AttemptResult::Blocked, Verdict::Problem),
            (AttemptResult::Tls, Verdict::Problem),
            (AttemptResult::Connect, Verdict::Warning),
            (AttemptResult::Timeout, Verdict::Warning),
        ] {
            let trouble = Trouble { result, detail: "why".to_owned() };
            assert_eq!(unreachable("crm".to_owned(), &trouble).verdict, expected, "{trouble:?}");
        }
    }

    #[test]
    fn a_certificate_that_ends_soon_is_told_of() {
        let check = |days: i64, expected| {
            let (subject, issuer, names) = (String::new(), "CA".to_owned(), Vec::new());
            let not_after = days * DAY + 1;
            let certificate = Certificate { subject, issuer, names, not_before: 0, not_after };
            let seen = Seen { certificate: Some(certificate), ..Seen::default() };
            let finding = reachable("crm".to_owned(), &seen, 0);
            assert_eq!(finding.verdict, expected);
            assert!(finding.found.contains(&format!("valid for {days} days")), "{finding:?}");
        };
        check(13, Verdict::Warning);
        check(14, Verdict::Ok);
        check(90, Verdict::Ok);
        assert_eq!(reachable("crm".to_owned(), &Seen::default(), 0).verdict, Verdict::Ok);
    }
}
