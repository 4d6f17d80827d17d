//! Zstandard (RFC 8878), decoded as a stream.
//!
//! In: a reader of compressed bytes. Out: a reader of the decompressed bytes.
//!
//! Invariants:
//! - Memory is the largest window that the caller allows, briefly twice while it fills, and a block. A frame with a
//!   larger one is refused before anything is allocated for it.
//! - Frames may follow one another, with skippable ones among them. Nothing else may follow a frame.
//! - The size and the checksum in a frame are compared with the decompressed content. A stream that ends within a frame
//!   is an error of the kind [`io::ErrorKind::UnexpectedEof`].

use std::error::Error;
use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use xxhash_rust::xxh64::Xxh64;

/// Whether content with these first bytes begins with a Zstandard frame, or a skippable one, as written by parallel
/// compressors.
pub(crate) fn is_frame(first: &[u8]) -> bool {
    matches!(first, [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Reads the content of all frames of a stream. See the [module](self).
pub(crate) struct ZstdDecoder<R> {
    compressed: R,
    frames: FrameDecoder,
    /// The current frame; `None` between frames.
    content: Option<Content>,
}

/// The decompressed part of a frame.
struct Content {
    hash: Xxh64,
    bytes: u64,
}

impl<R: BufRead> ZstdDecoder<R> {
    /// Decodes frames with windows of at most `window_max` bytes.
    pub(crate) fn new(compressed: R, window_max: u64) -> Self {
        let mut frames = FrameDecoder::new();
        frames.set_max_window_size(window_max);
        Self { compressed, frames, content: None }
    }

    /// Reads up to the first block of the next frame with content. `false` at the end of the stream.
    fn begin_frame(&mut self) -> io::Result<bool> {
        while !self.compressed.fill_buf()?.is_empty() {
            match self.frames.reset(&mut self.compressed) {
                Ok(()) => {
                    self.content = Some(Content { hash: Xxh64::new(0), bytes: 0 });
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let mut skipped = self.compressed.by_ref().take(length.into());
                    if io::copy(&mut skipped, &mut io::sink())? < u64::from(length) {
                        return Err(cut_off());
                    }
                }
                Err(error) => return Err(in_frame(error)),
            }
        }
        Ok(false)
    }

    /// Compares the decompressed content with the size and checksum in the frame.
    fn end_frame(&mut self) -> io::Result<()> {
        let Some(content) = self.content.take() else { return Ok(()) };
        // The size is optional, and 0 if it is omitted.
        let bytes = self.frames.content_size();
        if bytes != 0 && bytes != content.bytes {
            return Err(damaged("its size is not that of its content"));
        }
        // The lower half of the hash, which is also optional.
        let hash = content.hash.digest() & u64::from(u32::MAX);
        if self.frames.get_checksum_from_data().is_some_and(|said| u64::from(said) != hash) {
            return Err(damaged("its checksum is not that of its content"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for ZstdDecoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(content) = &mut self.content {
                let read = self.frames.read(buffer)?;
                if read > 0 {
                    content.hash.update(&buffer[..read]);
                    content.bytes += read as u64;
                    return Ok(read);
                }
                if !self.frames.is_finished() {
                    let block = BlockDecodingStrategy::UptoBlocks(1);
                    self.frames.decode_blocks(&mut self.compressed, block).map_err(in_frame)?;
                    continue;
                }
            }
            self.end_frame()?;
            if !self.begin_frame()? {
                return Ok(0);
            }
        }
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a Zstandard frame is damaged: {why}"))
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends within a Zstandard frame")
}

/// The error for an error of the decoder: the reader's own if it caused it.
fn in_frame(error: FrameDecoderError) -> io::Error {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        match error.downcast_ref::<io::Error>() {
            Some(of_reader) if of_reader.kind() == io::ErrorKind::UnexpectedEof => return cut_off(),
            Some(of_reader) => return io::Error::new(of_reader.kind(), of_reader.to_string()),
            None => cause = error.source(),
        }
    }
    match error {
        FrameDecoderError::WindowSizeTooBig { requested, max } => io::Error::new(
            io::ErrorKind::Unsupported,
            format!("a Zstandard frame has a window of {requested} bytes, and at most {max} are decoded"),
        ),
        FrameDecoderError::DictNotProvided { .. } => {
            io::Error::new(io::ErrorKind::Unsupported, "a Zstandard frame needs a dictionary")
        }
        FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::BadMagicNumber(_)) => {
            io::Error::new(io::ErrorKind::InvalidData, "what follows a Zstandard frame is not one")
        }
        error => damaged(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write};

    use proptest::prelude::*;

    use super::*;

    const WINDOW_MAX: u64 = 8 << 20;

    /// A frame of the reference implementation.
    fn frame(content: &[u8], level: i32, checksum: bool) -> Vec<u8> {
        let mut encoder = ::zstd::Encoder::new(Vec::new(), level).unwrap();
        encoder.include_checksum(checksum).unwrap();
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn skippable(length: u8) -> Vec<u8> {
        let header = [0x53, 0x2a, 0x4d, 0x18, length, 0, 0, 0];
        [&header[..], &vec![0x28; length.into()]].concat()
    }

    fn decode(compressed: &[u8]) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        ZstdDecoder::new(compressed, WINDOW_MAX).read_to_end(&mut content)?;
        Ok(content)
    }

    fn lines() -> Vec<u8> {
        (0..500).flat_map(|number| format!("{{\"custom_id\":\"r-{number}\",\"body\":{{}}}}\n").into_bytes()).collect()
    }

    #[test]
    fn frames_and_skippable_ones_follow_one_another() {
        let lines = lines();
        let parts = [frame(&lines, 1, true), frame(b"", 3, true), frame(&lines, 19, false), frame(b"last\n", 3, false)];
        let compressed = [&skippable(0), &parts[0], &parts[1], &skippable(200), &parts[2], &parts[3], &skippable(1)];
        let compressed: Vec<u8> = compressed.into_iter().flatten().copied().collect();
        let content = [&lines[..], &lines, b"last\n"].concat();
        assert!(decode(&compressed).unwrap() == content);
        assert_eq!(decode(&skippable(3)).unwrap(), b"");
        assert_eq!(decode(b"").unwrap(), b"");
    }

    #[test]
    fn a_stream_that_is_cut_off_is_an_error() {
        let parts = [skippable(9), frame(&lines(), 3, true), frame(b"last\n", 3, false)];
        let compressed = parts.concat();
        let ends = [0, parts[0].len(), parts[0].len() + parts[1].len()];
        for end in (0..compressed.len()).filter(|end| !ends.contains(end)) {
            assert_eq!(decode(&compressed[..end]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "cut at {end}");
        }
    }

    #[test]
    fn damage_never_gives_other_content() {
        let lines = lines();
        let compressed = frame(&lines, 3, true);
        let mut found = 0;
        for place in 0..compressed.len() {
            let mut damaged = compressed.clone();
            damaged[place] ^= 0x10;
            // Not every bit matters; a larger window in the header, for example, does not.
            match decode(&damaged) {
                Ok(content) => assert!(content == lines, "changed at {place}"),
                Err(_) => found += 1,
            }
        }
        assert!(found > compressed.len() / 10 * 9, "{found} of {}", compressed.len());
        let followed = [&compressed[..], b"{\"custom_id\":"].concat();
        assert_eq!(decode(&followed).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_frame_with_a_larger_window_is_refused() {
        let with_window = |log: u32| {
            let mut encoder = ::zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(b"a\n").unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(decode(&with_window(23)).unwrap(), b"a\n");
        let error = decode(&with_window(24)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a Zstandard frame has a window of 16777216 bytes, and at most 8388608 are decoded"
        );
    }

    #[test]
    fn an_error_of_the_reader_stays_what_it_is() {
        struct Gone;
        impl Read for Gone {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::new(io::ErrorKind::ConnectionReset, "the cable is gone"))
            }
        }
        let compressed = frame(&lines(), 3, true);
        let broken = BufReader::new(compressed[..100].chain(Gone));
        let error = ZstdDecoder::new(broken, WINDOW_MAX).read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::ConnectionReset, "the cable is gone".to_owned()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_the_reference_wrote_comes_out(
            content in proptest::collection::vec(prop_oneof![Just(b'a'), Just(b'"'), any::<u8>()], 0..40_000),
            repeats in 1_usize..20,
            level in 1..20,
            checksum: bool,
            piece in 1_usize..5000,
        ) {
            let content = content.repeat(repeats);
            let compressed = frame(&content, level, checksum);
            let mut decoder = ZstdDecoder::new(BufReader::with_capacity(piece, &compressed[..]), WINDOW_MAX);
            let mut decoded = vec![0; content.len()];
            for piece in decoded.chunks_mut(piece) {
                decoder.read_exact(piece).unwrap();
            }
            prop_assert!(decoded == content);
            prop_assert_eq!(decoder.read(&mut [0]).unwrap(), 0);
        }
    }
}
