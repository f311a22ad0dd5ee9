//! One endpoint, written → settled. Which addresses will do is for the rule handed in.

use url::Url;

use super::{
    super::{
        file::endpoint::{Endpoint as Written, Policy},
        mistake::Report,
        read::nearest,
        settings::{Endpoint, Ordering, Priority, Signature, TopicSelector},
        written::Key,
    },
    count, days, header, keys, policy, seconds, topic,
};

/// What selects the topic of notices, whatever it is called.
const NOTICES: &str = "@notices";

/// What an endpoint is checked against.
pub(super) struct Context<'c> {
    /// `[defaults]`
    pub(super) defaults: &'c Policy,
    /// `kafka.topics`, when all of it could be read.
    pub(super) sources: Option<&'c [TopicSelector]>,
    /// The topic of notices, when they are written.
    pub(super) notices: Option<&'c str>,
    /// `security.https_only`
    pub(super) https_only: bool,
    /// Judges the URL's address.
    pub(super) judge: &'c dyn Fn(&Url) -> Result<(), &'static str>,
}

/// Checks everything about an endpoint; `None` if it has no usable id or URL, which has then been reported.
pub(super) fn endpoint(written: &Written, context: &Context<'_>, report: &mut Report) -> Option<Endpoint> {
    let (own, defaults) = (&written.policy, context.defaults);
    let ordering = own.ordering.over(&defaults.ordering).or(Ordering::None);
    let signature = own.signature.over(&defaults.signature);
    let rate = own.rate.over(&defaults.rate).or(None);
    let (headers, forward) = header::all(written, report);
    // With a signature that could not be read nothing can be said about the secrets.
    let keys = match signature {
        Key::Wrong => Vec::new(),
        Key::Absent | Key::Set(_) => keys::all(written, signature.or(Signature::Standard), report),
    };
    let topics = topics(written, context, report);
    let types = types(written, report);
    let tenant = tenant(written, report);
    let queue = policy::queue(own, defaults, ordering, report);
    let retry = policy::retry(&own.retry, &defaults.retry, ordering, report);
    let breaker = policy::breaker(&own.breaker, &defaults.breaker, report);
    let (id, url) = (id(written, report), url(written, context, report));
    Some(Endpoint {
        id: id?.into(),
        url: url?,
        topics,
        types,
        tenant,
        keys,
        enabled: written.enabled.or(true),
        paused: written.paused.or(false),
        headers,
        forward,
        timeout: own.timeout.over(&defaults.timeout).or(seconds(15)),
        concurrency: count(own.concurrency.over(&defaults.concurrency).or(64)),
        rate,
        burst: policy::burst(own.burst.over(&defaults.burst).or(0), rate),
        queue,
        ordering,
        signature: signature.or(Signature::Standard),
        priority: own.priority.over(&defaults.priority).or(Priority::Normal),
        retry,
        breaker,
        disable_after: own.disable_after.over(&defaults.disable_after).or(Some(days(5))),
    })
}

fn id(written: &Written, report: &mut Report) -> Option<String> {
    const HELP: &str = "write 1 to 64 of a-z A-Z 0-9 _ -";
    if written.id.is_absent() {
        report.missing(written.place, "the endpoint has no id", HELP);
    }
    let id = written.id.set()?;
    let text = &id.value.value;
    let fits = (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if !fits {
        report.add(id.place, format!("{} is no endpoint id", id.value), HELP);
    }
    fits.then(|| text.clone())
}

fn url(written: &Written, context: &Context<'_>, report: &mut Report) -> Option<Url> {
    const HELP: &str = "write one such as \"https://example.com/hooks\"";
    if written.url.is_absent() {
        report.missing(written.place, "the endpoint has no url", HELP);
    }
    let key = written.url.set()?;
    // The text is not shown: URLs of webhooks tend to hold tokens, and these user names and passwords.
    let mut refuse = |message: String, help: &str| {
        report.add(key.place, message, help);
        None
    };
    let url = match Url::parse(&key.value.value) {
        Ok(url) => url,
        Err(error) => return refuse(format!("url is no URL: {error}"), HELP),
    };
    match url.scheme() {
        "https" => {}
        "http" if !context.https_only => {}
        "http" => {
            return refuse("url begins with http://".into(), "write https://: security.https_only is set");
        }
        _ => return refuse("url begins with neither http:// nor https://".into(), HELP),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refuse(
            "url holds a user name or password".into(),
            "send them in headers = { authorization = \"env:NAME\" }",
        );
    }
    if url.fragment().is_some() {
        return refuse("url has a fragment (#…), which is never sent".into(), "remove it");
    }
    if let Err(class) = (context.judge)(&url) {
        return refuse(
            format!("url leads to an address that is not public ({class})"),
            "if it is meant, add its network to allow in [security], which takes effect at a restart",
        );
    }
    Some(url)
}

fn topics(written: &Written, context: &Context<'_>, report: &mut Report) -> Option<Vec<TopicSelector>> {
    let list = written.topics.set()?;
    if list.value.items.is_empty() && list.value.complete {
        let message = "topics of the endpoint is empty: it would get nothing";
        report.add(list.place, message, "leave it out for all source topics, or write enabled = false");
    }
    let mut topics = Vec::new();
    for item in &list.value.items {
        if item.value.value == NOTICES {
            match context.notices {
                Some(topic) => topics.push(TopicSelector::Name(topic.to_owned())),
                None => report.add(
                    item.place,
                    "the endpoint wants notices, and none are written",
                    "write enabled = true in [notices]",
                ),
            }
            continue;
        }
        if item.value.value.starts_with('@') {
            report.add(item.place, format!("{} is no topic name", item.value), "did you mean \"@notices\"?");
            continue;
        }
        let Some(selector) = topic::selector(item, report) else {
            continue;
        };
        if let (TopicSelector::Name(name), Some(sources)) = (&selector, context.sources)
            && !sources.iter().any(|source| source.matches(name))
        {
            let names = sources.iter().filter_map(|source| match source {
                TopicSelector::Name(name) => Some(&**name),
                TopicSelector::Pattern(..) => None,
            });
            let help = match nearest(name, names) {
                _ if context.notices == Some(name) => format!("write {NOTICES:?} for the notices"),
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "add it to kafka.topics, or choose one that is there".to_owned(),
            };
            report.add(item.place, format!("{} is not among kafka.topics", item.value), help);
        }
        topics.push(selector);
    }
    Some(topics)
}

fn types(written: &Written, report: &mut Report) -> Option<Vec<String>> {
    let list = written.types.set()?;
    if list.value.items.is_empty() && list.value.complete {
        let message = "types of the endpoint is empty: it would get nothing";
        report.add(list.place, message, "leave it out for all types, or write enabled = false");
    }
    for item in list.value.items.iter().filter(|item| item.value.value.is_empty()) {
        let help = "write one such as \"order.*\"; * stands for any run of characters";
        report.add(item.place, "an event type pattern is empty", help);
    }
    Some(list.value.items.iter().map(|item| item.value.value.clone()).collect())
}

fn tenant(written: &Written, report: &mut Report) -> Option<String> {
    let tenant = written.tenant.set()?;
    if tenant.value.value.is_empty() {
        report.add(tenant.place, "tenant is empty", "leave it out for the events of every tenant");
    }
    Some(tenant.value.value.clone())
}
