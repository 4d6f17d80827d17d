//! The lines of a shard one by one, each read where it is in the Source.
//!
//! In: a shard, the request index and the Source. Out: any of its lines, in its envelope, without a line end.
//!
//! Invariants: the whole shard is read first and compared with the checksum from packing; each line that is returned is
//! compared with its hash from that read. Memory is 16 bytes per line.

use std::io::{self, BufRead};
use std::path::Path;
use std::sync::Arc;

use super::envelope::Envelope;
use super::request_index::RequestIndex;
use super::shard_lines::Members;
use super::shard_reader::{ShardReader, changed};
use super::source::Source;
use crate::model::shard::Shard;
use crate::storage::line_hash::hash_line;

/// See the [module](self).
#[derive(Debug)]
pub struct LineTable {
    source: Arc<Source>,
    index: Arc<RequestIndex>,
    shard: Shard,
    envelope: Envelope,
    /// The Seq of each line, and the hash of the line in its envelope.
    lines: Vec<(u64, u64)>,
}

impl LineTable {
    /// Reads a shard through. Lists of Seqs are in the directory `lists`.
    ///
    /// # Errors
    /// `InvalidData` if the input has changed since it was packed.
    pub fn read(
        source: Arc<Source>,
        index: Arc<RequestIndex>,
        shard: &Shard,
        envelope: Envelope,
        lists: &Path,
    ) -> io::Result<Self> {
        let reader = ShardReader::open(source.clone(), index.clone(), shard.clone(), lists);
        let mut reader = reader.map_err(|error| error.source)?.with_envelope(envelope);
        let mut members = Members::start(shard, lists).map_err(|error| error.source)?;
        let (mut lines, mut some, mut line) = (Vec::new(), Vec::new(), Vec::new());
        while members.read(&index, &mut some).map_err(|error| error.source)? {
            for (seq, _) in &some {
                line.clear();
                reader.read_until(b'\n', &mut line)?;
                lines.push((*seq, hash_line(line.strip_suffix(b"\n").unwrap_or(&line))));
            }
        }
        // The shard is verified only if its reader reaches the end.
        if !reader.fill_buf()?.is_empty() {
            return Err(changed(shard, "it has more lines"));
        }
        Ok(Self { source, index, shard: shard.clone(), envelope, lines })
    }

    /// How many lines there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.lines.len() as u64
    }

    /// Reads a line, by its place in the shard from 0, in place of what is in `line`.
    ///
    /// # Errors
    /// `InvalidData` if it has changed.
    pub fn line(&self, number: u64, line: &mut Vec<u8>) -> io::Result<()> {
        let known = usize::try_from(number).ok().and_then(|number| self.lines.get(number));
        let (seq, hash) = *known.ok_or(io::ErrorKind::UnexpectedEof)?;
        let record = self.index.record(seq).map_err(|error| error.source)?;
        let mut bytes = vec![0; record.length as usize];
        self.source.read_at(record.offset, &mut bytes).map_err(|error| changed(&self.shard, error))?;
        line.clear();
        self.envelope.write(&bytes, record.lacks, seq, line);
        if hash_line(line) != hash {
            return Err(changed(&self.shard, format_args!("line {} of the shard is another one", number + 1)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::LineLimits;
    use super::super::scan::{ScanOptions, scan};
    use super::super::source::Input;
    use super::*;
    use crate::model::custom_id::IdHasher;
    use crate::model::shard::ShardLimits;
    use crate::storage::durable;

    #[test]
    fn lines_are_those_that_go_up_and_one_that_has_changed_is_not_given_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in.jsonl");
        let line = |n| format!("{{\"custom_id\":\"{n}\",\"body\":{{\"model\":\"m-{}\"}}}}\r\n\n", n % 2);
        let text = (0..50).map(line).collect::<Vec<_>>().concat();
        durable::publish_bytes(&path, text.as_bytes()).unwrap();
        let source = Arc::new(Source::open(&[Input::File(path.clone())], directory.path(), &|_| ()).unwrap());
        let envelope = Envelope::full("/v1/embeddings").unwrap();
        let options = ScanOptions {
            line: LineLimits { line_bytes: 300, custom_id_characters: 64, envelope, assign_ids: false, inputs: None },
            shard: ShardLimits { requests: 20, bytes: 9_000, inputs: None },
            threads: 1,
            memory_bytes: 1 << 20,
            ids: IdHasher { key: 5 },
            skip_invalid: false,
            scratch: directory.path().to_owned(),
        };
        let requests = directory.path().join("requests.idx");
        let shards = scan(&source, &options, Some(&requests), &mut |_| Ok(false), &|_| ()).unwrap().shards;
        let index = Arc::new(RequestIndex::open(&requests).unwrap());
        assert_eq!(shards.len(), 4);
        let table = |shard| LineTable::read(source.clone(), index.clone(), shard, envelope, directory.path());
        for shard in &shards {
            let table = table(shard).unwrap();
            let reader = ShardReader::open(source.clone(), index.clone(), shard.clone(), directory.path()).unwrap();
            let lines: Vec<_> = reader.with_envelope(envelope).split(b'\n').map(Result::unwrap).collect();
            let mut line = Vec::new();
            for (number, wanted) in lines.iter().enumerate().rev() {
                table.line(number as u64, &mut line).unwrap();
                assert_eq!(line, *wanted);
            }
            assert_eq!((table.count(), table.line(table.count(), &mut line).is_err()), (lines.len() as u64, true));
        }
        let known = table(&shards[0]).unwrap();
        durable::publish_bytes(&directory.path().join("other"), text.replace("m-0", "M-0").as_bytes()).unwrap();
        std::io::copy(
            &mut std::fs::File::open(directory.path().join("other")).unwrap(),
            &mut durable::open_or_create(&path).unwrap(),
        )
        .unwrap();
        for error in [known.line(0, &mut Vec::new()).unwrap_err(), table(&shards[0]).unwrap_err()] {
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }
}
