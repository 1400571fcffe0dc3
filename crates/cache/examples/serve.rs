//! A cache on this machine and nothing else: `serve DIRECTORY [ADDRESS]`. Everybody who reaches it may use it.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::path::Path;
use std::sync::Arc;

use cache::store::FsStore;
use cache::{Cache, Settings};
use domain::clock::{SystemClock, SystemRng};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let directory = args.next().ok_or_else(|| std::io::Error::other("usage: serve DIRECTORY [ADDRESS]"))?;
    let address = args.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let store = Arc::new(FsStore::open(Path::new(&directory))?);
    let settings = Settings { base: None, max_entry: 64 << 30, per_repo: None, ttl: None, redirect: false };
    let metrics = telemetry::Metrics::new();
    let cache = Cache::new(store, None, settings, Arc::new(SystemClock), Arc::new(SystemRng), metrics);
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("http://{}/", listener.local_addr()?);
    axum::serve(listener, cache::router(cache)).await
}
