//! The only file that sees everything: builds the parts and starts them. `app/down.rs` takes them down in order.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::Context;
use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::{
    down::Started, endpoints::Endpoints, group::Group, observe::Observation, own::OwnQueues, tasks::Tasks,
    watch::Watch,
};
use crate::{
    admin::{
        self,
        control::{Control, Parts},
        health::Health,
    },
    config::settings::Settings,
    http::{self, guard::Guard},
    kafka::{consumer::Budget, observer::Observer, producer::Producer, topics::Admin},
    log::Log,
    metrics::{Metrics, Window as WindowNow},
    notices::Notices,
    otel::Tracer,
    pipeline::{
        assignment::{Assignment, Shared},
        attempts,
        commit::Committer,
        decode::Decoder,
        lane::lanes::{self, Lanes},
        markers::Markers,
        own::Reads,
        positions::{self, Positions},
        retry::Ladder,
        settle::{self, Settler},
        switches::Switches,
        window::Window,
    },
    registry::Registry,
};

mod certificates;
mod down;
mod endpoints;
mod group;
pub mod load;
mod notices;
mod observe;
mod own;
mod pulse;
mod reload;
pub mod signal;
mod startup;
mod supervisor;
pub mod tasks;
mod watch;

/// How long the tasks may take to end when everything they worked for is done.
const LAST_TASKS: Duration = Duration::from_secs(1);
/// This part of the grace is kept for the last commit, for leaving the group and for the last records.
const KEPT_OF_GRACE: u32 = 5;
/// Lanes are looked at this often whether they can be taken down.
const RETIRE: Duration = Duration::from_secs(15);

const NO_CLIENT: &str = "the Kafka client cannot be made (kafka.properties)";

/// One process of Arauto.
pub struct App {
    settings: Arc<Settings>,
    tasks: Tasks,
    health: Health,
    control: Control,
    log: Log,
    metrics: Metrics,
    registry: Arc<Registry>,
    admin: Option<SocketAddr>,
    watch: Watch,
    /// Stops the intake; the tasks go on until what was taken in has ended.
    stop: CancellationToken,
}

impl App {
    /// Prepares a process and starts its admin server; nothing touches Kafka yet.
    pub async fn new(settings: Settings, log: Log) -> anyhow::Result<Self> {
        let (tasks, health, control) = (Tasks::new(), Health::new(), Control::new());
        let metrics = Metrics::new(settings.admin.max_endpoint_series);
        metrics.set_endpoints(settings.endpoints.iter().map(|endpoint| (&*endpoint.id, endpoint.enabled)));
        let mut admin = None;
        if let Some(listen) = settings.admin.listen {
            let parts = (control.clone(), log.clone());
            let (server, address) = admin::Server::bind(listen, metrics.clone(), health.clone(), parts)
                .await
                .with_context(|| format!("the admin server cannot listen on {listen} (admin.listen)"))?;
            let until = tasks.token().clone();
            tasks.spawn_essential(
                "admin server",
                async move { Ok(server.run(until.cancelled_owned()).await?) },
            );
            admin = Some(address);
        }
        let registry = Arc::new(Registry::new(settings.endpoints.clone()));
        let settings = Arc::new(settings);
        let (stop, patience) = (CancellationToken::new(), settings.admin.stalled_after);
        let watch = Watch::new(health.clone(), metrics.clone(), patience, settings.limits.drain);
        Ok(Self { settings, tasks, health, control, log, metrics, registry, admin, watch, stop })
    }

    /// Where the admin server listens.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Runs until `stop` resolves or something fails that cannot heal. `reload` is the file to read again.
    pub async fn run(self, stop: impl Future<Output = ()>, reload: Option<PathBuf>) -> anyhow::Result<()> {
        let (log, until) = (self.log.clone(), self.tasks.token().clone());
        self.tasks.spawn_essential("log", async move {
            until.run_until_cancelled(log.keep_telling()).await;
            Ok(())
        });
        let failed = self.tasks.token().clone();
        self.watch.start(&self.tasks);
        tokio::pin!(stop);
        let started = tokio::select! {
            started = self.start(reload) => started,
            () = &mut stop => { self.stop.cancel(); Ok(None) }
            () = failed.cancelled() => Ok(None),
        };
        let group = match started {
            Ok(group) => group,
            Err(error) => {
                self.stop.cancel();
                self.tasks.close_and_wait(Instant::now() + LAST_TASKS).await;
                self.log.tell_all();
                return Err(error);
            }
        };
        if group.is_some() {
            info!(group = self.settings.kafka.group, "running");
            tokio::select! {
                () = &mut stop => {}
                () = failed.cancelled() => {}
            }
        }
        self.take_down(group).await
    }

