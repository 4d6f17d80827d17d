//! Bodies that are cut short, slowed down or packed.
//!
//! In: a body. Out: a body. Invariants: pieces pass through one at a time, and are never gathered.

use std::io::{self, Write};
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use flate2::write::GzEncoder;
use flate2::{Compress, Compression, Crc, FlushCompress};
use futures::{StreamExt, future, stream};

use super::connection::{ConnectionHandle, Cut};

/// Zeros that one block of a gzip bomb stands for.
const BOMB_BLOCK_BYTES: u64 = 1 << 20;

/// A slow body has this many pieces a second, or fewer when it has fewer bytes a second.
const PIECES_PER_SECOND: u64 = 10;

/// A body whose pieces may be taken in part.
struct Pieces {
    stream: BodyDataStream,
    rest: Bytes,
}

impl Pieces {
    fn of(body: Body) -> Self {
        Self { stream: body.into_data_stream(), rest: Bytes::new() }
    }

    /// Makes sure that there is something to take.
    async fn fill(&mut self) -> Option<io::Result<()>> {
        while self.rest.is_empty() {
            match self.stream.next().await? {
                Ok(piece) => self.rest = piece,
                Err(error) => return Some(Err(io::Error::other(error))),
            }
        }
        Some(Ok(()))
    }

    /// The next piece, of at most `most` bytes.
    async fn next(&mut self, most: u64) -> Option<io::Result<Bytes>> {
        if let Err(error) = self.fill().await? {
            return Some(Err(error));
        }
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(self.rest.len());
        Some(Ok(self.rest.split_to(length)))
    }
}

/// The first `at` bytes, in good order.
pub(super) fn first(body: Body, at: u64) -> Body {
    limited(body, at, || Box::pin(future::ready(None)))
}

/// The first `at` bytes, and then the connection ends.
pub(super) fn break_off(body: Body, at: u64, connection: ConnectionHandle, how: Cut) -> Body {
    limited(body, at, move || {
        connection.cut_when_flushed(how);
        // hyper sends what it has while it waits for more; the cut comes right after that.
        Box::pin(future::pending())
    })
}

/// The first `at` bytes of an upload, and then the connection ends at once.
pub(super) fn break_off_upload(body: Body, at: u64, connection: ConnectionHandle, how: Cut) -> Body {
    limited(body, at, move || {
        connection.cut(how);
        Box::pin(future::ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))))
    })
}

type End = Pin<Box<dyn Future<Output = Option<io::Result<Bytes>>> + Send>>;

/// The first `at` bytes, and then what `end` gives; a body that has no more ends as it would.
fn limited(body: Body, at: u64, end: impl Fn() -> End + Send + 'static) -> Body {
    Body::from_stream(stream::unfold((Pieces::of(body), at, end), |(mut pieces, left, end)| async move {
        let piece = match pieces.fill().await? {
            Ok(()) if left == 0 => end().await?,
            Ok(()) => pieces.next(left).await?,
            Err(error) => Err(error),
        };
        let left = left.saturating_sub(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        Some((piece, (pieces, left, end)))
    }))
}

/// The whole body, after which the connection closes.
pub(super) fn close_at_end(body: Body, connection: ConnectionHandle) -> Body {
    Body::from_stream(stream::unfold((Pieces::of(body), connection), |(mut pieces, connection)| async move {
        let Some(piece) = pieces.next(u64::MAX).await else {
            connection.cut_when_flushed(Cut::Close);
            return future::pending().await;
        };
        Some((piece, (pieces, connection)))
    }))
}

/// The body at a rate.
pub(super) fn slow(body: Body, bytes_per_second: u64) -> Body {
    let pieces_per_second = bytes_per_second.clamp(1, PIECES_PER_SECOND);
    let most = bytes_per_second / pieces_per_second;
    let pause = Duration::from_secs(1) / u32::try_from(pieces_per_second).unwrap_or(1);
    Body::from_stream(stream::unfold(Pieces::of(body), move |mut pieces| async move {
        let piece = pieces.next(most.max(1)).await?;
        tokio::time::sleep(pause).await;
        Some((piece, pieces))
    }))
}

/// The body, with a pause after `at` bytes.
pub(super) fn hang(body: Body, at: u64, delay: Duration) -> Body {
    Body::from_stream(stream::unfold((Pieces::of(body), Some(at)), move |(mut pieces, mut left)| async move {
        if left == Some(0) {
            tokio::time::sleep(delay).await;
            left = None;
        }
        let piece = pieces.next(left.unwrap_or(u64::MAX)).await?;
        let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Some((piece, (pieces, left.map(|left| left.saturating_sub(length)))))
    }))
}

/// The body, compressed.
pub(super) fn gzip(body: Body) -> Body {
    let writer = GzEncoder::new(Vec::new(), Compression::fast());
    Body::from_stream(stream::unfold(Some((Pieces::of(body), writer)), |state| async move {
        let (mut pieces, mut writer) = state?;
        match pieces.next(u64::MAX).await {
            Some(Ok(piece)) => {
                let packed = writer.write_all(&piece).map(|()| std::mem::take(writer.get_mut()).into());
                Some((packed, Some((pieces, writer))))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((writer.finish().map(Bytes::from), None)),
        }
    }))
}

/// At least `bytes` zeros, compressed a thousandfold: one block of a mebibyte again and again.
pub(super) fn gzip_bomb(bytes: u64) -> Body {
    let zeros = vec![0; usize::try_from(BOMB_BLOCK_BYTES).unwrap_or(usize::MAX)];
    let mut block = Vec::with_capacity(zeros.len());
    // A full flush, so that the block stands for itself wherever it is put.
    let packed = Compress::new(Compression::best(), false).compress_vec(&zeros, &mut block, FlushCompress::Full);
    let mut crc = Crc::new();
    crc.update(&zeros);
    let (block, crc) = (Bytes::from(block), crc);
    let blocks = bytes.div_ceil(BOMB_BLOCK_BYTES);
    let begin = stream::iter([packed
        .map(|_| Bytes::from_static(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"))
        .map_err(io::Error::other)]);
    let middle = stream::iter(0..blocks).map(move |_| Ok(block.clone()));
    let end = stream::once(async move {
        let mut sum = Crc::new();
        (0..blocks).for_each(|_| sum.combine(&crc));
        // An empty last block of deflate, and the trailer of gzip.
        let trailer = [&b"\x03\x00"[..], &sum.sum().to_le_bytes(), &sum.amount().to_le_bytes()].concat();
        Ok::<_, io::Error>(Bytes::from(trailer))
    });
    Body::from_stream(begin.chain(middle).chain(end))
}
