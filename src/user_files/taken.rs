//! Whether what was written to a stream has reached somebody who keeps it.
//!
//! In: a stream that all has been written to. Out: whether all of it has been taken. The system takes what is written to a pipe long before
//! its reader does; one that goes away before it has seen the end, as `head -n 1` does, has not taken it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::durable::{self, FileError};

/// How long a reader is waited for that has not taken all yet. One that takes longer is left alone with the rest.
const READER_PATIENCE: Duration = Duration::from_secs(2);

/// The time between two looks at what is left in a pipe.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How long a reader that has taken all must stay: it waits for the end, which has not come yet. One that wanted no more is gone by then.
const READER_STAYS: Duration = Duration::from_millis(100);

/// Whether all that was written has been taken; a regular file is synced for it. A terminal shows it and keeps nothing, other devices may not
/// even do that.
pub(super) fn is_taken(stream: &File, path: &Path) -> Result<bool, FileError> {
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

/// Whether nobody reads from the pipe any more, or within that time.
fn has_no_reader(pipe: &File, within: Duration) -> io::Result<bool> {
    let mut asked = [PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::empty())];
    let within = Timespec::try_from(within).map_err(io::Error::other)?;
    match poll(&mut asked, Some(&within)) {
        // A signal: the caller looks again, or takes the reader for one that stays.
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
    fn a_pipe_is_taken_by_who_waits_for_its_end() {
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
    fn what_keeps_nothing_has_taken_nothing() {
        let null = durable::open_stream(Path::new("/dev/null")).unwrap();
        assert!(!is_taken(&null, Path::new("/dev/null")).unwrap());
        assert!(is_taken(&tempfile::tempfile().unwrap(), Path::new("file")).unwrap());
    }
}
