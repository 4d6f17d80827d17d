//! The bytes of a shard's batch file, read directly from the Source.
//!
//! In: a shard, the request index and the Source. Out: the shard's lines, each in its envelope and followed by one
//! `\n`.
//!
//! Invariants: the last bytes are returned only if everything read matches the checksum from packing. If the input has
//! changed since, the read fails before the shard is complete.

use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use super::envelope::Envelope;
use super::pack::ShardChecksum;
use super::request_index::{Record, RequestIndex};
use super::source::Source;
use crate::input::shard_lines::Members;
use crate::model::shard::Shard;
use crate::storage::aligned::AlignedBuffer;
use crate::storage::durable::FileError;
use crate::storage::line_hash::hash_line;

/// Size of the buffer in bytes. A longer line is held alone.
const GATHER_BYTES: usize = 256 * 1024;

/// Lines whose gap is at most this many bytes are read in one go.
const GAP_BYTES_MAX: u64 = 16 * 1024;

/// What an upload reads. See the [module](self).
#[derive(Debug)]
pub struct ShardReader {
    source: Arc<Source>,
    index: Arc<RequestIndex>,
    shard: Shard,
    envelope: Envelope,
    members: Members,
    /// The lines that come next, the first last.
    lines: Vec<(u64, Record)>,
    read: Vec<(u64, Record)>,
    all_read: bool,
    span: AlignedBuffer,
    /// Gathered lines, which are not contiguous in the Source or are modified during the upload.
    gathered: Vec<u8>,
    /// The lines of the span are uploaded verbatim, terminators included: the span is returned instead of the gathered
    /// lines.
    verbatim: bool,
    given: usize,
    checksum: ShardChecksum,
    requests: u64,
}

impl ShardReader {
    /// Starts at the shard's first line. Lists of Seqs are in the directory `lists`.
    pub fn open(source: Arc<Source>, index: Arc<RequestIndex>, shard: Shard, lists: &Path) -> Result<Self, FileError> {
        Ok(Self {
            members: Members::start(&shard, lists)?,
            source,
            index,
            shard,
            envelope: Envelope::default(),
            lines: Vec::new(),
            read: Vec::new(),
            all_read: false,
            span: AlignedBuffer::default(),
            gathered: Vec::new(),
            verbatim: false,
            given: 0,
            checksum: ShardChecksum::default(),
            requests: 0,
        })
    }

    /// The same, with the missing fields of `envelope` added to each line.
    #[must_use]
    pub fn with_envelope(self, envelope: Envelope) -> Self {
        Self { envelope, ..self }
    }

    /// Gathers the next lines; empty at the end.
    fn gather(&mut self) -> io::Result<()> {
        self.gathered.clear();
        (self.given, self.verbatim) = (0, false);
        while !self.verbatim && self.gathered.len() < GATHER_BYTES {
            if self.lines.is_empty() && !self.read_members()? {
                break;
            }
            self.read_span()?;
        }
        // Verified before the last lines are returned: an unverified shard must never be complete.
        if self.lines.is_empty() && !self.at_hand().is_empty() && !self.read_members()? {
            self.verify()?;
        }
        Ok(())
    }

    /// Fetches the next lines of the shard; false at the end.
    fn read_members(&mut self) -> io::Result<bool> {
        if !self.all_read {
            self.all_read = !self.members.read(&self.index, &mut self.read).map_err(|error| error.source)?;
            self.lines.extend(self.read.drain(..).rev());
        }
        Ok(!self.all_read)
    }

    /// Reads as many of the next lines as are close together, with one read.
    fn read_span(&mut self) -> io::Result<()> {
        let Some((_, first)) = self.lines.last().copied() else { return Ok(()) };
        let part = self.source.part_number(first.offset);
        let mut end = first.offset + u64::from(first.length);
        let mut count = 1;
        let mut in_a_row = first.lacks.is_nothing();
        for (_, next) in self.lines.iter().rev().skip(1) {
            let next_end = next.offset + u64::from(next.length);
            let near = next.offset.checked_sub(end).is_some_and(|gap| gap <= GAP_BYTES_MAX);
            if !near || next_end - first.offset > GATHER_BYTES as u64 || self.source.part_number(next.offset) != part {
                break;
            }
            in_a_row &= next.lacks.is_nothing() && next.offset == end + 1;
            end = next_end;
            count += 1;
        }
        let place = &self.source.parts()[part];
        let in_file = first.offset - place.start;
        // Include the terminator of the last line, if there is one.
        in_a_row &= self.gathered.is_empty() && end < place.start + place.bytes;
        end += u64::from(in_a_row);
        self.span.place(in_file, usize::try_from(end - first.offset).map_err(io::Error::other)?);
        self.source.read_at(first.offset, &mut self.span).map_err(|error| changed(&self.shard, error))?;
        self.verbatim = in_a_row && self.span.ends_with(b"\n");
        for _ in 0..count {
            let Some((seq, line)) = self.lines.pop() else { break };
            let start = usize::try_from(line.offset - first.offset).map_err(io::Error::other)?;
            let bytes = &self.span[start..start + line.length as usize];
            self.checksum.push(hash_line(bytes));
            self.requests += 1;
            if self.verbatim {
                // No checksum covers the bytes between the lines.
                if self.span.get(start + line.length as usize) != Some(&b'\n') {
                    return Err(changed(&self.shard, "a line does not end where it ended"));
                }
            } else {
                self.envelope.write(bytes, line.lacks, seq, &mut self.gathered);
                self.gathered.push(b'\n');
            }
        }
        Ok(())
    }

