//! A proxy before a broker that can cut every connection and refuse new ones.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub(crate) struct Proxy {
    pub(crate) address: String,
    open: Arc<AtomicBool>,
    cut: Arc<Notify>,
}

impl Proxy {
    /// Passes on what comes to `listener`.
    pub(crate) fn start(listener: TcpListener, to: String) -> Self {
        let address = listener.local_addr().expect("it listens").to_string();
        let (open, cut) = (Arc::new(AtomicBool::new(true)), Arc::new(Notify::new()));
        let (is_open, cutting) = (open.clone(), cut.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (to, cutting, is_open) = (to.clone(), cutting.clone(), is_open.clone());
                tokio::spawn(async move {
                    // ORDER: before the look whether it is open, so that no cut is missed.
                    let cut = cutting.notified();
                    if !is_open.load(Ordering::SeqCst) {
                        return;
                    }
                    let passing = async {
                        let Ok(mut broker) = TcpStream::connect(to).await else { return };
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut broker).await;
                    };
                    tokio::select! {
                        () = passing => {}
                        () = cut => {}
                    }
                });
            }
        });
        Self { address, open, cut }
    }

    /// Cuts every connection, and takes no new ones.
    pub(crate) fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}
