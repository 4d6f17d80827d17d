//! Streams a payload as the body of a request.
//!
//! In: a [`Payload`], read on a blocking thread in pieces. Out: the stream that becomes a request's body.
//!
//! Invariants: at most [`PIECES`] + 3 pieces exist at a time; backpressure of the connection stops the reader. The last
//! piece is held back until the reader has ended without an error: a payload that turns out to be wrong is never sent
//! completely, and the service never sees a complete request.

use std::io::{self, BufRead};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::remote::error::{ErrorKind, RemoteError};
use crate::remote::service::{Payload, Progress};
use crate::remote::timeouts::Timeouts;

/// Maximum size of the pieces that a payload is read in, in bytes.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// Maximum number of pieces queued for the connection.
const PIECES: usize = 2;

/// The progress of a body while it is sent.
#[derive(Debug, Default)]
pub(super) struct Meter {
    sent: AtomicU64,
    ended: AtomicBool,
    fault: Mutex<Option<io::Error>>,
}

/// Opens a payload as a request body of exactly [`Payload::bytes`] bytes.
pub(super) fn open(payload: Arc<dyn Payload>, progress: Progress) -> (reqwest::Body, Arc<Meter>) {
    let promised = payload.bytes();
    let meter = Arc::new(Meter::default());
    let (sender, mut receiver) = mpsc::channel(PIECES);
    let reader_meter = Arc::clone(&meter);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = feed(&*payload, &sender) {
            let kind = error.kind();
            *reader_meter.fault() = Some(error);
            // The body ends with an error, so that the connection is closed.
            let _ = sender.blocking_send(Err(io::Error::from(kind)));
        }
    });
    let stream_meter = Arc::clone(&meter);
    let stream = futures::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|piece: Option<io::Result<Bytes>>| {
            match &piece {
                Some(Ok(bytes)) => {
                    let sent = stream_meter.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
                    progress.tell(sent);
                    // The connection does not poll for a piece after the last.
                    stream_meter.ended.store(sent >= promised, Ordering::Relaxed);
                }
                _ => stream_meter.ended.store(true, Ordering::Relaxed),
            }
            piece
        })
    });
    (reqwest::Body::wrap_stream(stream), meter)
}

/// Reads the payload into the channel. Ends early, without an error, when the receiver is gone.
fn feed(payload: &dyn Payload, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let promised = payload.bytes();
    let mut reader = payload.open()?;
    let mut read = 0;
    let mut held = None;
    loop {
        let piece = read_piece(&mut *reader)?;
        if piece.is_empty() {
            break;
        }
        read += piece.len() as u64;
        if read > promised {
            return Err(changed(promised, "more"));
        }
        if let Some(previous) = held.replace(piece)
            && sender.blocking_send(Ok(previous)).is_err()
        {
            return Ok(());
        }
    }
    if read < promised {
        return Err(changed(promised, "fewer"));
    }
    if let Some(last) = held {
        // As above: without a receiver it is not needed.
        let _ = sender.blocking_send(Ok(last));
    }
    Ok(())
}

/// The next piece of the reader, at most [`PIECE_BYTES`]; empty at the end.
fn read_piece(reader: &mut dyn BufRead) -> io::Result<Bytes> {
    let at_hand = reader.fill_buf()?;
    let piece = Bytes::copy_from_slice(&at_hand[..at_hand.len().min(PIECE_BYTES)]);
    reader.consume(piece.len());
    Ok(piece)
}

fn changed(promised: u64, than: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("there are {than} than the promised {promised} bytes"))
}

impl Meter {
    fn fault(&self) -> MutexGuard<'_, Option<io::Error>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes the connection has taken: all of them only if the payload was read to its end without an error.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Why the payload could not be read, as an error about `target`; `None` if it could.
    pub(super) fn take_fault(&self, target: &str) -> Option<RemoteError> {
        let fault = self.fault().take()?;
        let error = match fault.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                RemoteError::new(ErrorKind::InputChanged, target)
            }
            _ => RemoteError::new(ErrorKind::LocalFile, target).with_message("cannot read what is to be uploaded"),
        };
        Some(error.with_source(fault))
    }

    /// Returns when the body has stalled: when no piece was taken for [`Timeouts::idle`], or there was no response
    /// [`Timeouts::answer`] after the last one. Never returns otherwise.
    pub(super) async fn stalled(&self, timeouts: &Timeouts) -> &'static str {
        let mut seen = None;
        loop {
            let ended = self.ended.load(Ordering::Relaxed);
            tokio::time::sleep(if ended { timeouts.answer } else { timeouts.idle }).await;
            if ended {
                return "no response after the upload";
            }
            let sent = Some(self.sent.load(Ordering::Relaxed));
            if sent == seen && !self.ended.load(Ordering::Relaxed) {
                return "the upload stalled";
            }
            seen = sent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::http::testing::Memory;

    async fn pieces_of(payload: Memory) -> Vec<io::Result<Bytes>> {
        let (sender, mut receiver) = mpsc::channel(PIECES);
        let end = sender.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = feed(&payload, &sender) {
                end.blocking_send(Err(error)).unwrap();
            }
        });
        let mut pieces = Vec::new();
        while let Some(piece) = receiver.recv().await {
            pieces.push(piece);
        }
        pieces
    }

    #[tokio::test]
    async fn the_pieces_are_the_payload() {
        for size in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
            let payload = Memory::of(size);
            let bytes = payload.bytes.clone();
            let pieces = pieces_of(payload).await;
            let together: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.unwrap().to_vec()).collect();
            assert!(together == bytes, "{size} bytes");
        }
    }

    #[tokio::test]
    async fn a_payload_that_changed_is_never_handed_over_whole() {
        let whole = 2 * PIECE_BYTES;
        let mut wrong_at_the_end = Memory::of(whole);
        wrong_at_the_end.fails_at_end = Some(io::ErrorKind::InvalidData);
        let (mut longer, mut shorter) = (Memory::of(whole), Memory::of(whole));
        longer.promised -= 1;
        shorter.promised += 1;
        for payload in [wrong_at_the_end, longer, shorter] {
            let promised = payload.promised;
            let pieces = pieces_of(payload).await;
            let sent: u64 = pieces.iter().flatten().map(|piece| piece.len() as u64).sum();
            assert!(sent < promised);
            assert_eq!(pieces.last().unwrap().as_ref().unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
