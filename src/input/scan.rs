//! The single pass over the input: framing, checking, uniqueness, packing and the request index.
//!
//! In: a Source. Out: shards and a request index when all lines are requests, and every Defect with its place.
//!
//! Threads frame and check blocks independently; a cheap fold on the calling thread, in input order, counts lines,
//! assigns each line its Seq, passes requests to the packer and writes the index.
//!
//! Invariants: every non-blank line has exactly one Seq, whether it is a request or not, so output line N can answer
//! it. A line is a request, defective, or a duplicate, and the numbers of the three add up.

use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3Default;

use super::InputError;
use super::check::{self, LineLimits};
use super::chunk::{CHUNK_BYTES, CheckedLine, Chunk, ChunkReader};
use super::pack::{ModelNumber, Packer};
use super::request_index::{IndexWriter, LineState, Record};
use super::source::Source;
use super::unique::{Duplicate, SOURCE_BYTES_MAX, UniqueIds};
use crate::model::custom_id::IdHasher;
use crate::model::custom_id::assigned_id;
use crate::model::defect::{Defect, DefectKind, PlacedDefect};
use crate::model::shard::{Shard, ShardLimits};
use crate::storage::durable;
use crate::storage::ordered::in_order;

/// How to scan.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// The rules for lines.
    pub line: LineLimits,
    /// The limits of shards.
    pub shard: ShardLimits,
    /// Threads that check.
    pub threads: usize,
    /// Memory for the ids, in bytes; any more are written to a scratch file.
    pub memory_bytes: usize,
    /// Hashes the ids. Looking up ids in the index requires the same one.
    pub ids: IdHasher,
    /// Whether invalid lines are skipped.
    pub skip_invalid: bool,
    /// Directory for the scratch file.
    pub scratch: PathBuf,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Lines, blank ones included.
    pub lines: u64,
    /// Blank lines.
    pub blank: u64,
    /// Lines that are requests.
    pub requests: u64,
    /// Lines that are not, duplicates included.
    pub defects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// The shards, by number. With defects they are of use only when those were skipped.
    pub shards: Vec<Shard>,
    /// Hash of all non-blank lines, as they are sent: inputs with the same lines have the same hash, however they are
    /// stored.
    pub fingerprint: u128,
    /// The same over the lines with the whitespace around them, which earlier versions sent as part of them.
    pub fingerprint_as_written: u128,
}

impl Scan {
    /// Whether all lines are blank.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines == self.blank
    }
}

/// Receives the Defects as they are found: those of lines in input order, then the duplicates in input order. It
/// returns whether it wants more; any further ones are only counted, because locating a duplicate costs a read.
pub type Report<'r> = dyn FnMut(PlacedDefect) -> Result<bool, InputError> + 'r;

/// Scans the whole Source, and writes the request index to `index` if there is one.
///
/// `progress` is called with the bytes checked so far.
///
/// # Errors
/// When the Source cannot be read, a file cannot be written, or a limit of the scan itself is exceeded. Invalid lines
/// are not an error.
pub fn scan(
    source: &Source,
    options: &ScanOptions,
    index: Option<&Path>,
    report: &mut Report<'_>,
    progress: &dyn Fn(u64),
) -> Result<Scan, InputError> {
    if source.bytes() >= SOURCE_BYTES_MAX {
        return Err(InputError::SourceTooLarge { bytes: source.bytes() });
    }
    let mut pass = Pass::start(source, options, index, &[])?;
    pass.chunks(report, progress)?;
    let (mut scan, duplicates) = pass.finish(report)?;
    if options.skip_invalid && !duplicates.is_empty() {
        // The repeats were packed before they were known: pack again without them.
        let repeats: Vec<u64> = duplicates.iter().map(|duplicate| duplicate.repeat).collect();
        let mut again = Pass::start(source, options, index, &repeats)?;
        again.chunks(&mut |_| Ok(false), progress)?;
        let (without, _) = again.finish(&mut |_| Ok(false))?;
        scan = Scan { defects: scan.defects, ..without };
    }
    Ok(scan)
}

/// One pass over the Source.
struct Pass<'s> {
    source: &'s Source,
    options: &'s ScanOptions,
    /// Offsets of lines to omit, ascending.
    repeats: &'s [u64],
    index: Option<IndexWriter>,
    packer: Packer,
    unique: UniqueIds,
    fingerprint: Xxh3Default,
    fingerprint_as_written: Xxh3Default,
    scan: Scan,
    /// For each chunk, the number of the first line that starts in it, counted from 0 within its part.
    first_lines: Vec<u64>,
    /// For each part, the number of its first chunk; then the total number of chunks.
    first_chunks: Vec<u64>,
    /// The number of the next line in its part.
    next_line: u64,
    seq: u64,
}

