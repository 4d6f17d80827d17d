//! Chunks: the lines that start in a few neighbouring blocks of the Source, checked.
//!
//! In: the Source and the numbers of the blocks. Out: for each non-blank line, the data for the fold, and the Defects.
//!
//! Most CPU time is spent here. A reader's buffers are reused from block to block; valid lines need no allocation. A
//! block fits into a core's cache, a chunk is large enough to be passed between threads.

use std::borrow::Cow;
use std::convert::Infallible;

use super::InputError;
use super::check::{self, Fields, LineLimits};
use super::envelope::Lacks;
use super::grammar::RawFields;
use super::source::{Part, Source};
use crate::json::marks::Marks;
use crate::json::scanner::lines::each_line;
use crate::model::custom_id::IdHasher;
use crate::model::defect::{Defect, DefectKind};
use crate::storage::durable::FileError;
use crate::storage::line_hash::hash_line;
use crate::storage::lines;
use crate::storage::lines::{Block, Lines};

/// First bytes of UTF-16 text, little and big endian.
const UTF16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// Blocks in a chunk.
const CHUNK_BLOCKS: u64 = 16;

/// Bytes of a chunk, as far as its lines begin in them. The fold keeps eight bytes for each: 64 MiB for the largest
/// Source.
pub(crate) const CHUNK_BYTES: u64 = CHUNK_BLOCKS * lines::BLOCK_BYTES;

/// The data of a line for the fold, besides the hash of its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CheckedLine {
    /// Keyed hash of its id; 0 without one, or if it is not known yet.
    pub(crate) id_hash: u128,
    /// Offset in the Source of the part that is sent.
    pub(crate) offset: u64,
    /// Bytes of whitespace before that.
    pub(crate) indent: u32,
    /// Length of the part that is sent, without terminator and surrounding whitespace; 0 for a line too long to be held
    /// in memory.
    pub(crate) length: u32,
    /// Index into [`Chunk::models`]; `None` for a line with a Defect.
    pub(crate) model: Option<u32>,
    /// The fields that are added during the upload.
    pub(crate) lacks: Lacks,
    /// Its inputs, where they are counted.
    pub(crate) inputs: u32,
}

/// The lines that start in a chunk's blocks.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    /// The part of the Source that contains it.
    pub(crate) part: usize,
    /// The lines that are not blank, in order.
    pub(crate) checked: Vec<CheckedLine>,
    /// XXH3-64 of the part of each that is sent, little-endian; 0 for a line too long to be held in memory.
    pub(crate) line_hashes: Vec<[u8; 8]>,
    /// The same with the whitespace around the line, by index into [`Chunk::line_hashes`]; only for lines that have
    /// some.
    as_written: Vec<(usize, [u8; 8])>,
    /// The models that its requests ask for.
    pub(crate) models: Vec<String>,
    /// Defects with their line's number in the chunk, counted from 0, blank lines included.
    pub(crate) defects: Vec<(u64, Defect)>,
    /// Lines, blank ones included.
    pub(crate) lines: u64,
    /// Blank lines.
    pub(crate) blank: u64,
}

impl Chunk {
    /// The hashes of the lines with the whitespace around them.
    pub(crate) fn hashes_as_written(&self) -> Cow<'_, [[u8; 8]]> {
        let mut hashes = Cow::Borrowed(self.line_hashes.as_slice());
        for (place, hash) in &self.as_written {
            hashes.to_mut()[*place] = *hash;
        }
        hashes
    }

    /// Checks a line, given the raw values that the scanner found in it. The whitespace around it is not part of it.
    fn push_line(&mut self, whole: &[u8], start: u64, raw: Option<RawFields<'_>>, rules: &Rules) {
        let Rules { limits, ids } = rules;
        let (line, indent) = lines::trim_json_whitespace(whole);
        let line_hash = hash_line(line);
        if line.len() < whole.len() {
            self.as_written.push((self.line_hashes.len(), hash_line(whole).to_le_bytes()));
        }
        let checked = CheckedLine {
            id_hash: 0,
            offset: start + indent as u64,
            indent: narrow(indent),
            length: narrow(line.len()),
            model: None,
            lacks: limits.presumed(),
            inputs: 1,
        };
        let fields = raw.and_then(|raw| check::fields(raw, line, limits));
        match fields.map_or_else(|| check::diagnose(line, limits), Ok) {
            Ok(Fields { custom_id, model, lacks, inputs }) => {
                // An assigned id depends on the line's position in the whole input, which the fold knows.
                let id_hash = custom_id.map_or(0, |custom_id| ids.hash(&custom_id));
                let model = Some(self.model_number(&model));
                self.push(CheckedLine { id_hash, model, lacks, inputs, ..checked }, line_hash);
            }
            Err(defect) => {
                let column = defect.column + indent;
                self.push_defect(checked, line_hash, Defect { column, ..defect });
            }
        }
    }

    /// Checks what a line is, whatever it is. `line` is without its `\n`.
    fn push_any(&mut self, line: &[u8], start: u64, raw: Option<RawFields<'_>>, rules: &Rules) {
        let held = lines::without_carriage_return(line);
        if line.len() > rules.limits.held_bytes_max() {
            self.push_too_long(start, &rules.limits);
        } else if raw.is_none() && lines::is_blank(held) {
            self.blank += 1;
        } else {
            self.push_line(held, start, raw, rules);
        }
        self.lines += 1;
    }

    fn push_too_long(&mut self, offset: u64, limits: &LineLimits) {
        let kind = DefectKind::LineTooLong(limits.line_bytes);
        let lacks = limits.presumed();
        let line = CheckedLine { id_hash: 0, offset, indent: 0, length: 0, model: None, lacks, inputs: 1 };
        self.push_defect(line, 0, Defect { kind, column: 1, custom_id: None });
    }

    fn push_defect(&mut self, line: CheckedLine, line_hash: u64, defect: Defect) {
        self.defects.push((self.lines, defect));
        self.push(line, line_hash);
    }

    fn push(&mut self, line: CheckedLine, line_hash: u64) {
        self.checked.push(line);
        self.line_hashes.push(line_hash.to_le_bytes());
    }

    /// The number of a model. A chunk is too small to name more than `u32` can count.
    fn model_number(&mut self, model: &str) -> u32 {
        // The last model first: neighbouring lines usually have the same one.
        let known = self.models.iter().rposition(|known| known == model);
        let number = known.unwrap_or_else(|| {
            self.models.push(model.to_owned());
            self.models.len() - 1
        });
        u32::try_from(number).expect("a chunk holds fewer requests than u32 can count")
    }
}

