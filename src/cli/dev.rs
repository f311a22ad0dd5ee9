//! `arauto dev`: the whole of Arauto on this machine, with nothing to install or configure.
//!
//! An embedded broker, a receiver that verifies, the real service between them on `config/dev.toml`, and sample
//! events. Nothing of it outlives the command.

use std::{cell::RefCell, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use self::{
    board::Board,
    seen::Seen,
    show::{Show, Start},
};
use super::{Done, Usage};
use crate::{
    app::{App, load, signal::Stop},
    config::settings::{Log, LogFormat, Settings},
    dev::{
        broker::{self, Broker},
        receiver::{self, Handle, Received, Receiver, Script},
        sample,
    },
    kafka::{
        producer::Producer,
        topics::{dead_topic, state_topic, tier_topic},
    },
    pipeline::{Record, decode::Decoder, delivery::now, sign::verify},
};

mod board;
mod seen;
mod show;

/// The configuration; the two addresses in it are replaced by the real ones.
const CONFIG: &str = include_str!("../../config/dev.toml");
const BROKERS: &str = "localhost:9092";
const RECEIVER: &str = "localhost:8080";
const TOPIC: &str = "orders";
/// So that events of one order stay in one of several partitions, as on a real cluster.
const PARTITIONS: i32 = 4;
/// So many sample events come at once: more than the limited endpoint takes in a second.
const BURST: u64 = 8;
/// Between two of the others: fewer a second than the limited endpoint takes, so that it catches up.
const PAUSE: Duration = Duration::from_millis(250);
/// Things that happened but are not shown yet.
const UNSHOWN: usize = 4_096;

/// Try it all: embedded broker, sample events, and endpoints with different fates. Needs no Kafka, no configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  arauto dev
  arauto dev --events 20

--json: a line for each thing that happens, its kind one of started, attempt, dead_letter and summary.")]
pub(super) struct Args {
    /// End once this many sample events have reached their end everywhere; exit code 1 if anything did not verify.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    events: Option<u64>,
}

/// Warnings only, unless `RUST_LOG` asks for more; and not those that tell of what is shown here (dead letters) or
/// known (the mock broker does not tell topics' configuration).
pub(super) fn log() -> Log {
    let quiet = || "warn,arauto::kafka::topics=error,arauto::pipeline::settle=error".to_owned();
    let asked = std::env::var("RUST_LOG").ok().filter(|level| !level.is_empty());
    Log { level: asked.unwrap_or_else(quiet), format: LogFormat::Auto }
}

/// What runs.
struct Dev {
    args: Args,
    show: Show,
    board: RefCell<Board>,
    settings: Settings,
    started: Instant,
    /// No more events; what is under way is finished.
    stop: CancellationToken,
    /// The service has ended: nothing more will happen.
    ended: CancellationToken,
}

/// Runs until Ctrl-C, or until `--events` have reached their end.
pub(super) async fn run(args: Args, log: crate::log::Log, json: bool) -> anyhow::Result<Done> {
    let started = Instant::now();
    // From now on a Ctrl-C is ours, so that even an early one ends this in order.
    let mut signals = Stop::listen()?;
    let broker = Broker::start()?;
    let (tell, told) = mpsc::channel(UNSHOWN);
    let (receiver, handle) = Receiver::bind(receiver(tell)?).await.context("starting the receiver")?;
    let settings = settings(&broker, &handle)?;
    broker.create_topics(&topics(&settings))?;
    let app = App::new(settings.clone(), log).await?;
    let natures: Vec<_> = settings.endpoints.iter().map(|e| (e.id.to_string(), nature(&e.id))).collect();
    let dev = Dev {
        args,
        show: Show::new(json, &natures),
        board: RefCell::new(Board::new(settings.endpoints.iter().map(AsRef::as_ref))),
        settings,
        started,
        stop: CancellationToken::new(),
        ended: CancellationToken::new(),
    };
    dev.greet(&app, &natures)?;
    dev.go(app, receiver, told, &mut signals).await
}

fn settings(broker: &Broker, receiver: &Handle) -> anyhow::Result<Settings> {
    let text = CONFIG.replace(BROKERS, &broker.address()).replace(RECEIVER, &receiver.addr().to_string());
    load::text(Path::new("config/dev.toml"), &text).map_err(|mistakes| Usage(mistakes.to_string()).into())
}

/// What the endpoints are like is in their receiver, but for the rate.
fn nature(endpoint: &str) -> &'static str {
    match endpoint {
        "limited" => "takes 5 a second",
        "flaky" => "fails at first, then recovers",
        "refusing" => "always refuses: three attempts, then the dead-letter topic",
        _ => "takes everything at once",
    }
}

fn receiver(tell: mpsc::Sender<Arc<Received>>) -> anyhow::Result<receiver::Options> {
    let mut options = receiver::Options::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let failing = |fail_first, status| Script { fail_first, status, fail_status: 503, ..Script::default() };
    options.paths =
        [("/flaky".to_owned(), failing(2, 200)), ("/refusing".to_owned(), failing(0, 422))].into();
    // The keys of the file as it is: an endpoint's receiver has to know its secret from somewhere.
    let settings = load::text(Path::new("config/dev.toml"), CONFIG);
    let settings = settings.map_err(|mistakes| Usage(mistakes.to_string()))?;
    let secrets = settings.endpoints.iter().flat_map(|endpoint| &endpoint.keys);
    options.keys = secrets.map(verify::Key::from).collect();
    options.keep = 0;
    options.tell = Some(tell);
    Ok(options)
}

