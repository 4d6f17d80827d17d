//! The content of a download: decompressed if necessary, and never an HTML page that a proxy sent instead.
//!
//! In: the received bytes, complete, in a file, and the response's content encoding. Out: the decompressed file,
//! complete and durable, or none at all.
//!
//! Invariants:
//! - Compression is never requested, but proxies and storage services use it: gzip and Zstandard are recognized by
//!   their magic numbers; Brotli, which has none, only by the response's header.
//! - Memory is bounded: windows of at most [`ZSTD_WINDOW_MAX`] bytes, and one buffer per layer.
//! - No more is written to disk than the size that the service reports, or [`UNPACKED_RATIO`] times the received bytes
//!   if it reports none.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use memchr::memmem;
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

use super::client::Http;
use crate::dialect::Dialect;
use crate::remote::error::{RemoteError, message_in};
use crate::storage::aligned::BlockWriter;
use crate::storage::durable;
use crate::storage::durable::{FileError, PendingFile};
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;
use crate::storage::zstd::{ZstdDecoder, is_frame as is_zstd};

/// Bytes that are read at a time.
const READ_BYTES: usize = 256 << 10;

/// Maximum layers of compression: enough for a proxy that compresses again, but not for a decompression bomb.
const LAYERS_MAX: usize = 2;

/// Largest window of a Zstandard frame that is unpacked, in bytes, as RFC 9659 has it for HTTP.
const ZSTD_WINDOW_MAX: u64 = 8 << 20;

/// Maximum factor by which the received bytes may grow if the size is unknown. Replies compress to a twentieth at best.
const UNPACKED_RATIO: u64 = 100;

/// Bytes that they may have in any case.
const UNPACKED_BYTES: u64 = 64 << 20;

/// Bytes of a page that are searched for its title.
const PAGE_BYTES: usize = 4 << 10;

/// What content is packed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstd,
    Brotli,
}

/// Why content is not that of the file.
#[derive(Debug)]
pub(super) enum Unfit {
    /// It is a page of HTML or XML, with this title or message.
    Page(String),
    /// It cannot be unpacked.
    Broken(io::Error),
    /// It is packed more often than anybody packs a file.
    TooDeep,
    /// It decompresses to more bytes than this.
    TooLarge(u64),
    /// It cannot be read or written here.
    Local(FileError),
}

impl From<FileError> for Unfit {
    fn from(error: FileError) -> Self {
        Self::Local(error)
    }
}

impl Packing {
    /// The content encoding of a response, by its headers. The error is an unknown encoding.
    pub(super) fn of_answer(headers: &HeaderMap) -> Result<Option<Self>, String> {
        let Some(value) = headers.get(CONTENT_ENCODING) else { return Ok(None) };
        let word = String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase();
        match word.as_str() {
            "" | "identity" => Ok(None),
            "gzip" | "x-gzip" => Ok(Some(Self::Gzip)),
            "zstd" => Ok(Some(Self::Zstd)),
            "br" => Ok(Some(Self::Brotli)),
            _ => Err(word),
        }
    }

    /// What content with these first bytes is packed in.
    fn of_content(first: &[u8]) -> Option<Self> {
        match first {
            // The magic number of RFC 1952.
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            _ => is_zstd(first).then_some(Self::Zstd),
        }
    }

    fn unpack(self, packed: Box<dyn BufRead>) -> Box<dyn BufRead> {
        match self {
            Self::Gzip => {
                let reader = flate2::bufread::MultiGzDecoder::new(packed);
                Box::new(BufReader::with_capacity(READ_BYTES, reader))
            }
            Self::Zstd => {
                let reader = ZstdDecoder::new(packed, ZSTD_WINDOW_MAX);
                Box::new(BufReader::with_capacity(READ_BYTES, reader))
            }
            Self::Brotli => {
                let reader = brotli_decompressor::Decompressor::new(packed, READ_BYTES);
                Box::new(BufReader::with_capacity(READ_BYTES, reader))
            }
        }
    }
}

