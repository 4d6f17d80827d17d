//! The one way to read JSON. Nothing outside looks for the end of a string or of a value.
//!
//! In: bytes of lines and of answers, in memory or piece by piece from a file. Out: values as they stand there: slices and places, never
//! trees of copies.
//!
//! | reader | takes | for |
//! | --- | --- | --- |
//! | `scanner` | valid JSON in UTF-8, nested at most 64 deep; where members are asked for, keys without escapes | nearly every line, in one pass |
//! | `exact` | all that `serde_json` takes, and says where the rest is wrong | request lines that the scanner refuses; all of a request's members |
//! | [`brackets`], `tree` | whatever is whole by its brackets, however ugly or large | replies, lists and batch objects, which are paid for or somebody else's |
//!
//! simd-json stands between the first and the last for [replies](crate::results) alone. Small control messages are `serde_json`'s: they are
//! built whole, and are read nowhere else.
//!
//! Invariants:
//! - What the scanner takes, the others take, and they read the same in it.
//! - Memory does not grow with a value, except by some words for each top-level member (`exact`) and one bit for each open bracket.
//! - White space is space, tab, CR and LF, and no kind of it is slower than another.
//!
//! # Duplicate keys
//!
//! JSON allows a key to be there twice, and parsers differ. Each position has one rule, in whatever spelling the key is written:
//!
//! | position | rule | because |
//! | --- | --- | --- |
//! | top level of a request line | a defect (`duplicate-key`), whichever key it is | services read it differently, and what is paid for must be what was meant |
//! | `model` in a request's body | a defect, too | shards are packed by it |
//! | other members of a body | nobody's business | a body goes up as it is, and the service decides |
//! | a reply, at any depth | the first counts | every reader of replies can stop at it, and a service that appends cannot alter whom a reply answers |
//! | a batch object, and the members of a page of a list | the first counts | as in replies |
//! | `data` in a page of a list | all are read | a batch that is overlooked would be created again |
//! | a request line that `serve` is given | the last counts | services decode requests with parsers that keep the last (Python's, Go's), and it answers as they do |
//! | control messages | refused as malformed where a struct is read | they are written by programs that do not repeat keys |

pub(crate) mod brackets;
pub(crate) mod exact;
pub(crate) mod scanner;
pub(crate) mod tree;
