//! Replies to a window of the output: one read from its file, or from memory, for each.
//!
//! In: Seqs. Out: their lines, in order. Memory is a window, and the files that
//! [`ReplyCache`](crate::results::reply_cache::ReplyCache) holds.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::ResultsError;
use super::reply_index::{LONG_BYTES, Slot};
use super::reply_text::ReplyText;
use super::window::{MISSING, MergeInputs, Merged, Sinks, Standing, Unanswered, Window};
use crate::dialect::ReplyNames;
use crate::dialect::reply_parts::Parts;
use crate::model::reply::ReplyKind;
use crate::results::normalize;
use crate::results::normalize::Shape;
use crate::storage::aligned::AlignedBuffer;
use crate::storage::durable::FileError;
use crate::storage::local_file::LocalFile;
use crate::storage::read_at::ReadAt;

/// A window with more bytes than this is copied line by line.
const WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The separator between an error and the body of its request.
const BODY: &[u8] = b",\"body\":";

/// Reply files that each thread keeps open.
const OPEN_FILES_MAX: usize = 16;

/// Reads replies; one for each thread.
pub(super) struct Gatherer<'m> {
    inputs: MergeInputs<'m>,
    open: BTreeMap<u32, OpenReplies>,
    /// A reply that is being normalized.
    reply: Vec<u8>,
}

struct OpenReplies {
    path: PathBuf,
    file: Arc<dyn ReadAt>,
    bytes: u64,
    /// All of it, for as long as this window lasts.
    held: Option<Arc<AlignedBuffer>>,
}

impl<'m> Gatherer<'m> {
    pub(super) fn new(inputs: MergeInputs<'m>) -> Self {
        Self { inputs, open: BTreeMap::new(), reply: Vec::new() }
    }

    pub(super) fn gather(&mut self, seqs: Range<u64>, split: bool) -> Result<Window, ResultsError> {
        let window = self.gather_window(seqs, split);
        // Release cached files, so that they can be evicted, and look up the others again.
        self.open.clear();
        window
    }

    fn gather_window(&mut self, seqs: Range<u64>, split: bool) -> Result<Window, ResultsError> {
        self.inputs.held.begin_window();
        let slots = self.inputs.replies.read(seqs.start, seqs.end - seqs.start)?;
        let bytes: u64 = slots.iter().flatten().map(|slot| slot.length.map_or(LONG_BYTES, u64::from) + 1).sum();
        let mut window =
            Window { outputs: Vec::new(), errors: Vec::new(), large: Vec::new(), merged: Merged::default() };
        let large = bytes > WINDOW_BYTES_MAX;
        if !large {
            window.outputs.reserve_exact(usize::try_from(bytes).unwrap_or(0));
        }
        let held = self.inputs.held_seqs.map(|held| held.read(seqs.clone())).transpose()?.unwrap_or_default();
        for (place, (seq, slot)) in seqs.zip(slots).enumerate() {
            let held_by = held.get(place).copied().flatten();
            // A reply of an earlier round is not the request's final outcome.
            let standing = Standing { slot: slot.filter(|_| held_by.is_none()), held_by };
            self.count(seq, standing, &mut window.merged)?;
            match standing.slot {
                _ if large => window.large.push((seq, standing)),
                Some(slot) if !slot.kind.is_error() => self.append_shaped(slot, &mut window.outputs)?,
                _ => {
                    let buffer = if split { &mut window.errors } else { &mut window.outputs };
                    self.append_failed(seq, standing, split, buffer)?;
                }
            }
        }
        Ok(window)
    }

    fn count(&self, seq: u64, standing: Standing, merged: &mut Merged) -> Result<(), ResultsError> {
        *match standing.slot.map(|slot| slot.kind) {
            Some(ReplyKind::Output) => &mut merged.outputs,
            Some(ReplyKind::Error | ReplyKind::Retryable) => &mut merged.errors,
            None if standing.held_by.is_some() => &mut merged.held,
            None if (self.inputs.unanswered)(seq, None)?.code == MISSING => &mut merged.missing,
            None => &mut merged.invalid,
        } += 1;
        Ok(())
    }

