//! Replies to a window of the output: one read from its file, or from memory, for each.
//!
//! In: Seqs. Out: their lines, in order. Memory is a window, and the files that [`Held`](super::held::Held) holds.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::ResultsError;
use super::merge::{MISSING, MergeInputs, Merged, Unanswered, Window};
use super::reply::ReplyKind;
use super::reply_index::Slot;
use super::shape::{self, Shape};
use crate::aligned::AlignedBuffer;
use crate::durable::FileError;

/// A window with more bytes than this is copied line by line.
const WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Bytes of a huge reply that are copied at a time.
const COPY_BYTES: u64 = 1024 * 1024;

/// Reply files that each thread keeps open.
const OPEN_FILES_MAX: usize = 16;

/// Reads replies; one for each thread.
pub(super) struct Gatherer<'m> {
    inputs: MergeInputs<'m>,
    open: BTreeMap<u32, OpenReplies>,
    /// A reply on its way to another shape.
    reply: Vec<u8>,
}

struct OpenReplies {
    path: PathBuf,
    file: File,
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
        // What is held is let go, so that it can make room, and what was not may be by now.
        self.open.clear();
        window
    }

    fn gather_window(&mut self, seqs: Range<u64>, split: bool) -> Result<Window, ResultsError> {
        self.inputs.held.begin_window();
        let slots = self.inputs.replies.read(seqs.start, seqs.end - seqs.start)?;
        let bytes: u64 = slots.iter().flatten().map(|slot| u64::from(slot.length) + 1).sum();
        let mut window =
            Window { outputs: Vec::new(), errors: Vec::new(), large: Vec::new(), merged: Merged::default() };
        let large = bytes > WINDOW_BYTES_MAX;
        if !large {
            window.outputs.reserve_exact(usize::try_from(bytes).unwrap_or(0));
        }
        for (seq, slot) in seqs.zip(slots) {
            match slot.map(|slot| slot.kind) {
                Some(ReplyKind::Output) => window.merged.outputs += 1,
                Some(ReplyKind::Error | ReplyKind::Retryable) => window.merged.errors += 1,
                None if (self.inputs.unanswered)(seq)?.code == MISSING => window.merged.missing += 1,
                None => window.merged.invalid += 1,
            }
            match slot {
                _ if large => window.large.push((seq, slot)),
                Some(slot) if !slot.kind.is_error() => self.append_shaped(slot, &mut window.outputs)?,
                slot => {
                    let buffer = if split { &mut window.errors } else { &mut window.outputs };
                    self.append_failed(seq, slot, split, buffer)?;
                }
            }
        }
        Ok(window)
    }

    /// Appends what stands for a request without an output; with its `body` if it is to be sent again one day.
    pub(super) fn append_failed(
        &mut self,
        seq: u64,
        slot: Option<Slot>,
        with_body: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<(), ResultsError> {
        match slot {
            Some(slot) => self.append_shaped(slot, buffer)?,
            None => buffer.extend_from_slice(&synthetic_line(&(self.inputs.unanswered)(seq)?, self.inputs.shape)),
        }
        if with_body
            && buffer.ends_with(b"}\n")
            && let Some(body) = (self.inputs.body)(seq)?
        {
            buffer.truncate(buffer.len() - b"}\n".len());
            buffer.extend_from_slice(b",\"body\":");
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
        let written = shape::write_common(reply.trim_ascii_end(), slot.kind.is_error(), buffer);
        buffer.push(b'\n');
        self.reply = reply;
        written.ok_or(ResultsError::Damaged { number: slot.file, offset: slot.offset })
    }

    fn append(&mut self, slot: Slot, buffer: &mut Vec<u8>) -> Result<(), ResultsError> {
        let OpenReplies { path, file, bytes, held } = self.file(slot.file)?;
        let start = buffer.len();
        // The line end comes along: a slot that does not lead to one is damaged.
        let end = slot.offset + u64::from(slot.length);
        if end > *bytes {
            return Err(ResultsError::Damaged { number: slot.file, offset: slot.offset });
        }
        let length = slot.length as usize + usize::from(end < *bytes);
        if let Some(held) = held {
            let first = usize::try_from(slot.offset).unwrap_or(usize::MAX);
            buffer.extend_from_slice(&held[first..first + length]);
        } else {
            buffer.resize(start + length, 0);
            file.read_exact_at(&mut buffer[start..], slot.offset).map_err(FileError::on("read", path))?;
        }
        if end >= *bytes {
            buffer.push(b'\n');
        } else if buffer.ends_with(b"\r") {
            buffer.pop();
            buffer.push(b'\n');
        } else if !buffer.ends_with(b"\n") {
            return Err(ResultsError::Damaged { number: slot.file, offset: slot.offset });
        }
        Ok(())
    }

    /// Copies a reply, with little of it in memory unless it has to change its shape.
    pub(super) fn copy(&mut self, slot: Slot, sink: &mut dyn Write) -> Result<u64, ResultsError> {
        if self.inputs.shape != Shape::Native {
            let mut line = Vec::new();
            self.append_shaped(slot, &mut line)?;
            sink.write_all(&line).map_err(ResultsError::Output)?;
            return Ok(line.len() as u64);
        }
        let OpenReplies { path, file, .. } = self.file(slot.file)?;
        let end = slot.offset + u64::from(slot.length);
        let mut at = slot.offset;
        let mut buffer = AlignedBuffer::default();
        while at < end {
            buffer.place(at, usize::try_from(COPY_BYTES.min(end - at)).unwrap_or(usize::MAX));
            file.read_exact_at(&mut buffer, at).map_err(FileError::on("read", path))?;
            sink.write_all(&buffer).map_err(ResultsError::Output)?;
            at += buffer.len() as u64;
        }
        sink.write_all(b"\n").map_err(ResultsError::Output)?;
        Ok(u64::from(slot.length) + 1)
    }

    fn file(&mut self, number: u32) -> Result<&OpenReplies, ResultsError> {
        if !self.open.contains_key(&number) {
            if self.open.len() >= OPEN_FILES_MAX {
                self.open.pop_first();
            }
            let path = (self.inputs.path)(number)?;
            let file = File::open(&path).map_err(FileError::on("open", &path))?;
            let bytes = file.metadata().map_err(FileError::on("read", &path))?.len();
            let held = self.inputs.held.content(number, &file, bytes).map_err(FileError::on("read", &path))?;
            self.open.insert(number, OpenReplies { path, file, bytes, held });
        }
        Ok(&self.open[&number])
    }
}

/// The line that stands in for a reply that does not exist.
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