impl<'s> Pass<'s> {
    fn start(
        source: &'s Source,
        options: &'s ScanOptions,
        index: Option<&Path>,
        repeats: &'s [u64],
    ) -> Result<Self, InputError> {
        let index = match index {
            Some(path) => {
                durable::remove_file(path)?;
                Some(IndexWriter::create(path)?)
            }
            None => None,
        };
        let mut first_chunks = vec![0];
        for part in source.parts() {
            let chunks = (part.extent().end - part.extent().start).div_ceil(CHUNK_BYTES);
            first_chunks.push(first_chunks[first_chunks.len() - 1] + chunks);
        }
        let bytes = source.bytes();
        Ok(Self {
            source,
            options,
            repeats,
            index,
            packer: Packer::new(options.shard),
            unique: UniqueIds::new(options.memory_bytes, &options.scratch, options.threads),
            fingerprint: Xxh3Default::new(),
            fingerprint_as_written: Xxh3Default::new(),
            scan: Scan { bytes, ..Scan::default() },
            first_lines: Vec::new(),
            first_chunks,
            next_line: 0,
            seq: 0,
        })
    }

    fn chunks(&mut self, report: &mut Report<'_>, progress: &dyn Fn(u64)) -> Result<(), InputError> {
        let (source, options) = (self.source, self.options);
        let first_chunks = self.first_chunks.clone();
        let mut done = 0;
        in_order(
            options.threads,
            first_chunks[first_chunks.len() - 1],
            || ChunkReader::new(options.line, options.ids),
            |reader, number| {
                let part = first_chunks.partition_point(|&first| first <= number) - 1;
                reader.read(source, part, number - first_chunks[part])
            },
            |chunk| {
                self.fold(chunk, report)?;
                done += CHUNK_BYTES;
                progress(done.min(source.bytes()));
                Ok(())
            },
        )
    }

    fn fold(&mut self, chunk: Chunk, report: &mut Report<'_>) -> Result<(), InputError> {
        if self.first_chunks[chunk.part] == self.first_lines.len() as u64 {
            self.next_line = 0;
        }
        self.first_lines.push(self.next_line);
        self.fingerprint.update(chunk.line_hashes.as_flattened());
        self.fingerprint_as_written.update(chunk.hashes_as_written().as_flattened());
        self.scan.defects += chunk.defects.len() as u64;
        for (line, defect) in chunk.defects {
            let file = self.source.parts()[chunk.part].name.clone();
            report(PlacedDefect { file, line: self.next_line + line + 1, defect })?;
        }
        self.next_line += chunk.lines;
        self.scan.lines += chunk.lines;
        self.scan.blank += chunk.blank;
        let models: Vec<ModelNumber> = chunk.models.iter().map(|name| self.packer.model(name)).collect();
        let lines = chunk.checked.iter().zip(&chunk.line_hashes);
        lines.into_iter().try_for_each(|(line, hash)| self.fold_line(line, u64::from_le_bytes(*hash), &models))
    }

    fn fold_line(&mut self, line: &CheckedLine, line_hash: u64, models: &[ModelNumber]) -> Result<(), InputError> {
        let CheckedLine { offset, indent, length, mut id_hash, model, lacks, inputs } = *line;
        // Line numbers are found from where a line starts, whitespace included.
        let start = offset - u64::from(indent);
        if lacks.id && model.is_some() {
            id_hash = self.options.ids.hash(&assigned_id(self.seq));
        }
        let mut record = Record { offset, length, shard: 0, state: LineState::Defective, id_hash, lacks };
        if let Some(model) = model {
            if self.repeats.first() == Some(&start) {
                self.repeats = &self.repeats[1..];
                record.state = LineState::Duplicate;
            } else {
                record.state = LineState::Request;
                let written = length.saturating_add(self.options.line.envelope.added_bytes(lacks, self.seq));
                record.shard = self.packer.push(self.seq, models[model as usize], (written, inputs), line_hash);
                self.scan.requests += 1;
                // An assigned id is unique.
                if !lacks.id {
                    self.unique.push(id_hash, start, &|offset| read_id(self.source, self.options, offset))?;
                }
            }
        }
        self.seq += 1;
        match &mut self.index {
            Some(index) => Ok(index.push(record)?),
            None => Ok(()),
        }
    }

    fn finish(self, report: &mut Report<'_>) -> Result<(Scan, Vec<Duplicate>), InputError> {
        let Self { source, options, unique, mut scan, first_lines, first_chunks, .. } = self;
        let duplicates = unique.finish(&|offset| read_id(source, options, offset))?;
        let places = Places { source, first_lines, first_chunks };
        for duplicate in &duplicates {
            if !report(places.describe(*duplicate, options)?)? {
                break;
            }
        }
        scan.defects += duplicates.len() as u64;
        scan.requests -= duplicates.len() as u64;
        scan.shards = self.packer.finish();
        scan.fingerprint = self.fingerprint.digest128();
        scan.fingerprint_as_written = self.fingerprint_as_written.digest128();
        if let Some(index) = self.index {
            index.finish()?;
        }
        Ok((scan, duplicates))
    }
}