    /// Appends the line for a request without an output; with its `body` so that it can be sent again.
    fn append_failed(
        &mut self,
        seq: u64,
        Standing { slot, held_by }: Standing,
        with_body: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<(), ResultsError> {
        if let Some(slot) = slot {
            self.append_shaped(slot, buffer)?;
        } else {
            let unanswered = (self.inputs.unanswered)(seq, held_by)?;
            buffer.extend_from_slice(&synthetic_line(&unanswered, self.inputs.shape));
        }
        if with_body
            && buffer.ends_with(b"}\n")
            && let Some(body) = (self.inputs.body)(seq)?
        {
            buffer.truncate(buffer.len() - b"}\n".len());
            buffer.extend_from_slice(BODY);
            buffer.extend_from_slice(&body);
            buffer.extend_from_slice(b"}\n");
        }
        Ok(())
    }

    fn append_shaped(&mut self, slot: Slot, buffer: &mut Vec<u8>) -> Result<(), ResultsError> {
        if self.inputs.shape == Shape::Native {
            return self.append(slot, buffer);
        }
        let mut reply = std::mem::take(&mut self.reply);
        reply.clear();
        self.append(slot, &mut reply)?;
        let written = normalize::write_common(reply.trim_ascii_end(), slot.kind.is_error(), buffer);
        buffer.push(b'\n');
        self.reply = reply;
        written.ok_or(ResultsError::Damaged { number: slot.file, offset: slot.offset })
    }

    fn append(&mut self, slot: Slot, buffer: &mut Vec<u8>) -> Result<(), ResultsError> {
        let OpenReplies { path, file, bytes, held } = self.file(slot.file)?;
        let start = buffer.len();
        let length = slot.length.map_or(LONG_BYTES, u64::from);
        if slot.offset.saturating_add(length) > *bytes {
            return Err(damaged(slot));
        }
        let length = usize::try_from(length).map_err(|_| damaged(slot))?;
        if let Some(held) = held {
            let first = usize::try_from(slot.offset).unwrap_or(usize::MAX);
            buffer.extend_from_slice(&held[first..first + length]);
        } else {
            buffer.resize(start + length, 0);
            file.read_exact_at(&mut buffer[start..], slot.offset).map_err(FileError::on("read", path))?;
        }
        let reply = buffer[start..].trim_ascii();
        if !(reply.starts_with(b"{") && reply.ends_with(b"}")) {
            return Err(damaged(slot));
        }
        buffer.push(b'\n');
        Ok(())
    }

    /// Streams the line of a request of a window that is too large to be gathered. Returns its length; the line goes to
    /// `errors` only if there is no output.
    pub(super) fn copy(
        &mut self,
        seq: u64,
        Standing { slot, held_by }: Standing,
        sinks: &mut Sinks<'_>,
    ) -> Result<u64, ResultsError> {
        let failed = slot.is_none_or(|slot| slot.kind.is_error());
        let (sink, with_body) = match &mut sinks.errors {
            Some(errors) if failed => (&mut **errors, true),
            _ => (&mut *sinks.outputs, false),
        };
        let mut object = OpenObject { sink, bytes: 0, close: false };
        if let Some(slot) = slot {
            self.copy_shaped(slot, &mut object)?;
        } else {
            let line = synthetic_line(&(self.inputs.unanswered)(seq, held_by)?, self.inputs.shape);
            object.write_all(line.trim_ascii_end()).map_err(ResultsError::Output)?;
        }
        let body = if with_body { (self.inputs.body)(seq)? } else { None };
        object.close(body.as_deref()).map_err(ResultsError::Output)
    }

    fn copy_shaped(&mut self, slot: Slot, sink: &mut dyn Write) -> Result<(), ResultsError> {
        let OpenReplies { path, file, .. } = self.file(slot.file)?;
        let text = ReplyText::at(file.clone(), path, slot.offset, slot.length.map(u64::from))?;
        let text = text.map(ReplyText::object).transpose()?.flatten().ok_or_else(|| damaged(slot))?;
        match self.inputs.shape {
            Shape::Native => text.each_piece(|piece| sink.write_all(piece).map_err(ResultsError::Output)),
            Shape::Common => {
                let failed = slot.kind.is_error();
                let written =
                    text.ask(|reply| normalize::write_parts(&Parts::of(reply, &ReplyNames::COMMON)?, failed, sink))?;
                written.ok_or_else(|| damaged(slot))?.map_err(ResultsError::Output)
            }
        }
    }

    fn file(&mut self, number: u32) -> Result<&OpenReplies, ResultsError> {
        if !self.open.contains_key(&number) {
            if self.open.len() >= OPEN_FILES_MAX {
                self.open.pop_first();
            }
            let path = (self.inputs.path)(number)?;
            let file = LocalFile::open(&path)?;
            let bytes = file.size().map_err(FileError::on("read", &path))?;
            let held = self.inputs.held.content(number, &file, bytes).map_err(FileError::on("read", &path))?;
            self.open.insert(number, OpenReplies { path, file: Arc::new(file), bytes, held });
        }
        Ok(&self.open[&number])
    }
}

fn damaged(slot: Slot) -> ResultsError {
    ResultsError::Damaged { number: slot.file, offset: slot.offset }
}

/// An object that is being written to a sink; its last bracket is delayed for a member that may follow.
struct OpenObject<'s> {
    sink: &'s mut dyn Write,
    /// Bytes written so far.
    bytes: u64,
    /// Whether the last byte was a bracket, which is delayed.
    close: bool,
}

impl OpenObject<'_> {
    /// Adds the `body`, the last bracket and the terminator. Returns the total number of bytes.
    fn close(self, body: Option<&[u8]>) -> io::Result<u64> {
        let mut bytes = self.bytes + 1;
        if let Some(body) = body.filter(|_| self.close) {
            bytes += (BODY.len() + body.len()) as u64;
            self.sink.write_all(BODY)?;
            self.sink.write_all(body)?;
        }
        self.sink.write_all(if self.close { b"}\n" } else { b"\n" })?;
        Ok(bytes)
    }
}

impl Write for OpenObject<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let Some((last, before)) = piece.split_last() else { return Ok(0) };
        if self.close {
            self.sink.write_all(b"}")?;
        }
        self.close = *last == b'}';
        self.sink.write_all(if self.close { before } else { piece })?;
        self.bytes += piece.len() as u64;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// The line in place of a reply that does not exist.
fn synthetic_line(unanswered: &Unanswered, shape: Shape) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'u> {
        custom_id: Option<&'u str>,
        /// In the common shape there is one, and it is `null`.
        #[serde(skip_serializing_if = "Option::is_none")]
        response: Option<()>,
        error: LineError<'u>,
    }
    #[derive(Serialize)]
    struct LineError<'u> {
        code: &'u str,
        message: &'u str,
    }
    let Unanswered { custom_id, code, message } = unanswered;
    let response = (shape == Shape::Common).then_some(());
    let line = Line { custom_id: custom_id.as_deref(), response, error: LineError { code, message } };
    let mut bytes = serde_json::to_vec(&line).expect("strings always serialize");
    bytes.push(b'\n');
    bytes
}
