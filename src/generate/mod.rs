//! A realistic prompt set of any size: what `batchline generate` writes and benchmarks read.
//!
//! In: [`GenerateOptions`]. Out: request lines in Together's format, one per request, in any writer.
//!
//! Invariants:
//! - Line N depends only on the seed, the models, the median size and N, so a smaller set is a prefix of a larger one.
//! - Every line is a valid request, and no two have the same `custom_id`.
//! - Memory is constant: lines are written into one buffer, which is reused.

mod texts;

use std::fmt::Write as _;
use std::io::{self, Write};

use fastrand::Rng;

use texts::{Insertions, Language, Task, Texts};

/// Bytes that are buffered before a flush to the writer.
const BUFFER_BYTES: usize = 1 << 20;

/// Maximum of [`GenerateOptions::median_bytes`]: the longest line then still fits Together's 10 MB per line.
pub const MAX_MEDIAN_BYTES: usize = 64_000;

/// Lengths of lines: (how many in a thousand, shortest, longest), the lengths in percent of the median.
///
/// The long tail is typical of production sets: most prompts are short, a few contain a whole document.
const SIZES: [(usize, usize, usize); 7] = [
    (150, 25, 45),
    (350, 45, 95),
    (300, 95, 195),
    (150, 195, 375),
    (44, 375, 700),
    (5, 700, 2_500),
    (1, 2_500, 12_500),
];

/// Values of `max_tokens`.
const MAX_TOKENS: [&str; 6] = ["16", "64", "200", "512", "1024", "4096"];

/// Approximate minimum size of a turn of a conversation, in bytes.
const TURN_BYTES: usize = 300;

/// Approximate size of the end of `messages` and `max_tokens`, in bytes.
const MAX_TOKENS_BYTES: usize = 20;

/// One in this many requests is written in ASCII only (`\u00e9`), as Python's `json.dumps` does by default.
const ASCII_ONE_IN: u32 = 6;

/// One in this many sentences is followed by something unusual, see [`Insertions`].
const ODDITY_ONE_IN: u32 = 12;

/// How much to generate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// This many requests.
    Requests(u64),
    /// Whole lines until there are at least this many bytes, line terminators included.
    Bytes(u64),
}

/// What to generate. The same options give the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateOptions {
    /// How much; by default 1,000 requests.
    pub amount: Amount,
    /// The random seed; 0 by default.
    pub seed: u64,
    /// The models that the requests name, in turn; by default three that Together serves. Must not be empty.
    pub models: Vec<String>,
    /// Half of the lines are shorter than this, in bytes; 800 by default, 1 to [`MAX_MEDIAN_BYTES`].
    ///
    /// The average is about 1.6 times and the longest about 125 times as much. A line is never shorter than its fixed
    /// parts and one sentence (some 250 to 700 bytes), so with a small median most lines have that length.
    pub median_bytes: usize,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            amount: Amount::Requests(1_000),
            seed: 0,
            models: vec![
                "meta-llama/Llama-3.3-70B-Instruct-Turbo".to_owned(),
                "openai/gpt-oss-20b".to_owned(),
                "Qwen/Qwen2.5-7B-Instruct-Turbo".to_owned(),
            ],
            median_bytes: 800,
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generated {
    /// Lines, each of them a request.
    pub requests: u64,
    /// Bytes, line ends included.
    pub bytes: u64,
}

/// Writes a prompt set to `output` and flushes it.
///
/// # Errors
/// `InvalidInput` if no model is given or the median is out of bounds; otherwise the error of `output`.
pub fn generate(options: &GenerateOptions, output: &mut dyn Write) -> io::Result<Generated> {
    let prompts = Prompts::new(options)?;
    let mut generated = Generated { requests: 0, bytes: 0 };
    let mut buffer = Vec::with_capacity(2 * BUFFER_BYTES);
    while match options.amount {
        Amount::Requests(requests) => generated.requests < requests,
        Amount::Bytes(bytes) => generated.bytes < bytes,
    } {
        let start = buffer.len();
        prompts.append_line(generated.requests, &mut buffer);
        generated.requests += 1;
        generated.bytes += (buffer.len() - start) as u64;
        if buffer.len() >= BUFFER_BYTES {
            output.write_all(&buffer)?;
            buffer.clear();
        }
    }
    output.write_all(&buffer)?;
    output.flush()?;
    Ok(generated)
}