/// Finds the line number of an offset.
struct Places<'s> {
    source: &'s Source,
    first_lines: Vec<u64>,
    first_chunks: Vec<u64>,
}

impl Places<'_> {
    fn describe(&self, duplicate: Duplicate, options: &ScanOptions) -> Result<PlacedDefect, InputError> {
        let (first_file, first_line) = self.place(duplicate.first)?;
        let (file, line) = self.place(duplicate.repeat)?;
        let text = self.source.read_line(duplicate.repeat, options.line.line_bytes + 1)?;
        let (custom_id, column) = check::custom_id(&text).ok_or(InputError::Changed { file: file.clone(), line })?;
        let kind = DefectKind::DuplicateCustomId(format!("{first_file}:{first_line}"));
        Ok(PlacedDefect { file, line, defect: Defect { kind, column, custom_id: Some(custom_id) } })
    }

    /// The file and the line, counted from 1, of the line that starts at `offset`.
    fn place(&self, offset: u64) -> Result<(String, u64), InputError> {
        let number = self.source.part_number(offset);
        let part = &self.source.parts()[number];
        let extent = part.extent();
        let chunk = (offset - part.start - extent.start) / CHUNK_BYTES;
        let mut from = part.start + extent.start + chunk * CHUNK_BYTES;
        let mut line = self.first_lines[position(self.first_chunks[number] + chunk)];
        let mut before = vec![0; position(offset - from)];
        self.source.read_at(from, &mut before)?;
        // A line that began in an earlier chunk is counted there; its end does not begin one here.
        let mut ends = memchr::memchr_iter(b'\n', &before).count() as u64;
        if chunk > 0 && ends > 0 {
            from -= 1;
            let mut last = [0];
            self.source.read_at(from, &mut last)?;
            ends -= u64::from(last != *b"\n");
        }
        line += ends;
        Ok((part.name.clone(), line + 1))
    }
}

fn read_id(source: &Source, options: &ScanOptions, offset: u64) -> Result<String, InputError> {
    let line = source.read_line(offset, options.line.line_bytes + 1)?;
    let place = || InputError::Shrunk { name: source.part_at(offset).name.clone() };
    check::custom_id(&line).map(|(custom_id, _)| custom_id).ok_or_else(place)
}

