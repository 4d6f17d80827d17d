//! Ranged reads: stored bytes that can be read at any offset, here or elsewhere.
//!
//! In: an offset and a buffer. Out: the bytes that are stored there.
//!
//! All reads of stored bytes go through [`ReadAt`], so that an object store would be one more implementation: ranged
//! requests with a cache of blocks. Callers read a block, a span or a reply at a time, so the cost of a virtual call is
//! negligible.

use std::fmt;
use std::io;

use crate::storage::identity::StoredIdentity;

/// Stored bytes that any number of threads can read at any offset.
pub trait ReadAt: fmt::Debug + Send + Sync {
    /// Current size in bytes.
    ///
    /// # Errors
    /// When the store cannot tell.
    fn size(&self) -> io::Result<u64>;

    /// Reads bytes from `offset` on, at most as many as `buffer` takes, and returns how many; 0 at the end.
    ///
    /// # Errors
    /// When the store fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Identifies the current state of the bytes without reading them, to detect changes.
    ///
    /// # Errors
    /// When the store cannot tell.
    fn identity(&self) -> io::Result<StoredIdentity>;

    /// Fills `buffer` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] if there are fewer, and those of [`ReadAt::read_at`].
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills as much of `buffer` as there are bytes from `offset` on, and returns their number.
    ///
    /// # Errors
    /// Those of [`ReadAt::read_at`].
    fn read_some_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A store that returns few bytes at a time, and is interrupted every other time.
    #[derive(Debug)]
    struct Slow {
        content: Vec<u8>,
        calls: AtomicU64,
    }

    impl ReadAt for Slow {
        fn size(&self) -> io::Result<u64> {
            Ok(self.content.len() as u64)
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            if self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let rest = &self.content[self.content.len().min(usize::try_from(offset).unwrap())..];
            let count = rest.len().min(buffer.len()).min(3);
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        }

        fn identity(&self) -> io::Result<StoredIdentity> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn reads_are_completed_whatever_the_store_gives_at_a_time() {
        let stored = Slow { content: (0..20).collect(), calls: AtomicU64::default() };
        let mut buffer = [0; 10];
        stored.read_exact_at(&mut buffer, 7).unwrap();
        assert_eq!(buffer, *(7..17).collect::<Vec<u8>>());
        assert_eq!(stored.read_some_at(&mut buffer, 14).unwrap(), 6);
        assert_eq!(buffer[..6], *(14..20).collect::<Vec<u8>>());
        assert_eq!(stored.read_some_at(&mut buffer, 100).unwrap(), 0);
        assert_eq!(stored.read_exact_at(&mut buffer, 11).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