/// Whether the content at `path` is packed.
pub(super) fn is_packed(path: &Path, said: Option<Packing>) -> Result<bool, FileError> {
    let file = LocalFile::open(path)?;
    let mut content = BufReader::with_capacity(READ_BYTES, file);
    let first = content.fill_buf().map_err(FileError::on("read", path))?;
    Ok(outermost(first, said).is_some())
}

/// What the content with these first bytes is packed in. A header that speaks of gzip where there is none is one that
/// outlived it.
fn outermost(first: &[u8], said: Option<Packing>) -> Option<Packing> {
    if said == Some(Packing::Brotli) && !first.is_empty() { said } else { Packing::of_content(first) }
}

/// Maximum decompressed size of `packed` bytes, of a file whose size is `said` according to the service.
pub(super) fn unpacked_max(packed: u64, said: Option<u64>) -> u64 {
    // A reported size equal to the received bytes is that of a file stored compressed, which says nothing of what is in
    // it.
    said.filter(|said| *said != packed).unwrap_or_else(|| packed.saturating_mul(UNPACKED_RATIO).max(UNPACKED_BYTES))
}

/// The size of a file according to the service, in bytes; `None` if unknown. 0 counts as unknown, because services that
/// do not track sizes report 0.
pub(super) async fn said_bytes(http: &Http, dialect: &dyn Dialect, file_id: &str) -> Result<Option<u64>, RemoteError> {
    let Some(route) = &dialect.routes().file else { return Ok(None) };
    let file = http.call(route, file_id, |request| request).await?.successful().await?.file("status").await?;
    let is_it = file.id.as_ref().is_none_or(|id| id == file_id);
    Ok(file.bytes.filter(|bytes| is_it && *bytes > 0))
}

/// Gives the content at `path`, which is not packed and has replies that name their requests by `id_member`, the name
/// `target`. Returns its size.
pub(super) fn publish(path: &Path, id_member: &str, target: &Path) -> Result<u64, Unfit> {
    let file = LocalFile::open(path)?;
    let bytes = file.size().map_err(FileError::on("read", path))?;
    let mut content = BufReader::with_capacity(READ_BYTES, file);
    let mut look = Look::of(id_member);
    while !look.is_done() {
        let piece = content.fill_buf().map_err(FileError::on("read", path))?;
        let read = piece.len();
        if read == 0 {
            break;
        }
        look.at(piece);
        content.consume(read);
    }
    look.judge()?;
    durable::publish(path, target)?;
    Ok(bytes)
}

/// Unpacks the content at `path`, at most `max` bytes, and publishes it as `target`. Returns its size.
pub(super) fn unpack(
    path: &Path,
    said: Option<Packing>,
    max: u64,
    id_member: &str,
    target: &Path,
) -> Result<u64, Unfit> {
    let file = LocalFile::open(path)?;
    let mut content: Box<dyn BufRead> = Box::new(BufReader::with_capacity(READ_BYTES, file));
    for layer in 0.. {
        let first = content.fill_buf().map_err(Unfit::Broken)?;
        let packing = if layer == 0 { outermost(first, said) } else { Packing::of_content(first) };
        let Some(packing) = packing else { break };
        if layer == LAYERS_MAX {
            return Err(Unfit::TooDeep);
        }
        content = packing.unpack(content);
    }
    let mut look = Look::of(id_member);
    let mut pending = BlockWriter::new(PendingFile::create(target)?);
    let mut bytes = 0;
    loop {
        let piece = content.fill_buf().map_err(Unfit::Broken)?;
        let read = piece.len();
        if read == 0 {
            break;
        }
        bytes += read as u64;
        if bytes > max {
            return Err(Unfit::TooLarge(max));
        }
        look.at(piece);
        pending.write_all(piece).map_err(FileError::on("write", target))?;
        content.consume(read);
    }
    look.judge()?;
    pending.into_inner().map_err(FileError::on("write", target))?.publish()?;
    Ok(bytes)
}