/// An index into a table that is in memory.
fn position(number: u64) -> usize {
    usize::try_from(number).expect("tables in memory are smaller than the address space")
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::envelope::Envelope;
    use super::super::request_index::RequestIndex;
    use super::super::shard_reader::ShardReader;
    use super::super::source::Input;
    use super::*;
    use crate::storage::local_file::LocalFile;

    fn options(scratch: &Path, memory_bytes: usize, skip_invalid: bool) -> ScanOptions {
        ScanOptions {
            line: LineLimits {
                line_bytes: 10_000_000,
                custom_id_characters: 64,
                envelope: Envelope::MINIMAL,
                assign_ids: false,
                inputs: None,
            },
            shard: ShardLimits { requests: 40, bytes: 10_001_000, inputs: None },
            threads: 3,
            memory_bytes,
            ids: IdHasher { key: 5 },
            skip_invalid,
            scratch: scratch.to_owned(),
        }
    }

    fn write(directory: &Path, name: &str, content: &[u8]) -> Input {
        let path = directory.join(name);
        durable::publish_bytes(&path, content).unwrap();
        Input::File(path)
    }

    #[test]
    fn defects_are_placed_by_file_and_line_and_duplicates_name_both() {
        let directory = tempfile::tempdir().unwrap();
        let good = |id: &str| format!(r#"{{"custom_id":"{id}","body":{{"model":"m"}}}}"#);
        let padding = " ".repeat(700_000);
        let first = format!("\u{feff}{}\r\n\n{padding}{}\n[1]\n{}", good("a"), good("b"), good("c"));
        let second = format!("{}\n{padding}\n{}\n{}\n", good("d"), good("b"), good("d"));
        let inputs = [write(directory.path(), "1", first.as_bytes()), write(directory.path(), "2", second.as_bytes())];
        let source = Source::open(&inputs, directory.path(), &|_| ()).unwrap();
        let mut found = Vec::new();
        let mut report = |defect: PlacedDefect| {
            let name = defect.file.chars().last().unwrap();
            found.push(format!("{name}:{}:{} {:?}", defect.line, defect.defect.column, defect.defect.kind));
            Ok(true)
        };
        let options = options(directory.path(), 1 << 20, false);
        let scan = scan(&source, &options, None, &mut report, &|_| ()).unwrap();
        let prefix = directory.path().display();
        assert_eq!(
            found,
            [
                "1:4:1 NotAnObject".to_owned(),
                format!("2:3:14 DuplicateCustomId(\"{prefix}/1:3\")"),
                format!("2:4:14 DuplicateCustomId(\"{prefix}/2:1\")"),
            ]
        );
        assert_eq!((scan.lines, scan.blank, scan.requests, scan.defects), (9, 2, 4, 3));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Lines of all kinds, in any number of files: the shards hold the requests, byte for byte, each once.
        #[test]
        fn shards_read_back_the_requests(
            kinds in prop::collection::vec((0_u8..12, prop_oneof![1_usize..60, 1000_usize..3000, Just(150_000)]), 0..400),
            files in 1_usize..4,
            memory_bytes in prop_oneof![Just(0_usize), Just(1 << 20)],
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut contents = vec![Vec::new(); files];
            let mut models: Vec<(String, Vec<String>)> = Vec::new();
            let mut valid = 0;
            for (number, (kind, length)) in kinds.iter().enumerate() {
                let content = &mut contents[number * files / kinds.len()];
                let model = format!("model-{}", kind % 3);
                let line = format!(r#"{{"custom_id":"id-{number}","body":{{"model":"{model}","x":"{}"}}}}"#, "y".repeat(*length));
                match kind {
                    9 => content.extend_from_slice(b"  \n"),
                    10 => content.extend_from_slice(b"{\"custom_id\":3}\n"),
                    11 if number > 0 && *length < 3000 => {
                        content.extend_from_slice(&b"{\"custom_id\":\"id-dup\",\"body\":{\"model\":\"model-0\"}}\n".repeat(2));
                    }
                    _ => {
                        valid += 1;
                        content.extend_from_slice(line.as_bytes());
                        content.extend_from_slice(if kind % 2 == 0 { b"\n" } else { b"\r\n" });
                        match models.iter_mut().find(|(known, _)| *known == model) {
                            Some((_, lines)) => lines.push(line),
                            None => models.push((model, vec![line])),
                        }
                    }
                }
            }
            let inputs: Vec<Input> =
                contents.iter().enumerate().map(|(n, content)| write(directory.path(), &n.to_string(), content)).collect();
            let source = Arc::new(Source::open(&inputs, directory.path(), &|_| ()).unwrap());
            let path = directory.path().join("requests.idx");
            let options = options(directory.path(), memory_bytes, true);
            let scan = scan(&source, &options, Some(&path), &mut |_| Ok(false), &|_| ()).unwrap();
            prop_assert!(scan.requests == valid || scan.requests == valid + 1);
            let index = Arc::new(RequestIndex::open(&path).unwrap());
            prop_assert_eq!(index.len(), scan.requests + scan.defects);
            let mut read: Vec<(String, Vec<String>)> = models.iter().map(|(model, _)| (model.clone(), Vec::new())).collect();
            for shard in &scan.shards {
                let mut text = String::new();
                ShardReader::open(source.clone(), index.clone(), shard.clone(), directory.path()).unwrap().read_to_string(&mut text).unwrap();
                prop_assert_eq!(text.len() as u64, shard.bytes);
                let lines = text.lines().filter(|line| !line.contains("id-dup")).map(str::to_owned);
                match read.iter_mut().find(|(model, _)| *model == shard.model) {
                    Some((_, known)) => known.extend(lines),
                    None => prop_assert!(lines.count() == 0),
                }
            }
            prop_assert_eq!(read, models);
        }
    }

    #[test]
    fn an_input_that_changed_is_not_read_to_its_end() {
        let line = |text: &str| format!("{{\"custom_id\":\"{text}\",\"body\":{{\"model\":\"m\"}}}}\n");
        let end = line("one").len() as u64 - 1;
        // A line, and what stands between two.
        for (at, change) in [(0, line("two").as_bytes()), (end, b" ")] {
            let directory = tempfile::tempdir().unwrap();
            let input = write(directory.path(), "in", (line("one") + &line("three")).as_bytes());
            let source = Arc::new(Source::open(std::slice::from_ref(&input), directory.path(), &|_| ()).unwrap());
            let path = directory.path().join("requests.idx");
            let options = options(directory.path(), 1 << 20, false);
            let scan = scan(&source, &options, Some(&path), &mut |_| Ok(false), &|_| ()).unwrap();
            let Input::File(file) = input else { unreachable!() };
            LocalFile::open_or_create(&file).unwrap().write_all_at(change, at).unwrap();
            let index = Arc::new(RequestIndex::open(&path).unwrap());
            let mut read = Vec::new();
            let error = ShardReader::open(source, index, scan.shards[0].clone(), directory.path())
                .unwrap()
                .read_to_end(&mut read)
                .unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
            assert!(read.is_empty());
        }
    }
}