    async fn start(&self, reload: Option<PathBuf>) -> anyhow::Result<Option<Started>> {
        let settings = &self.settings;
        let producer = Producer::watched(&settings.kafka, self.metrics.clone()).context(NO_CLIENT)?;
        let observer = Observer::new(&settings.kafka).context(NO_CLIENT)?;
        let attempts = attempts::Log::new(settings, &self.metrics)?;
        let client = http::Client::new(Guard::new(&settings.security.allow)).context("no HTTP client")?;
        let admin = Admin::new(&settings.kafka)?;
        startup::topics(&admin, settings, &self.health).await?;
        let switches = Switches::new(&settings.topics.prefix, producer.clone(), self.tasks.clone());
        let markers = Markers::default();
        let positions = Arc::new(Positions::new(positions::Options {
            prefix: settings.topics.prefix.clone(),
            group: settings.kafka.group.clone(),
            start: settings.kafka.start,
            observer: observer.clone(),
            producer: producer.clone(),
            switches: switches.clone(),
            markers: markers.clone(),
            runtime: Handle::current(),
            tasks: self.tasks.clone(),
            metrics: self.metrics.clone(),
            alive: self.watch.pulses().polling.beats(),
            stop: self.stop.clone(),
        }));
        let (topics, namespace) = startup::positions(&positions, &observer, settings, &self.tasks).await?;
        let notices = self.notices(&client)?;
        let tracer = self.tracer()?;
        let given = (client, switches.clone(), markers, (tracer.clone(), notices.clone()));
        let shared = self.pipeline(&positions, (&producer, &attempts), given, namespace);
        let (registry, lanes) = (Arc::clone(&self.registry), Arc::clone(&shared.lanes));
        self.control.fill(Parts { registry, switches: switches.clone(), lanes });
        let own = self.own_queues(&shared, &observer, admin);
        startup::own_queues(&own, settings, &self.tasks).await?;
        let group = self.group(&shared, topics);
        group.start(&self.tasks, &shared.committer);
        let (queues, endpoints) = (own.clone(), settings.endpoints.clone());
        self.tasks.spawn_blocking("own queues", move || queues.reconcile(&endpoints)).await?;
        let endpoints = self.endpoints(switches, &shared.lanes);
        Observation {
            settings: Arc::clone(settings),
            observer,
            positions,
            endpoints: Arc::clone(&endpoints),
            group: group.clone(),
            own: own.clone(),
            pulse: self.watch.pulses().observer.clone(),
        }
        .start(&shared, &self.health, self.stop.clone());
        self.tend(&shared, endpoints, &own, reload)?;
        Ok(Some(Started {
            committer: Arc::clone(&shared.committer),
            group,
            own,
            producer,
            attempts,
            tracer,
            notices,
        }))
    }

    /// What begins traces, if they are wanted. What it takes is sent until the process ends.
    fn tracer(&self) -> anyhow::Result<Option<Tracer>> {
        let Some(otel) = &self.settings.otel else { return Ok(None) };
        let (tracer, service) = Tracer::new(otel, &self.metrics).context("no spans can be sent")?;
        let until = self.tasks.token().clone();
        self.tasks.spawn("spans", async move { until.run_until_cancelled_owned(service.run()).await });
        Ok(Some(tracer))
    }

    /// The queues of endpoints' own.
    fn own_queues(&self, shared: &Arc<Shared>, observer: &Observer, admin: Admin) -> OwnQueues {
        OwnQueues::new(own::Options {
            settings: Arc::clone(&self.settings),
            shared: Arc::clone(shared),
            observer: observer.clone(),
            admin,
            health: self.health.clone(),
            stop: self.stop.clone(),
            runtime: Handle::current(),
        })
    }

    /// The main group.
    fn group(&self, shared: &Arc<Shared>, topics: Vec<String>) -> Group {
        let settings = &self.settings;
        let assignment = Assignment::new(
            Arc::clone(shared),
            settings.topics.prefix.clone(),
            settings.limits.drain,
            Handle::current(),
            self.health.clone(),
        );
        let options = group::Options {
            kafka: settings.kafka.clone(),
            budget: Budget::Ample(settings.limits.prefetch),
            grace: settings.limits.shutdown_grace,
            commit_interval: settings.limits.commit_interval,
            topics,
            metrics: Some(self.metrics.clone()),
            pulse: self.watch.pulses().polling.clone(),
        };
        Group::new(options, Arc::new(assignment), self.stop.clone())
    }

