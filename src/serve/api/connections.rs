//! Connections: how many there are, and how long one may keep the server waiting.
//!
//! In: connections as they are accepted, and the routes. Out: answered calls.
//!
//! Invariants: each wait for a client has a bound ([`ConnectionLimits`]), so no client, however slow or silent, holds a
//! connection for ever, and beyond the most connections further ones wait to be accepted. What a scripted fault makes
//! slow on this side is no wait for the client.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::{Extension, Router};
use futures::FutureExt;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use axum::serve::Listener;

use crate::serve::faults::connection::{ConnectionHandle, CuttableListener, CuttableStream};

/// The least that is read of a head at once, in bytes: what the HTTP library wants at least.
const HEAD_BYTES_MIN: usize = 8 << 10;

/// What clients may ask of a server's patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Most connections at a time; 256 by default. Further ones wait to be accepted.
    pub connections: usize,
    /// Longest time for the head of a call to come in, and for an idle connection to stay; a minute by default.
    pub head_time: Duration,
    /// Most bytes of the head of a call; 64 KiB by default.
    pub head_bytes: usize,
    /// Longest silence in the midst of a body, and longest time for which a client takes nothing of an answer; two
    /// minutes by default.
    pub stall_time: Duration,
    /// The least that a body must come in with, in bytes per second, once it has had `stall_time`; 1024 by default.
    pub least_bytes_per_second: u32,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 256,
            head_time: Duration::from_mins(1),
            head_bytes: 64 << 10,
            stall_time: Duration::from_mins(2),
            least_bytes_per_second: 1024,
        }
    }
}

/// The connection of a call.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// The handle by which a fault cuts it.
    pub(crate) handle: ConnectionHandle,
    /// The address here that it came to.
    pub(crate) local: Option<IpAddr>,
}

/// Serves connections until the server stops, and then until the calls under way are answered.
pub(crate) async fn serve(
    mut listener: CuttableListener,
    routes: Router,
    limits: ConnectionLimits,
    stopping: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(limits.connections.max(1)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_time);
    // The first counts whole heads alone, the second those that do not end.
    http.max_header_size(limits.head_bytes).max_buf_size(limits.head_bytes.max(HEAD_BYTES_MIN));
    let open = GracefulShutdown::new();
    while let Some((stream, permit)) = next(&mut listener, &room, &stopping).await {
        let connection = Connection { handle: stream.handle(), local: stream.local() };
        let service = TowerToHyperService::new(routes.clone().layer(Extension(connection)));
        let serving = http.serve_connection(TokioIo::new(StallTimeout::new(stream, limits.stall_time)), service);
        let serving = open.watch(serving);
        tokio::spawn(async move {
            // That a client is gone or made no sense is its own affair.
            let _ = serving.await;
            drop(permit);
        });
    }
    drop(listener);
    open.shutdown().await;
}

/// The next connection, once there is room for it; `None` when the server stops.
async fn next(
    listener: &mut CuttableListener,
    room: &Arc<Semaphore>,
    stopping: &CancellationToken,
) -> Option<(CuttableStream, OwnedSemaphorePermit)> {
    let accepted = async {
        let permit = room.clone().acquire_owned().await.ok()?;
        let (stream, _) = listener.accept().await;
        Some((stream, permit))
    };
    tokio::select! {
        biased;
        () = stopping.cancelled() => None,
        accepted = accepted => accepted,
    }
}

/// A connection whose other side must keep taking what is written.
struct StallTimeout<S> {
    inner: S,
    limit: Duration,
    /// Since when nothing was taken, and until when that may be so.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> StallTimeout<S> {
    fn new(inner: S, limit: Duration) -> Self {
        Self { inner, limit, stalled: None }
    }

    /// What came of an attempt to write.
    fn unless_stalled<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.poll_unpin(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.unless_stalled(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.unless_stalled(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// The body of a call, which must keep coming in.
pub(crate) fn with_deadlines(body: Body, limits: ConnectionLimits) -> Body {
    Body::new(DeadlineBody { body, limits, bytes: 0, waited: Duration::ZERO, waiting: None })
}

struct DeadlineBody {
    body: Body,
    limits: ConnectionLimits,
    /// What has come in.
    bytes: u64,
    /// Time that went by waiting for it, without the present wait.
    waited: Duration,
    waiting: Option<Wait>,
}

struct Wait {
    since: Instant,
    end: Pin<Box<Sleep>>,
}

impl DeadlineBody {
    /// How long the next piece may take: not longer than any, and no longer than what has come in so far is worth.
    fn time_left(&self) -> Duration {
        let ConnectionLimits { stall_time, least_bytes_per_second, .. } = self.limits;
        let earned = Duration::from_millis(self.bytes.saturating_mul(1000) / u64::from(least_bytes_per_second.max(1)));
        (stall_time + earned).saturating_sub(self.waited).min(stall_time)
    }
}

impl HttpBody for DeadlineBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            if let Some(Wait { since, .. }) = self.waiting.take() {
                self.waited += since.elapsed();
            }
            if let Some(Ok(frame)) = &frame {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let time_left = self.time_left();
        let wait = self
            .waiting
            .get_or_insert_with(|| Wait { since: Instant::now(), end: Box::pin(tokio::time::sleep(time_left)) });
        ready!(wait.end.poll_unpin(context));
        Poll::Ready(Some(Err("it comes in too slowly".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
