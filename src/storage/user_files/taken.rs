//! Detection of delivery: whether what was written to a stream has been consumed.
//!
//! In: a stream that everything was written to. Out: whether its reader has taken all of it. The kernel buffers what is
//! written to a pipe; a reader that closes it before the end of file, as `head -n 1` does, has not taken it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::storage::durable;
use crate::storage::durable::FileError;

/// How long to wait for a slow reader.
const READER_PATIENCE: Duration = Duration::from_secs(2);

/// Poll interval of the bytes left in a pipe.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How long the reader must keep the pipe open after it has taken all: it has to wait for the end of file, which only
/// comes later.
const READER_STAYS: Duration = Duration::from_millis(100);

/// Whether all that was written has been taken. A regular file is synced. Terminals and other devices keep nothing.
pub(crate) fn is_taken(stream: &File, path: &Path) -> Result<bool, FileError> {
    let kind = stream.metadata().map_err(FileError::on("look at", path))?.file_type();
    if kind.is_file() {
        durable::sync(stream, path)?;
        return Ok(true);
    }
    if kind.is_fifo() { pipe_is_taken(stream).map_err(FileError::on("look at", path)) } else { Ok(kind.is_socket()) }
}

fn pipe_is_taken(pipe: &File) -> io::Result<bool> {
    let deadline = Instant::now() + READER_PATIENCE;
    while rustix::io::ioctl_fionread(pipe).unwrap_or(0) > 0 {
        if has_no_reader(pipe, LOOK_INTERVAL)? || Instant::now() >= deadline {
            return Ok(false);
        }
    }
    Ok(!has_no_reader(pipe, READER_STAYS)?)
}

/// Whether the pipe has no reader, now or within that time.
fn has_no_reader(pipe: &File, within: Duration) -> io::Result<bool> {
    let mut asked = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::empty())];
    let within = Timespec::try_from(within).map_err(io::Error::other)?;
    match poll(&mut asked, Some(&within)) {
        // Interrupted by a signal: counts as no hang-up.
        Err(rustix::io::Errno::INTR) => Ok(false),
        polled => Ok(polled? > 0),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;

    use super::*;

    /// Writes to a pipe that is read like that.
    fn taken_by(bytes: &[u8], reader: impl FnOnce(File) + Send + 'static) -> bool {
        let (from, to) = io::pipe().unwrap();
        let (from, mut to) = (File::from(OwnedFd::from(from)), File::from(OwnedFd::from(to)));
        to.write_all(bytes).unwrap();
        let reading = std::thread::spawn(move || reader(from));
        let taken = is_taken(&to, Path::new("pipe")).unwrap();
        drop(to);
        reading.join().unwrap();
        taken
    }

    #[test]
    fn a_pipe_is_taken_by_a_reader_that_waits_for_the_end_of_file() {
        let read = |count: usize| {
            move |mut from: File| {
                let mut some = vec![0; count];
                from.read_exact(&mut some).unwrap();
            }
        };
        assert!(taken_by(&vec![7; 30_000], |mut from| assert_eq!(from.read_to_end(&mut Vec::new()).unwrap(), 30_000)));
        assert!(!taken_by(&vec![7; 30_000], read(10_000)), "it goes away with some of it");
        assert!(!taken_by(&[7; 100], read(100)), "it has read all and does not wait for more");
        assert!(!taken_by(&[7; 100], drop), "it reads nothing");
        assert!(!taken_by(&[7; 100], |from| {
            std::thread::sleep(READER_PATIENCE + READER_STAYS);
            drop(from);
        }));
    }

    #[test]
    fn a_device_takes_nothing_and_a_file_all() {
        let null = durable::open_stream(Path::new("/dev/null")).unwrap();
        assert!(!is_taken(&null, Path::new("/dev/null")).unwrap());
        assert!(is_taken(&tempfile::tempfile().unwrap(), Path::new("file")).unwrap());
    }
}