    fn endpoints(&self, switches: Switches, lanes: &Arc<Lanes>) -> Arc<Endpoints> {
        let (registry, metrics) = (Arc::clone(&self.registry), self.metrics.clone());
        let endpoints = Arc::new(Endpoints::new(registry, switches, Arc::clone(lanes), metrics));
        // What the state topic said before there was anybody to tell.
        endpoints.tell();
        endpoints
    }

    fn pipeline(
        &self,
        positions: &positions::Shared,
        (producer, attempts): (&Producer, &attempts::Log),
        (client, switches, markers, (tracer, notices)): Given,
        namespace: Arc<str>,
    ) -> Arc<Shared> {
        let Self { settings, tasks, metrics, .. } = self;
        let limits = &settings.limits;
        let window = Arc::new(Window::new(limits.in_flight, limits.in_flight_bytes));
        let watched = Arc::clone(&window);
        metrics.watch_window(move || WindowNow {
            in_flight: watched.in_flight(),
            in_flight_bytes: watched.in_flight_bytes(),
            used_ratio: watched.used_ratio(),
        });
        let settler = Settler::new(settle::Options {
            prefix: settings.topics.prefix.clone(),
            ladder: Ladder::new(settings.topics.tiers.iter().copied()),
            on_removed: settings.on_removed,
            unknown_grace: i64::try_from(settings.unknown_grace.as_millis()).unwrap_or(i64::MAX),
            producer: producer.clone(),
            attempts: attempts.clone(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            health: self.health.clone(),
            notices: notices.clone(),
        });
        let decoder = Decoder::new(&settings.events, namespace).with_notices(&settings.topics.prefix);
        let lanes = lanes::Shared::new(
            client,
            settler.clone(),
            Arc::clone(&window),
            limits.hold,
            switches,
            (tasks.clone(), metrics.clone(), notices),
        );
        Arc::new(Shared {
            reads: Reads::Everyone,
            registry: Arc::clone(&self.registry),
            decoder: Arc::new(decoder),
            lanes: Arc::new(Lanes::new(lanes, Arc::clone(&self.registry))),
            settler,
            window,
            positions: Arc::clone(positions),
            markers,
            committer: Arc::new(Committer::new(Arc::clone(positions), metrics.clone())),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            tracer,
            hold: limits.hold,
            commit_interval: limits.commit_interval,
            epochs: Arc::new(AtomicU64::new(1)),
            reopened: Arc::default(),
        })
    }

    /// What goes on beside the pipeline: idle lanes, reloads.
    fn tend(
        &self,
        shared: &Arc<Shared>,
        endpoints: Arc<Endpoints>,
        own: &OwnQueues,
        reload: Option<PathBuf>,
    ) -> anyhow::Result<()> {
        self.watch.fill(Arc::clone(shared), own.clone());
        let (lanes, until) = (Arc::clone(&shared.lanes), self.tasks.token().clone());
        self.tasks.spawn_essential("lane keeper", async move {
            while until.run_until_cancelled(tokio::time::sleep(RETIRE)).await.is_some() {
                lanes.retire_idle();
            }
            Ok(())
        });
        let (lanes, until) = (Arc::clone(&shared.lanes), self.tasks.token().clone());
        self.tasks.spawn_essential("lateness", async move {
            until.run_until_cancelled(lanes.measure_lateness()).await;
            Ok(())
        });
        if let Some(path) = reload {
            let reloader = reload::Reloader {
                path,
                settings: Arc::clone(&self.settings),
                endpoints,
                own: own.clone(),
                log: self.log.clone(),
                metrics: self.metrics.clone(),
                health: self.health.clone(),
                supervisor: self.watch.supervisor().clone(),
            };
            let until = self.tasks.token().clone();
            let service = reloader.service()?;
            self.tasks.spawn_essential("reload", async move {
                until.run_until_cancelled(service).await;
                Ok(())
            });
        }
        Ok(())
    }
}

/// What a pipeline is given besides.
type Given = (http::Client, Switches, Markers, (Option<Tracer>, Notices));