/// Detects whether content is a page instead of replies: it begins as one, and contains no reply. A service may have
/// written a page of its own into a file among replies that were paid for.
#[derive(Default)]
struct Look {
    /// What every reply has, and no page.
    in_a_reply: Vec<u8>,
    begun: bool,
    /// The beginning of what begins as a page.
    page: Option<Vec<u8>>,
    has_replies: bool,
    /// The last bytes of the piece before.
    tail: Vec<u8>,
}

impl Look {
    /// Of content whose replies name their requests by this member.
    fn of(id_member: &str) -> Self {
        Self { in_a_reply: format!("\"{id_member}\"").into_bytes(), ..Self::default() }
    }

    fn at(&mut self, piece: &[u8]) {
        let text = piece.strip_prefix(b"\xef\xbb\xbf").filter(|_| !self.begun).unwrap_or(piece).trim_ascii_start();
        if !self.begun && !text.is_empty() {
            self.begun = true;
            self.page = text.starts_with(b"<").then(|| text[..text.len().min(PAGE_BYTES)].to_vec());
        }
        if self.page.is_some() && !self.has_replies {
            self.tail.extend_from_slice(piece);
            self.has_replies = memmem::find(&self.tail, &self.in_a_reply).is_some();
            let kept = self.tail.len().saturating_sub(self.in_a_reply.len() - 1);
            self.tail.drain(..kept);
        }
    }

    /// Whether more of the content would change nothing.
    fn is_done(&self) -> bool {
        self.begun && (self.page.is_none() || self.has_replies)
    }

    fn judge(self) -> Result<(), Unfit> {
        match self.page {
            Some(page) if !self.has_replies => Err(Unfit::Page(message_in(&page))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const REPLY: &[u8] = b"{\"custom_id\":\"a\",\"response\":{\"status_code\":200,\"body\":{}}}\n";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut packed).unwrap();
        packed
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 1).unwrap()
    }

    /// Blocks of bytes as they are, which is Brotli, too (RFC 7932, section 9.2).
    fn brotli(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        for (number, block) in bytes.chunks(1 << 16).enumerate() {
            // Window bits 16 in the first block; not the last, four nibbles of length, as it is.
            let length = u32::try_from(block.len() - 1).unwrap();
            let header = (length << 3) | (1 << 19);
            let shift = u32::from(number == 0);
            packed.extend_from_slice(&(header << shift).to_le_bytes()[..3]);
            packed.extend_from_slice(block);
        }
        packed.push(3);
        packed
    }

    /// What becomes of content: its bytes as published, or why not.
    fn settle(content: &[u8], said: Option<Packing>, max: u64) -> Result<Vec<u8>, Unfit> {
        let directory = tempfile::tempdir().unwrap();
        let (path, target) = (directory.path().join("x.part"), directory.path().join("x"));
        durable::publish_bytes(&path, content).unwrap();
        let packed = is_packed(&path, said).unwrap();
        let settled =
            if packed { unpack(&path, said, max, "custom_id", &target) } else { publish(&path, "custom_id", &target) };
        let names = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(target.exists(), settled.is_ok());
        assert!(names <= 2, "only what came and what it stands for may be left");
        let bytes = settled?;
        let content = std::fs::read(&target).unwrap();
        assert_eq!(content.len() as u64, bytes);
        Ok(content)
    }

