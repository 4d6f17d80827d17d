//! The floors: what reading and copying the same bytes takes, and memory that is warm for both.
//!
//! In: a file. Out: a [`Measured`] without requests.

use std::io::{self, Read, Write};
use std::path::Path;

use super::gauge::{Gauge, Measured};
use crate::input::source::{Input, Source};
use crate::run::error::Error;
use crate::storage::aligned::{AlignedBuffer, BlockWriter};
use crate::storage::durable;
use crate::storage::durable::FileError;
use crate::storage::lines::BLOCK_BYTES;
use crate::storage::ordered::in_order;

/// Names of the floors.
pub(super) const READ: &str = "read";
pub(super) const COPY: &str = "copy";

/// Bytes copied at a time.
const COPY_BYTES: usize = 256 * 1024;

/// Writes a file of that many bytes and removes it again. What the next stage writes then finds memory that this system
/// has already: a virtual machine may have to ask its host for more, which takes several times as long as to write.
pub(super) fn warm(place: &Path, bytes: u64) -> Result<(), FileError> {
    let path = place.join("warm");
    let mut file = BlockWriter::new(durable::create_new(&path)?);
    let written = io::copy(&mut io::repeat(0).take(bytes), &mut file).and_then(|_| file.flush());
    written.map_err(FileError::on("write", &path))?;
    durable::remove_file(&path)
}

fn open(input: &Path) -> Result<Source, Error> {
    Ok(Source::open(&[Input::File(input.to_owned())], Path::new("."), &|_| ())?)
}

/// The floor of reading: all blocks, on all threads.
pub(super) fn read(input: &Path, threads: usize) -> Result<Measured, Error> {
    let source = open(input)?;
    let extent = source.parts()[0].extent();
    let gauge = Gauge::start();
    in_order(
        threads,
        extent.blocks(),
        || AlignedBuffer::of(usize::try_from(BLOCK_BYTES).unwrap_or(usize::MAX)),
        |buffer, number| extent.file.read_at(buffer, number * BLOCK_BYTES).map_err(FileError::on("read", input)),
        |_| Ok(()),
    )?;
    Ok(gauge.stop(READ, None, (source.bytes(), 0)))
}

/// The floor of reading and writing, on one thread.
pub(super) fn copy(input: &Path, target: &Path) -> Result<Measured, Error> {
    let source = open(input)?;
    let from = source.parts()[0].extent().file;
    let mut to = durable::create_new(target)?;
    let mut buffer = AlignedBuffer::of(COPY_BYTES);
    let gauge = Gauge::start();
    let mut at = 0;
    loop {
        let read = from.read_at(&mut buffer, at).map_err(FileError::on("read", input))?;
        if read == 0 {
            break;
        }
        to.write_all(&buffer[..read]).map_err(FileError::on("write", target))?;
        at += read as u64;
    }
    let measured = gauge.stop(COPY, None, (at, 0));
    durable::remove_file(target)?;
    Ok(measured)
}
