//! Lines that are sent inside the body that creates their batch.
//!
//! In: the beginning of that body, and the lines. Out: the whole body, streamed.
//!
//! Invariants: its length is known beforehand: each line terminator becomes one byte, and the last one none.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use crate::dialect::upload::InlineLines;
use crate::remote::http::body::PIECE_BYTES;
use crate::remote::service::Payload;

/// The body that creates a batch, with its lines in it.
pub(in crate::remote) struct InlinePayload {
    pub(in crate::remote) before: Vec<u8>,
    pub(in crate::remote) form: InlineLines,
    pub(in crate::remote) lines: Arc<dyn Payload>,
}

impl Payload for InlinePayload {
    fn name(&self) -> String {
        self.lines.name()
    }

    fn bytes(&self) -> u64 {
        (self.before.len() + self.form.after.len()) as u64 + self.lines.bytes().saturating_sub(1)
    }

    fn open(&self) -> io::Result<Box<dyn BufRead + Send>> {
        let (InlineLines { between, after }, left) = (self.form, self.lines.bytes());
        let joined = Joined { lines: self.lines.open()?, between, left, piece: Vec::new() };
        Ok(Box::new(io::Cursor::new(self.before.clone()).chain(joined).chain(after.as_bytes())))
    }
}

/// Lines with another separator in place of their terminators.
struct Joined {
    lines: Box<dyn BufRead + Send>,
    between: u8,
    /// Bytes that are left of what was promised.
    left: u64,
    /// The buffered bytes, in reverse order.
    piece: Vec<u8>,
}

impl BufRead for Joined {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let at_hand = self.lines.fill_buf()?;
        let at_hand = &at_hand[..at_hand.len().min(PIECE_BYTES)];
        self.piece.clear();
        self.piece.extend(at_hand.iter().map(|byte| if *byte == b'\n' { self.between } else { *byte }));
        if self.left == self.piece.len() as u64 && at_hand.last() == Some(&b'\n') {
            self.piece.pop();
            if self.piece.is_empty() {
                self.consume(1);
                return self.fill_buf();
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes as u64);
        self.lines.consume(bytes);
    }
}

impl Read for Joined {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::http::testing::Memory;

    const FORM: InlineLines = InlineLines { between: b',', after: "]}" };

    fn whole(lines: &[u8]) -> Vec<u8> {
        let payload = InlinePayload {
            before: b"{\"requests\":[".to_vec(),
            form: FORM,
            lines: Arc::new(Memory::with(lines.to_vec())),
        };
        let mut body = Vec::new();
        payload.open().unwrap().read_to_end(&mut body).unwrap();
        assert_eq!(body.len() as u64, payload.bytes());
        body
    }

    #[test]
    fn line_ends_become_commas_and_the_last_one_nothing() {
        assert_eq!(whole(b"{\"a\":1}\n"), br#"{"requests":[{"a":1}]}"#);
        assert_eq!(whole(b"{}\r\n[]\n{}\n"), b"{\"requests\":[{}\r,[],{}]}");
        let many = b"{\"n\":\"x\"}\n".repeat(200_000);
        let body: serde_json::Value = serde_json::from_slice(&whole(&many)).unwrap();
        assert_eq!(body["requests"].as_array().unwrap().len(), 200_000);
    }
}
