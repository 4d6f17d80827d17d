//! The lines of a window of the output.
//!
//! In: Seqs, and [their replies](super::window_replies). Out: their lines, in order.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::ResultsError;
use super::alignment::Alignment;
use super::rearrange::Rearranged;
use super::reply_index::{LONG_BYTES, Slot};
use super::reply_text::ReplyText;
use super::window::{MISSING, MergeInputs, Merged, Sinks, Standing, Unanswered, WINDOW_SEQS, Window, is_large};
use super::window_replies::{OpenReplies, WindowReplies, damaged};
use crate::dialect::ReplyNames;
use crate::dialect::reply_parts::Parts;
use crate::model::reply::ReplyKind;
use crate::results::normalize;
use crate::results::normalize::Shape;
use crate::storage::aligned::ALIGNMENT;

/// The separator between an error and the body of its request.
const BODY: &[u8] = b",\"body\":";

/// What the threads of a merge share.
pub(super) struct Gathering<'m> {
    pub(super) seqs: Range<u64>,
    pub(super) inputs: MergeInputs<'m>,
    pub(super) rearranged: Option<Rearranged>,
    pub(super) alignment: Alignment,
    /// Memory of windows that have been written.
    pub(super) spare: Mutex<Vec<Vec<u8>>>,
}

/// Makes the lines of windows; one for each thread.
pub(super) struct Gatherer<'m> {
    gathering: &'m Gathering<'m>,
    inputs: MergeInputs<'m>,
    replies: WindowReplies<'m>,
}

impl<'m> Gatherer<'m> {
    pub(super) fn new(gathering: &'m Gathering<'m>) -> Self {
        let Gathering { inputs, rearranged, .. } = gathering;
        Self { gathering, inputs: *inputs, replies: WindowReplies::new(*inputs, rearranged.as_ref()) }
    }

    /// Makes the lines of the window with this number.
    pub(super) fn gather(&mut self, number: u64, split: bool) -> Result<Window, ResultsError> {
        let first = self.gathering.seqs.start + number * WINDOW_SEQS;
        let seqs = first..(first + WINDOW_SEQS).min(self.gathering.seqs.end);
        let window = self.gather_window(seqs, self.gathering.alignment.lead(number), split);
        self.replies.end();
        window
    }

    fn gather_window(&mut self, seqs: Range<u64>, lead: usize, split: bool) -> Result<Window, ResultsError> {
        self.inputs.held.begin_window();
        let mut slots = self.inputs.replies.read(seqs.start, seqs.end - seqs.start)?;
        let large = is_large(&slots);
        let held = self.inputs.held_seqs.map(|held| held.read(seqs.clone())).transpose()?.unwrap_or_default();
        for (slot, _) in slots.iter_mut().zip(&held).filter(|(_, held_by)| held_by.is_some()) {
            // A reply of an earlier round is not the request's final outcome.
            *slot = None;
        }
        let mut window = Window::default();
        if !large {
            self.replies.load(seqs.clone(), &slots)?;
            let bytes: u64 = slots.iter().flatten().map(|slot| slot.length.map_or(LONG_BYTES, u64::from) + 1).sum();
            window.outputs =
                self.gathering.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
            window.lead = begin_aligned(&mut window.outputs, usize::try_from(bytes).unwrap_or(0), lead);
        }
        for (n, (seq, slot)) in seqs.zip(slots).enumerate() {
            let standing = Standing { slot, held_by: held.get(n).copied().flatten() };
            self.count(seq, standing, &mut window.merged)?;
            match slot {
                _ if large => window.large.push((seq, standing)),
                Some(slot) if !slot.kind.is_error() => self.append_shaped(n, slot, &mut window.outputs)?,
                _ => {
                    let buffer = if split { &mut window.errors } else { &mut window.outputs };
                    self.append_failed(n, seq, standing, split, buffer)?;
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
        &self,
        n: usize,
        seq: u64,
        Standing { slot, held_by }: Standing,
        with_body: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<(), ResultsError> {
        if let Some(slot) = slot {
            self.append_shaped(n, slot, buffer)?;
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

    /// Appends the reply in a slot, which is the n-th of the window.
    fn append_shaped(&self, n: usize, slot: Slot, buffer: &mut Vec<u8>) -> Result<(), ResultsError> {
        let reply = self.replies.reply(n, slot)?;
        match self.inputs.shape {
            Shape::Native => buffer.extend_from_slice(reply),
            Shape::Common => normalize::write_common(reply.trim_ascii(), slot.kind.is_error(), buffer)
                .ok_or_else(|| damaged(slot))?,
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
        let bytes = object.close(body.as_deref()).map_err(ResultsError::Output)?;
        if !with_body {
            sinks.advance(bytes);
        }
        Ok(bytes)
    }

    fn copy_shaped(&mut self, slot: Slot, sink: &mut dyn Write) -> Result<(), ResultsError> {
        let OpenReplies { path, file, .. } = self.replies.file(slot.file)?;
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
}

/// Empties a buffer, makes room for `bytes`, and returns how many it has now before these, for them to begin at `place`
/// of a cache line.
fn begin_aligned(buffer: &mut Vec<u8>, bytes: usize, place: usize) -> usize {
    buffer.clear();
    buffer.reserve_exact(bytes + ALIGNMENT);
    let lead = (place + ALIGNMENT - buffer.as_ptr().addr() % ALIGNMENT) % ALIGNMENT;
    buffer.resize(lead, 0);
    lead
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