/// Everything that lines are composed of, already in JSON.
struct Prompts {
    seed: u64,
    median_bytes: usize,
    /// Each a JSON string, quotes included.
    models: Vec<String>,
    frames: Vec<Frame>,
    /// The sum of the frames' shares.
    shares: u32,
    /// In the order of [`Texts::languages`].
    plain: Vec<Voice>,
    /// The same, spelled in ASCII.
    ascii: Vec<Voice>,
}

/// A [`Task`] as the JSON around its text.
struct Frame {
    share: u32,
    /// The value of `messages` up to the text of the first user message.
    head: String,
    /// The body fields after `max_tokens`, and the end of the line.
    tail: String,
    turns: usize,
    code: bool,
}

/// A [`Language`] in one spelling, as the insides of JSON strings; clauses end with the space that follows them.
struct Voice {
    openings: Vec<String>,
    mains: Vec<String>,
    endings: Vec<String>,
    oddities: Vec<String>,
    code: Vec<String>,
}

impl Prompts {
    fn new(options: &GenerateOptions) -> io::Result<Self> {
        let refused = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        if options.models.is_empty() {
            return Err(refused("cannot generate requests without a model".to_owned()));
        }
        if !(1..=MAX_MEDIAN_BYTES).contains(&options.median_bytes) {
            let given = options.median_bytes;
            return Err(refused(format!("a median of {given} bytes is not between 1 and {MAX_MEDIAN_BYTES}")));
        }
        let Texts { languages, tasks, insertions } = Texts::read()?;
        let voices = |ascii| languages.iter().map(|language| Voice::new(language, &insertions, ascii)).collect();
        Ok(Self {
            seed: options.seed,
            median_bytes: options.median_bytes,
            models: options.models.iter().map(|model| format!("\"{}\"", escape(model, false))).collect(),
            frames: tasks.iter().map(Frame::new).collect(),
            shares: tasks.iter().map(|task| task.share).sum(),
            plain: voices(false),
            ascii: voices(true),
        })
    }