fn topics(settings: &Settings) -> Vec<(String, i32)> {
    let prefix = &settings.topics.prefix;
    let tiers = std::iter::once(Duration::ZERO).chain(settings.topics.tiers.iter().copied());
    let own = tiers.map(|delay| tier_topic(prefix, delay)).chain([dead_topic(prefix), state_topic(prefix)]);
    std::iter::once((TOPIC.to_owned(), PARTITIONS)).chain(own.map(|topic| (topic, 1))).collect()
}

impl Dev {
    fn greet(&self, app: &App, natures: &[(String, &'static str)]) -> anyhow::Result<()> {
        let program = std::env::args().next().unwrap_or_else(|| "arauto".to_owned());
        Ok(self.show.start(&Start {
            brokers: &self.settings.kafka.brokers,
            topic: TOPIC,
            metrics: app.admin().map(|address| format!("http://{address}/metrics")),
            dead_letters: &dead_topic(&self.settings.topics.prefix),
            program: &program,
            endpoints: natures,
        })?)
    }

    async fn go(
        &self,
        app: App,
        receiver: Receiver,
        told: mpsc::Receiver<Arc<Received>>,
        signals: &mut Stop,
    ) -> anyhow::Result<Done> {
        let (tell, dead) = mpsc::channel(UNSHOWN);
        let service = async {
            let served = app.run(self.stop.clone().cancelled_owned(), None).await;
            self.stop.cancel();
            self.ended.cancel();
            served
        };
        let publish = async {
            let published = self.publish().await;
            if published.is_err() {
                self.stop.cancel();
            }
            published
        };
        let (served, received, read, published, shown) = tokio::join!(
            Box::pin(service),
            receiver.run(self.ended.clone()),
            self.read_dead_letters(tell),
            publish,
            self.watch(told, dead, signals),
        );
        served?;
        received.context("receiving")?;
        read.context("reading the dead-letter topic")?;
        published.context("publishing")?;
        let first = shown.context("printing")?;
        let board = self.board.borrow();
        self.show.summary(&board, first)?;
        let enough = self.args.events.is_none_or(|events| board.ended() >= events);
        Ok(if enough && board.all_verified() { Done::Well } else { Done::Failed })
    }

    /// Publishes the samples until the stop, or as many as asked for.
    async fn publish(&self) -> anyhow::Result<()> {
        let producer = Producer::new(&self.settings.kafka)?;
        for number in 1..=self.args.events.unwrap_or(u64::MAX) {
            if number > BURST && self.stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                break;
            }
            self.board.borrow_mut().publish(number, sample::event_type(number), now());
            producer.send(&sample::record(TOPIC, number)).await?;
        }
        // Ending the client joins its threads: not on a worker of the runtime.
        tokio::task::spawn_blocking(move || drop(producer)).await?;
        Ok(())
    }

    async fn read_dead_letters(&self, tell: mpsc::Sender<Record>) -> anyhow::Result<()> {
        let (kafka, ended) = (self.settings.kafka.clone(), self.ended.clone());
        let topic = dead_topic(&self.settings.topics.prefix);
        let read = move || {
            broker::read(&kafka, &topic, &ended, |record| {
                // Nobody listens any more only when printing has failed, which is told.
                tell.blocking_send(record).ok();
            })
        };
        Ok(tokio::task::spawn_blocking(read).await??)
    }

    /// Shows what happens until there is nothing more to come; when the first webhook came, since the start.
    async fn watch(
        &self,
        mut told: mpsc::Receiver<Arc<Received>>,
        mut dead: mpsc::Receiver<Record>,
        signals: &mut Stop,
    ) -> anyhow::Result<Option<u64>> {
        let decoder = Decoder::new(&self.settings.events, "".into());
        let mut first = None;
        loop {
            let shown = tokio::select! {
                Some(received) = told.recv() => {
                    first.get_or_insert_with(|| self.started.elapsed());
                    self.see(Seen::attempt(&received), &received.body)
                }
                record = dead.recv() => match record {
                    None => break,
                    Some(record) => self.dead_letter(&record, &decoder),
                },
                _ = signals.recv() => { self.stop.cancel(); Ok(()) }
            };
            // Whoever reads us has gone: nothing to do any more.
            shown.inspect_err(|_| self.stop.cancel())?;
            if self.args.events.is_some_and(|events| self.board.borrow().ended() >= events) {
                self.stop.cancel();
            }
        }
        while let Ok(received) = told.try_recv() {
            self.see(Seen::attempt(&received), &received.body)?;
        }
        Ok(first.map(|first| u64::try_from(first.as_millis()).unwrap_or(u64::MAX)))
    }

    fn dead_letter(&self, record: &Record, decoder: &Decoder) -> anyhow::Result<()> {
        let seen = Seen::dead_letter(record, decoder)?;
        self.see(seen, record.value.as_deref().unwrap_or_default())
    }

    fn see(&self, mut seen: Seen, value: &[u8]) -> anyhow::Result<()> {
        self.board.borrow_mut().see(&mut seen, sample::number(value));
        Ok(self.show.seen(&seen)?)
    }
}
