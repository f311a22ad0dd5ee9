//! What a service manager hears over `sd_notify`: ready when it is, how it is, reloads, signs of life, and the stop.

use std::{
    os::unix::net::UnixDatagram,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{
    PATIENCE,
    arauto::Arauto,
    broker::Broker,
    cluster::Cluster,
    config::{Config, Endpoint},
    eventually,
    hook::{Hook, Reply},
    never,
    records::NewRecord,
    until,
};

/// The socket of a service manager, and what it was told: one `NAME=value` per entry, in its order.
struct Manager(Arc<Mutex<Vec<String>>>);

impl Manager {
    fn listen(socket: &Path) -> Self {
        let socket = UnixDatagram::bind(socket).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        // Ends with the process; nobody closes a datagram socket from the other side.
        std::thread::spawn(move || {
            let mut datagram = [0; 4096];
            while let Ok(length) = socket.recv(&mut datagram) {
                let text = String::from_utf8_lossy(&datagram[..length]).into_owned();
                heard.lock().unwrap().extend(text.lines().map(str::to_owned));
            }
        });
        Self(told)
    }

    fn told(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self, what: &str) -> usize {
        self.told().iter().filter(|told| *told == what).count()
    }

    /// Waits until it was told something that begins so, after so many other things.
    async fn wait(&self, begins: &str, after: usize) -> String {
        let found = async || self.told().into_iter().skip(after).find(|told| told.starts_with(begins));
        eventually(PATIENCE * 2, &format!("{begins:?} to be told"), found).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_what_it_has_to_know() {
    let mut broker = Broker::start().await;
    let cluster = Cluster::at(broker.address());
    cluster.create_topic("orders", 1, &[]).await;
    let hook = Hook::start(|_| Reply::ok().when_woken()).await;
    let config = Config::new(broker.address(), "arauto", "arauto", &["orders"])
        .endpoint(Endpoint::new("shop", &hook.url()));
    let file = config.write();
    let socket = file.dir().join("notify");
    let manager = Manager::listen(&socket);
    broker.stop().await;

    let environment = [("NOTIFY_SOCKET", socket.to_str().unwrap()), ("WATCHDOG_USEC", "3000000")];
    let mut arauto = Arauto::start_with(&file.path(), &environment).await;
    manager.wait("STATUS=not ready: brokers: ", 0).await;
    // Signs of life do not wait for brokers; being ready does.
    manager.wait("WATCHDOG=1", 0).await;
    assert_eq!(manager.count("READY=1"), 0);
    broker.restart().await;
    manager.wait("READY=1", 0).await;
    manager.wait("STATUS=ready", 0).await;
    until(PATIENCE, "to be ready", async || arauto.is_ready().await).await;

    let before = manager.told().len();
    arauto.signal("HUP");
    manager.wait("RELOADING=1", before).await;
    let stamp = manager.wait("MONOTONIC_USEC=", before).await;
    assert!(stamp["MONOTONIC_USEC=".len()..].parse::<u64>().is_ok_and(|stamp| stamp > 0), "{stamp}");
    manager.wait("READY=1", before).await;
    file.rewrite(&config.set("limits.in_flight", "many"));
    let before = manager.told().len();
    arauto.signal("HUP");
    manager.wait("READY=1", before).await;
    manager.wait("STATUS=ready, but the configuration read last was rejected: ", before).await;

    // Frozen it gives no sign of life; going on it does again, although it seems to have been silent for long.
    let beats = manager.count("WATCHDOG=1");
    until(PATIENCE, "signs of life", async || manager.count("WATCHDOG=1") > beats + 1).await;
    arauto.freeze();
    let beats = manager.count("WATCHDOG=1");
    never(Duration::from_secs(2), "a sign of life", async || manager.count("WATCHDOG=1") > beats).await;
    arauto.thaw();
    until(PATIENCE, "signs of life", async || manager.count("WATCHDOG=1") > beats).await;

    cluster.produce(&[NewRecord::new("orders", "under way")]).await;
    hook.wait_for_requests(1, PATIENCE).await;
    let before = manager.told().len();
    arauto.sigterm();
    manager.wait("STOPPING=1", before).await;
    manager.wait("STATUS=not ready: stopping", before).await;
    // Still alive while it finishes what is under way.
    manager.wait("WATCHDOG=1", before).await;
    hook.wake();
    assert_eq!(arauto.ended(PATIENCE).await.code(), Some(0));
}
