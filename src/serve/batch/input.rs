//! Reads a batch's input file: first to check it, then to find its lines again.
//!
//! In: the content of an uploaded file. Out: what the batch is to know of it, or the sentence with which the batch
//! fails; and a table of where each line lies. Invariants: one line at a time is in memory, and a file within the
//! limits has at most [`Limits::requests`] entries of 16 bytes in its table (24 with the number of the line).

use std::io::{self, BufRead, Read};

use super::request::{self, Request};
use crate::serve::limits::Limits;
use crate::storage::lines::RangeReader;
use crate::storage::read_at::ReadAt;

/// Lines that the service checks together. It counts lines from 1 *within a chunk* when it complains about one; how
/// many lines a chunk has is not known.
const CHUNK_LINES: u64 = 1000;

/// Why a file is no input for a batch: the batch ends FAILED with this sentence.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// What is wrong with the file, in the words of the service.
    #[error("{0}")]
    Unfit(String),
    /// What is wrong with one line, in OpenAI's dialect.
    #[error("{message}")]
    Line {
        /// Counted from 1.
        line: u64,
        code: &'static str,
        param: Option<&'static str>,
        message: String,
    },
    /// The server could not read its own file.
    #[error("Internal server error: reading the input file failed: {0}")]
    Unreadable(#[from] io::Error),
}

/// Where a line lies in its file, without its newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    offset: u64,
    length: usize,
}

impl Place {
    /// Reads the line into `line`, in place of what was there.
    pub(crate) fn read(self, file: &dyn ReadAt, line: &mut Vec<u8>) -> io::Result<()> {
        line.resize(self.length, 0);
        file.read_exact_at(line, self.offset)
    }
}

/// What a batch is to know of its input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    /// The first line's model, which becomes the job's.
    pub(crate) model: Option<String>,
    pub(crate) requests: u64,
}

/// Checks that the file as a whole is neither empty nor too large.
pub(crate) fn check_size(file: &dyn ReadAt, limits: &Limits) -> Result<(), Refusal> {
    let bytes = file.size()?;
    if bytes == 0 {
        return Err(format_fault("the input file is empty"));
    }
    if bytes > limits.bytes {
        let message = format!("Input file is too large: {bytes} bytes, at most {} are allowed", limits.bytes);
        return Err(Refusal::Unfit(message));
    }
    Ok(())
}

/// Checks every line of `file`, as Together does.
pub(crate) fn check(file: &dyn ReadAt, limits: &Limits) -> Result<Checked, Refusal> {
    check_size(file, limits)?;
    let mut checked = Checked { model: None, requests: 0 };
    each_line(file, limits, |number, _, line| {
        let request = Request::parse(line).map_err(|fault| {
            format_fault(&format!("Line {} (within chunk): {fault}", (number - 1) % CHUNK_LINES + 1))
        })?;
        if number == 1 {
            checked.model = request.model().map(std::borrow::Cow::into_owned);
        }
        checked.requests = number;
        Ok(())
    })?;
    match &checked.model {
        Some(model) if model.starts_with(request::NO_SUCH_MODEL) => Err(Refusal::Unfit(format!(
            "Invalid model ID: Unable to access non-serverless model {model}. {}",
            request::endpoint_advice(model)
        ))),
        _ => Ok(checked),
    }
}

/// Where each line of a checked `file` lies, in the order of the file.
pub(crate) fn places(file: &dyn ReadAt, limits: &Limits) -> Result<Vec<Place>, Refusal> {
    let mut places = Vec::new();
    each_line(file, limits, |_, offset, line| {
        places.push(Place { offset, length: line.len() });
        Ok(())
    })?;
    Ok(places)
}