    /// Appends the line of the request `seq`, counted from 0, with its line end.
    fn append_line(&self, seq: u64, out: &mut Vec<u8>) {
        let mut rng = Rng::with_seed(mix(self.seed, seq));
        let end = out.len() + self.pick_size(&mut rng);
        let frame = self.pick_frame(&mut rng);
        let voice = self.pick_voice(&mut rng);
        let model = &self.models[usize::try_from(seq % self.models.len() as u64).unwrap_or(0)];

        // The ids count lines from 1, as messages about lines do.
        out.extend_from_slice(format!(r#"{{"custom_id":"req-{:09}","body":{{"model":"#, seq + 1).as_bytes());
        out.extend_from_slice(model.as_bytes());
        out.extend_from_slice(frame.head.as_bytes());
        let text_end = end.saturating_sub(MAX_TOKENS_BYTES + frame.tail.len());
        // A short line has no room for a long conversation; with an odd number of turns the user speaks last.
        let turns = frame.turns.min((text_end.saturating_sub(out.len()) / TURN_BYTES) | 1);
        for turn in 0..turns {
            if turn > 0 {
                let role = if turn % 2 == 1 { "assistant" } else { "user" };
                out.extend_from_slice(format!(r#""}},{{"role":"{role}","content":""#).as_bytes());
            }
            // Every turn takes its part of what is left.
            let turn_end = out.len() + text_end.saturating_sub(out.len()) / (turns - turn);
            voice.append_text(turn_end, frame.code, &mut rng, out);
        }
        out.extend_from_slice(br#""}],"max_tokens":"#);
        out.extend_from_slice(MAX_TOKENS[rng.usize(..MAX_TOKENS.len())].as_bytes());
        out.extend_from_slice(frame.tail.as_bytes());
    }

    fn pick_size(&self, rng: &mut Rng) -> usize {
        let mut place = rng.usize(..1_000);
        for (share, shortest, longest) in SIZES {
            if place < share {
                return rng.usize(self.median_bytes * shortest / 100..=self.median_bytes * longest / 100);
            }
            place -= share;
        }
        self.median_bytes
    }

    fn pick_frame(&self, rng: &mut Rng) -> &Frame {
        let mut place = rng.u32(..self.shares);
        for frame in &self.frames {
            if place < frame.share {
                return frame;
            }
            place -= frame.share;
        }
        &self.frames[0]
    }

    fn pick_voice(&self, rng: &mut Rng) -> &Voice {
        let voices = if rng.u32(..ASCII_ONE_IN) == 0 { &self.ascii } else { &self.plain };
        // English is the first language.
        &voices[if rng.bool() { 0 } else { rng.usize(1..voices.len()) }]
    }
}

impl Frame {
    fn new(task: &Task) -> Self {
        let mut head = String::from(r#","messages":["#);
        if !task.system.is_empty() {
            head.push_str(r#"{"role":"system","content":""#);
            head.push_str(&escape(&task.system, false));
            head.push_str(r#""},"#);
        }
        head.push_str(r#"{"role":"user","content":""#);
        head.push_str(&escape(&task.instruction, false));
        Self { share: task.share, head, tail: format!("{}}}}}\n", task.members()), turns: task.turns, code: task.code }
    }
}

impl Voice {
    fn new(language: &Language, insertions: &Insertions, ascii: bool) -> Self {
        let each = |texts: &[String], after: &str| -> Vec<String> {
            texts.iter().map(|text| escape(text, ascii) + after).collect()
        };
        Self {
            openings: each(&language.openings, &language.space),
            mains: each(&language.mains, &language.space),
            endings: each(&language.endings, &language.space),
            oddities: each(&insertions.oddities, " "),
            code: each(&insertions.code, ""),
        }
    }

    /// Appends sentences, at least one, until `out` is about `end` bytes long.
    fn append_text(&self, end: usize, code: bool, rng: &mut Rng, out: &mut Vec<u8>) {
        if code {
            append_one(&self.code, rng, out);
        }
        let mut last = out.len();
        loop {
            append_one(&self.openings, rng, out);
            append_one(&self.mains, rng, out);
            append_one(&self.endings, rng, out);
            if rng.u32(..ODDITY_ONE_IN) == 0 {
                append_one(&self.oddities, rng, out);
            }
            let sentence = out.len() - last;
            last = out.len();
            // Stopping half a sentence early compensates for sentences that exceed the size.
            if last + sentence / 2 >= end {
                return;
            }
            match rng.u32(..32) {
                0..=2 => out.extend_from_slice(br"\n\n"),
                3..=5 => out.extend_from_slice(format!("({}) ", rng.u32(1..100_000)).as_bytes()),
                6 if code => append_one(&self.code, rng, out),
                _ => {}
            }
        }
    }
}

fn append_one(texts: &[String], rng: &mut Rng, out: &mut Vec<u8>) {
    out.extend_from_slice(texts[rng.usize(..texts.len())].as_bytes());
}

/// The inside of the JSON string for `text`; with `ascii`, characters beyond U+FFFF become surrogate pairs.
fn escape(text: &str, ascii: bool) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str(r"\\"),
            '\n' => escaped.push_str(r"\n"),
            '\r' => escaped.push_str(r"\r"),
            '\t' => escaped.push_str(r"\t"),
            _ if character < ' ' || (ascii && !character.is_ascii()) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(escaped, "\\u{unit:04x}").expect("writing to a string cannot fail");
                }
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Spreads `(seed, seq)` over all 64 bits (the finaliser of `SplitMix64`), so that neighbouring lines are uncorrelated.
fn mix(seed: u64, seq: u64) -> u64 {
    let mut mixed = seed.wrapping_add(seq.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests;