const _: () = assert!(CHUNK_BYTES < u32::MAX as u64);

/// A number of bytes within a line. Lines that are held are shorter than a chunk.
fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What lines are checked by.
#[derive(Debug, Clone, Copy)]
struct Rules {
    limits: LineLimits,
    ids: IdHasher,
}

/// Reads and checks blocks; one for each thread.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    rules: Rules,
    block: Block,
    marks: Marks,
    /// Lines of the last chunk: about as many as the next one has.
    expected: usize,
}

impl ChunkReader {
    pub(crate) fn new(limits: LineLimits, ids: IdHasher) -> Self {
        Self { rules: Rules { limits, ids }, block: Block::default(), marks: Marks::default(), expected: 0 }
    }

    /// Reads chunk `number` of part `part` and checks its lines.
    pub(crate) fn read(&mut self, source: &Source, part: usize, number: u64) -> Result<Chunk, InputError> {
        let mut chunk = Chunk {
            part,
            checked: Vec::with_capacity(self.expected),
            line_hashes: Vec::with_capacity(self.expected),
            ..Chunk::default()
        };
        let place = &source.parts()[part];
        let first_block = number * CHUNK_BLOCKS;
        if is_utf16(place).map_err(|error| unreadable(place, error))? {
            return Ok(utf16_chunk(chunk, place, first_block));
        }
        for number in first_block..(first_block + CHUNK_BLOCKS).min(place.extent().blocks()) {
            self.read_block(place, &mut chunk, number)?;
        }
        self.expected = chunk.checked.len();
        Ok(chunk)
    }

    fn read_block(&mut self, place: &Part, chunk: &mut Chunk, number: u64) -> Result<(), InputError> {
        let extent = place.extent();
        let shrunk = |error| unreadable(place, error);
        let Self { rules, block, marks, .. } = self;
        block.read(&extent, number).map_err(shrunk)?;
        while let Some(lines) = block.next_lines(&extent, rules.limits.held_bytes_max()).map_err(shrunk)? {
            match lines {
                Lines::Whole { offset, lines } => {
                    let first = place.start + offset;
                    let Ok(()) = each_line(
                        lines,
                        marks,
                        |scanner| check::scan(scanner, &rules.limits),
                        |at, line, raw| {
                            chunk.push_any(line, first + at as u64, raw, rules);
                            Ok::<_, Infallible>(())
                        },
                    );
                }
                Lines::TooLong { offset } => {
                    chunk.push_too_long(place.start + offset, &rules.limits);
                    chunk.lines += 1;
                }
            }
        }
        Ok(())
    }
}

fn is_utf16(part: &Part) -> std::io::Result<bool> {
    let mut mark = [0; 2];
    if part.bytes < mark.len() as u64 {
        return Ok(false);
    }
    part.extent().file.read_exact_at(&mut mark, 0)?;
    Ok(UTF16_MARKS.contains(&mark.as_slice()))
}

/// UTF-16 cannot be framed by bytes: one Defect is reported for the whole file.
fn utf16_chunk(mut chunk: Chunk, part: &Part, first_block: u64) -> Chunk {
    if first_block == 0 {
        let (offset, lacks) = (part.start, Lacks::default());
        let line = CheckedLine { offset, id_hash: 0, indent: 0, length: 0, model: None, lacks, inputs: 1 };
        chunk.push_defect(line, 0, Defect { kind: DefectKind::Utf16, column: 1, custom_id: None });
        chunk.lines = 1;
    }
    chunk
}

fn unreadable(part: &Part, error: std::io::Error) -> InputError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => InputError::Shrunk { name: part.name.clone() },
        _ => FileError::on("read", &part.path)(error).into(),
    }
}