/// Shows `visit` each line, without its newline, with its number from 1 and its offset in the file. A newline at the
/// very end starts no further line.
pub(crate) fn each_line(
    file: &dyn ReadAt,
    limits: &Limits,
    mut visit: impl FnMut(u64, u64, &[u8]) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut reader = RangeReader::new(file, 0..file.size()?);
    let (mut line, mut number, mut offset) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        // One byte more than a line and its newline may have, so that a longer one shows.
        let read = reader.by_ref().take(limits.line_bytes + 2).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() as u64 > limits.line_bytes {
            let message = format!(
                "error reading input file: the line at byte {offset} is longer than {} bytes",
                limits.line_bytes
            );
            return Err(Refusal::Unfit(message));
        }
        number += 1;
        if number > limits.requests {
            let message = format!("Input file has too many requests: at most {} are allowed", limits.requests);
            return Err(Refusal::Unfit(message));
        }
        visit(number, offset, &line)?;
        offset += read as u64;
    }
}

fn format_fault(fault: &str) -> Refusal {
    Refusal::Unfit(format!("Failed to calculate tokens: input format error: {fault}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::storage::local_file::LocalFile;

    const GOOD: &str = r#"{"custom_id":"a","body":{"model":"m"}}"#;

    fn file(content: &str) -> LocalFile {
        let mut file = LocalFile::scratch(&std::env::temp_dir()).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file
    }

    fn refusal(content: &str, limits: &Limits) -> String {
        check(&file(content), limits).unwrap_err().to_string()
    }

    #[test]
    fn lines_are_found_again_with_and_without_a_last_newline() {
        for end in ["", "\n"] {
            let file = file(&format!("{GOOD}\n{GOOD} {end}"));
            assert_eq!(check(&file, &Limits::default()).unwrap(), Checked { model: Some("m".into()), requests: 2 });
            let places = places(&file, &Limits::default()).unwrap();
            let mut line = Vec::new();
            places[1].read(&file, &mut line).unwrap();
            assert_eq!((places.len(), line), (2, format!("{GOOD} ").into_bytes()));
        }
    }

    #[test]
    fn the_first_line_sets_the_model_of_the_job() {
        let limits = Limits::default();
        let other = r#"{"custom_id":"b","body":{"model":"nonexistent/x"}}"#;
        assert_eq!(check(&file(&format!("{GOOD}\n{other}")), &limits).unwrap().model.as_deref(), Some("m"));
        let refused = refusal(&format!("{other}\n{GOOD}"), &limits);
        assert!(
            refused.starts_with("Invalid model ID: Unable to access non-serverless model nonexistent/x. "),
            "{refused}"
        );
    }

    #[test]
    fn unfit_lines_are_named_within_their_chunk() {
        let limits = Limits::default();
        let fault = "Failed to calculate tokens: input format error: ";
        assert_eq!(refusal("", &limits), format!("{fault}the input file is empty"));
        for bad in ["", "{", "[]", "\u{feff}{}", "{} {}"] {
            let refused = refusal(&format!("{GOOD}\n{bad}\n{GOOD}"), &limits);
            assert!(refused.starts_with(&format!("{fault}Line 2 (within chunk): Invalid JSON format - ")), "{refused}");
        }
        let refused = refusal(&format!("{}{{}}", format!("{GOOD}\n").repeat(1001)), &limits);
        assert_eq!(refused, format!("{fault}Line 2 (within chunk): missing 'custom_id' field or not a string"));
    }

    #[test]
    fn each_limit_is_kept_to_the_byte() {
        let two = format!("{GOOD}\n{GOOD}\n");
        let exact = Limits { requests: 2, bytes: two.len() as u64, line_bytes: GOOD.len() as u64, ..Limits::default() };
        check(&file(&two), &exact).unwrap();
        for (limits, start) in [
            (Limits { requests: 1, ..exact }, "Input file has too many requests: at most 1 "),
            (Limits { bytes: exact.bytes - 1, ..exact }, "Input file is too large: "),
            (Limits { line_bytes: exact.line_bytes - 1, ..exact }, "error reading input file: the line at byte 0 "),
        ] {
            let refused = refusal(&two, &limits);
            assert!(refused.starts_with(start), "{refused}");
        }
    }
}
