//! Reads the lines that come next while others are in flight.
//!
//! In: the numbers of the lines, ascending, as they are wanted. Out: the lines. Those that are wanted for the first
//! time were read in blocks before; one that is wanted once more is read by itself.
//!
//! Invariant: at most two blocks are in memory, each of [`BLOCK_LINES`] and of [`BLOCK_BYTES`] and a line.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::remote::service::Lines;

/// Lines that are read together.
const BLOCK_LINES: usize = 64;

/// Bytes from which on no further line is read with them.
const BLOCK_BYTES: usize = 512 << 10;

/// Lines with their numbers.
type Block = Vec<(u64, Bytes)>;

/// See the module.
pub(super) struct ReadAhead<I> {
    lines: Arc<dyn Lines>,
    /// Numbers that no block was asked for, behind those of `planned`.
    numbers: I,
    /// Numbers that did not fit into their block.
    planned: VecDeque<u64>,
    block: VecDeque<(u64, Bytes)>,
    next: Option<JoinHandle<io::Result<Block>>>,
    /// The last number that was taken for the first time.
    taken: u64,
}

impl<I: Iterator<Item = u64>> ReadAhead<I> {
    /// The lines with these numbers, from 1.
    pub(super) fn new(lines: &Arc<dyn Lines>, numbers: I) -> Self {
        let (planned, block) = (VecDeque::new(), VecDeque::new());
        Self { lines: lines.clone(), numbers, planned, block, next: None, taken: 0 }
    }

    /// Gives a line.
    pub(super) async fn take(&mut self, number: u64) -> io::Result<Bytes> {
        if number <= self.taken {
            let mut block = read(self.lines.clone(), vec![number]).await?;
            return block.pop().map(|(_, line)| line).ok_or_else(|| io::ErrorKind::UnexpectedEof.into());
        }
        self.taken = number;
        loop {
            while let Some((read, line)) = self.block.pop_front() {
                if read == number {
                    return Ok(line);
                }
            }
            let begun = self.next.take().or_else(|| self.begin());
            let reading = begun.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
            let block = reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
            // What was planned with it and did not fit comes next.
            let last = block.last().map_or(0, |(last, _)| *last);
            self.planned.retain(|planned| *planned > last);
            self.block = block.into();
            self.next = self.begin();
        }
    }

    /// Begins to read the next block, if there is more.
    fn begin(&mut self) -> Option<JoinHandle<io::Result<Block>>> {
        let lacking = BLOCK_LINES.saturating_sub(self.planned.len());
        self.planned.extend(self.numbers.by_ref().take(lacking));
        let numbers: Vec<u64> = self.planned.iter().copied().collect();
        (!numbers.is_empty()).then(|| tokio::spawn(read(self.lines.clone(), numbers)))
    }
}

/// Reads the first of these lines, as many as a block has room for.
async fn read(lines: Arc<dyn Lines>, numbers: Vec<u64>) -> io::Result<Block> {
    let reading = tokio::task::spawn_blocking(move || {
        let (mut block, mut bytes) = (Vec::with_capacity(numbers.len()), 0);
        for number in numbers {
            if bytes >= BLOCK_BYTES {
                break;
            }
            let mut line = Vec::new();
            lines.read(number - 1, &mut line)?;
            bytes += line.len();
            block.push((number, Bytes::from(line)));
        }
        Ok(block)
    });
    reading.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Lines of so many bytes, and which of them were read.
    struct Counted(usize, Mutex<Vec<u64>>);

    impl Lines for Counted {
        fn count(&self) -> u64 {
            u64::MAX
        }

        fn read(&self, number: u64, line: &mut Vec<u8>) -> io::Result<()> {
            self.1.lock().unwrap().push(number);
            line.clear();
            line.resize(self.0, u8::try_from(number % 251).unwrap());
            Ok(())
        }
    }

    #[tokio::test]
    async fn lines_are_read_once_and_not_far_ahead_whatever_their_size() {
        for (bytes, most) in [(10, 3 * BLOCK_LINES), (BLOCK_BYTES / 4, 3 * 4), (BLOCK_BYTES * 2, 3)] {
            let counted = Arc::new(Counted(bytes, Mutex::default()));
            let lines: Arc<dyn Lines> = counted.clone();
            let wanted: Vec<u64> = (1..400).filter(|number| number % 3 != 0).collect();
            let mut ahead = ReadAhead::new(&lines, wanted.clone().into_iter());
            for (taken, number) in wanted.iter().enumerate() {
                let line = ahead.take(*number).await.unwrap();
                assert_eq!(line, vec![u8::try_from((number - 1) % 251).unwrap(); bytes]);
                assert!(counted.1.lock().unwrap().len() <= taken + most, "{bytes}");
            }
            let read: Vec<u64> = counted.1.lock().unwrap().iter().map(|number| number + 1).collect();
            assert_eq!(read, wanted);
            ahead.take(7).await.unwrap();
            assert_eq!(counted.1.lock().unwrap().last(), Some(&6), "one that is retried is read again");
            assert!(ahead.take(1000).await.is_err(), "there is none");
        }
    }
}