    #[test]
    fn every_supported_compression_is_unpacked() {
        use Packing::{Brotli, Gzip, Zstd};
        let file: Vec<u8> = REPLY.repeat(20_000);
        let max = file.len() as u64;
        for (content, said) in [
            (file.clone(), None),
            // A header that outlived what it spoke of.
            (file.clone(), Some(Gzip)),
            (file.clone(), Some(Zstd)),
            (gzip(&file), None),
            (gzip(&file), Some(Gzip)),
            ([gzip(&file[..1000]), gzip(&file[1000..])].concat(), Some(Gzip)),
            (gzip(&gzip(&file)), Some(Gzip)),
            (zstd(&file), None),
            (zstd(&file), Some(Zstd)),
            (zstd(&gzip(&file)), Some(Zstd)),
            (brotli(&file), Some(Brotli)),
            (brotli(&gzip(&file)), Some(Brotli)),
        ] {
            assert!(settle(&content, said, max).unwrap() == file, "{said:?}, {} bytes", content.len());
        }
        assert_eq!(settle(b"", Some(Brotli), 0).unwrap(), b"");
        assert_eq!(settle(b"", None, 0).unwrap(), b"");
    }

    #[test]
    fn what_is_no_file_of_replies_is_never_published() {
        let page = b" \r\n<html><head><title>502 Bad Gateway</title></head></html>".as_slice();
        for content in [page, b"\xef\xbb\xbf<?xml version=\"1.0\"?><Error/>", &gzip(page), &b"<".repeat(3 * READ_BYTES)]
        {
            assert!(matches!(settle(content, None, u64::MAX), Err(Unfit::Page(_))));
        }
        let titled = settle(page, None, 0).unwrap_err();
        assert!(matches!(titled, Unfit::Page(text) if text.contains("502 Bad Gateway")));
        // A page among replies that were paid for is one more unmatched line.
        let mixed = [b"<html>\n".as_slice(), &b" ".repeat(READ_BYTES - 10), REPLY].concat();
        assert_eq!(settle(&mixed, None, 0).unwrap(), mixed);
        assert_eq!(settle(&gzip(&mixed), None, u64::MAX).unwrap(), mixed);
    }

    #[test]
    fn corrupt_compressed_content_is_never_published() {
        let file = REPLY.repeat(2000);
        for (packed, said) in [(gzip(&file), None), (zstd(&file), None), (brotli(&file), Some(Packing::Brotli))] {
            for cut in [5, packed.len() / 2, packed.len() - 1] {
                assert!(settle(&packed[..cut], said, u64::MAX).is_err(), "{said:?} cut at {cut}");
            }
        }
        let mut changed = gzip(&file);
        let middle = changed.len() / 2;
        changed[middle] ^= 0x10;
        assert!(settle(&changed, None, u64::MAX).is_err());
        assert!(matches!(settle(&gzip(&gzip(&gzip(&file))), None, u64::MAX), Err(Unfit::TooDeep)));
    }

    #[test]
    fn unpacking_is_limited_by_the_reported_size() {
        let file = REPLY.repeat(20_000);
        let max = file.len() as u64;
        for packed in [gzip(&file), zstd(&file)] {
            assert!(settle(&packed, None, max).is_ok());
            assert!(matches!(settle(&packed, None, max - 1), Err(Unfit::TooLarge(_))));
            assert_eq!(unpacked_max(packed.len() as u64, Some(max)), max);
        }
        assert_eq!(unpacked_max(1000, None), UNPACKED_BYTES);
        assert_eq!(unpacked_max(1 << 30, None), (1 << 30) * UNPACKED_RATIO);
        assert_eq!(unpacked_max(1 << 30, Some(1 << 30)), (1 << 30) * UNPACKED_RATIO, "it is packed at the service");
    }

    #[test]
    fn words_for_packing_are_known_or_refused() {
        let of = |word: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, word.parse().unwrap());
            Packing::of_answer(&headers)
        };
        assert_eq!(Packing::of_answer(&HeaderMap::new()), Ok(None));
        for (word, packing) in [
            ("identity", None),
            ("GZIP", Some(Packing::Gzip)),
            ("x-gzip", Some(Packing::Gzip)),
            ("zstd", Some(Packing::Zstd)),
            (" br ", Some(Packing::Brotli)),
        ] {
            assert_eq!(of(word), Ok(packing), "{word}");
        }
        for word in ["deflate", "gzip, br", "compress"] {
            assert_eq!(of(word), Err(word.to_owned()));
        }
    }
}
