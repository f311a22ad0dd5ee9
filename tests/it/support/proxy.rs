//! A way to a broker on which fetches can be held back: a broker that answers everything else at once.
//!
//! It knows no more of Kafka's protocol than that a request begins with its length and what it asks for
//! (<https://kafka.apache.org/protocol.html#protocol_messages>).

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

use super::{PATIENCE, until};

/// The key of fetch requests.
const FETCH: [u8; 2] = [0, 1];

/// It accepts from the beginning, and passes on once it knows the broker. Dropping it ends every connection.
pub(crate) struct Proxy {
    address: SocketAddr,
    broker: watch::Sender<Option<String>>,
    hold: watch::Sender<bool>,
    held: watch::Receiver<usize>,
    _connections: JoinSet<()>,
}

impl Proxy {
    /// Listens; the broker has to advertise this address, so it comes later.
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (broker, known) = watch::channel(None);
        let (hold, holding) = watch::channel(false);
        let (count, held) = watch::channel(0);
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (mut known, holding, count) = (known.clone(), holding.clone(), count.clone());
                open.spawn(async move {
                    let broker = known.wait_for(Option::is_some).await.unwrap().clone().unwrap();
                    let Ok(broker) = TcpStream::connect(broker).await else { return };
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_broker, mut to_broker) = broker.into_split();
                    tokio::select! {
                        _ = requests(&mut from_client, &mut to_broker, holding, &count) => {}
                        _ = tokio::io::copy(&mut from_broker, &mut to_client) => {}
                    }
                });
            }
        });
        Self { address, broker, hold, held, _connections: connections }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on it passes everything on to this broker.
    pub(crate) fn pass_on_to(&self, broker: &str) {
        self.broker.send_replace(Some(broker.to_owned()));
    }

    /// Holds fetches back, and waits until so many clients have sent one that is held.
    pub(crate) async fn hold_fetches(&self, clients: usize) {
        self.hold.send_replace(true);
        until(PATIENCE, "fetches to be held", async || *self.held.borrow() >= clients).await;
    }

    /// Passes on what it held, and everything that comes.
    pub(crate) fn release(&self) {
        self.hold.send_replace(false);
    }
}

/// Passes requests on, one after the other, as they come.
async fn requests(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut holding: watch::Receiver<bool>,
    held: &watch::Sender<usize>,
) -> std::io::Result<()> {
    loop {
        let length = from.read_u32().await?;
        let mut request = vec![0; length as usize];
        from.read_exact(&mut request).await?;
        if request.starts_with(&FETCH) && *holding.borrow() {
            held.send_modify(|held| *held += 1);
            holding.wait_for(|holding| !holding).await.ok();
            held.send_modify(|held| *held -= 1);
        }
        to.write_u32(length).await?;
        to.write_all(&request).await?;
    }
}
