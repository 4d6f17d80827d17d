//! The connection under a call, so that a fault can cut it without an answer.
//!
//! In: connections as they are accepted. Out: the same, each with a handle that its calls carry.
//! Invariants: a cut connection is closed and writes nothing more, so what came before the cut is all that the
//! client gets. hyper alone cannot do that: whatever a handler returns becomes a response. (This is HTTP/1 only, so a
//! connection carries one call at a time.)

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::task::{Context, Poll};

use axum::serve::Listener;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// How a connection ends before its time.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cut {
    /// With a FIN, as when a proxy goes away in good order.
    #[default]
    Close,
    /// With an RST, as when a host crashes or a middlebox forgets the connection.
    Reset,
}

/// Of a connection's state, which is 0 as long as it is whole: nothing passes any more.
const CUT: u8 = 1;
/// Of the same: what is already on its way out still passes, and nothing more.
const CUT_WHEN_FLUSHED: u8 = 2;
/// Of the same: the end is to be an RST.
const RESET: u8 = 4;

/// The handle on a connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionHandle(Arc<AtomicU8>);

impl ConnectionHandle {
    /// Cuts the connection at once.
    pub(crate) fn cut(&self, how: Cut) {
        self.set(CUT, how);
    }

    /// Cuts the connection as soon as everything written so far has gone out.
    pub(crate) fn cut_when_flushed(&self, how: Cut) {
        self.set(CUT_WHEN_FLUSHED, how);
    }

    /// Whether no answer can go out.
    pub(crate) fn is_cut(&self) -> bool {
        self.0.load(SeqCst) & CUT != 0
    }

    fn set(&self, state: u8, how: Cut) {
        let reset = if how == Cut::Reset { RESET } else { 0 };
        self.0.store(state | reset, SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        if self.is_cut() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn flushed(&self) -> io::Result<()> {
        let state = self.0.load(SeqCst);
        if state & CUT_WHEN_FLUSHED != 0 {
            self.0.store(state & RESET | CUT, SeqCst);
        }
        self.check()
    }
}

/// The listener whose connections can be cut.
#[derive(Debug)]
pub(crate) struct CuttableListener(pub(crate) TcpListener);

/// A connection that can be cut.
#[derive(Debug)]
pub(crate) struct CuttableStream {
    stream: TcpStream,
    handle: ConnectionHandle,
}

impl Listener for CuttableListener {
    type Io = CuttableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (CuttableStream, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        (CuttableStream { stream, handle: ConnectionHandle::default() }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl CuttableStream {
    /// The handle on it.
    pub(crate) fn handle(&self) -> ConnectionHandle {
        self.handle.clone()
    }

    /// The address here that it came to.
    pub(crate) fn local(&self) -> Option<IpAddr> {
        self.stream.local_addr().ok().map(|address| address.ip())
    }
}

impl Drop for CuttableStream {
    fn drop(&mut self) {
        if self.handle.0.load(SeqCst) & RESET != 0 {
            // Refused only for a socket that is closed already.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for CuttableStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.handle.check()?;
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for CuttableStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.handle.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.handle.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        Poll::Ready(self.handle.flushed())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