    /// The bytes that are ready to be returned.
    fn at_hand(&self) -> &[u8] {
        if self.verbatim { &self.span } else { &self.gathered }
    }

    fn verify(&self) -> io::Result<()> {
        if self.checksum.value() == self.shard.checksum && self.requests == self.shard.requests {
            return Ok(());
        }
        Err(changed(&self.shard, "its checksum is not the one taken when it was packed"))
    }
}

impl Read for ShardReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let gathered = self.fill_buf()?;
        let count = buffer.len().min(gathered.len());
        buffer[..count].copy_from_slice(&gathered[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for ShardReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.given == self.at_hand().len() {
            self.gather()?;
        }
        Ok(&self.at_hand()[self.given..])
    }

    fn consume(&mut self, count: usize) {
        self.given += count;
    }
}

/// The error of a changed input: `InvalidData`, which no upload retries.
pub(super) fn changed(shard: &Shard, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the input of shard {} has changed: {why}", shard.number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::check::LineLimits;
    use super::super::request_index::LineState;
    use super::super::scan::{ScanOptions, scan};
    use super::super::source::Input;
    use super::*;
    use crate::model::custom_id::IdHasher;
    use crate::model::custom_id::assigned_id;
    use crate::model::shard::ShardLimits;
    use crate::storage::durable;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Body-only lines are uploaded with their number and otherwise verbatim, whatever surrounds them, and the
        /// shards have the announced size.
        #[test]
        fn bare_lines_are_numbered_and_not_touched(
            parts in prop::collection::vec(("[ \t]{0,3}", "[a-z]{0,40}", "[ \t]{0,3}\r?", 0_usize..3, 0_usize..20), 1..200),
            full: bool, files in 1_usize..4, shard_bytes in 300_u64..4000,
        ) {
            let envelope = if full { Envelope::full("/v1/embeddings").unwrap() } else { Envelope::MINIMAL };
            let around = if full { r#""method":"POST","url":"/v1/embeddings","# } else { "" };
            let directory = tempfile::tempdir().unwrap();
            let (mut contents, mut wanted, mut number) = (vec![String::new(); files], Vec::new(), 0);
            for (place, (before, text, behind, model, kind)) in parts.iter().enumerate() {
                let body = format!(r#"{{"model": "m-{model}","input":"{text}","custom":{{"custom_id":1}}}}"#);
                let content = &mut contents[place * files / parts.len()];
                match kind {
                    0 => content.push_str(" \n"),
                    1 => {
                        number += 1;
                        content.push_str("{\"custom_id\":\"line-1\"}\n");
                    }
                    _ => {
                        number += 1;
                        content.extend([before, &body, behind, "\n"]);
                        wanted.push((format!("m-{model}"), format!(r#"{{"custom_id":"line-{number}",{around}"body":{body}}}"#)));
                    }
                }
            }
            let input = |(number, content): (usize, &String)| {
                let path = directory.path().join(number.to_string());
                durable::publish_bytes(&path, content.as_bytes()).unwrap();
                Input::File(path)
            };
            let inputs: Vec<Input> = contents.iter().enumerate().map(input).collect();
            let source = Arc::new(Source::open(&inputs, directory.path(), &|_| ()).unwrap());
            let ids = IdHasher { key: 5 };
            let options = ScanOptions {
                line: LineLimits { line_bytes: 299, custom_id_characters: 64, envelope, assign_ids: true, inputs: None },
                shard: ShardLimits { requests: 40, bytes: shard_bytes, inputs: None },
                threads: 2,
                memory_bytes: 0,
                ids,
                skip_invalid: true,
                scratch: directory.path().to_owned(),
            };
            let path = directory.path().join("requests.idx");
            let scanned = scan(&source, &options, Some(&path), &mut |_| Ok(false), &|_| ()).unwrap();
            prop_assert_eq!((scanned.requests, scanned.requests + scanned.defects), (wanted.len() as u64, number));
            let index = Arc::new(RequestIndex::open(&path).unwrap());
            let mut read = Vec::new();
            for shard in &scanned.shards {
                let mut text = String::new();
                let reader = ShardReader::open(source.clone(), index.clone(), shard.clone(), directory.path()).unwrap();
                reader.with_envelope(envelope).read_to_string(&mut text).unwrap();
                prop_assert!(text.len() as u64 == shard.bytes && shard.bytes <= shard_bytes);
                read.extend(text.lines().map(|line| (shard.model.clone(), line.to_owned())));
            }
            // Shards have one model each, and its lines in the order of the input.
            wanted.sort_by_key(|(model, _)| model.clone());
            read.sort_by_key(|(model, _)| model.clone());
            prop_assert_eq!(read, wanted);
            for seq in 0..number {
                let record = index.record(seq).unwrap();
                prop_assert_eq!(record.custom_id(seq, b""), Some(assigned_id(seq)));
                let is_request = record.state == LineState::Request;
                prop_assert_eq!(record.id_hash, if is_request { ids.hash(&assigned_id(seq)) } else { 0 });
            }
        }
    }
}
