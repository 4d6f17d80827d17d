//! The one way to read JSON. Nothing outside this module looks for the end of a string or of a value.
//!
//! In: bytes of lines and of responses, in memory or piece by piece from a file. Out: raw values, as slices and
//! positions, never trees of copies.
//!
//! | reader | takes | for | s/GB |
//! | --- | --- | --- | --: |
//! | `scanner`, by [`marks`] | valid JSON in UTF-8, nested at most 64 deep | nearly every line, in one pass; nothing is built | 0.28 |
//! | `tape` | all other JSON that is not huge | a tree of a reply that the scanner rejects, built by simd-json | 0.64 |
//! | `exact` | all that `serde_json` accepts; says where anything else is wrong | request lines that the scanner rejects; all members of a request | 0.75 |
//! | `brackets`, `tree` | anything with matching brackets, however malformed or large | replies, lists and batch objects, which are paid for or belong to others | 0.50 |
//!
//! The last column is the time over the requests of `generate`, on one thread and in the cache, on a Xeon with AVX2:
//! for the scanner with framing and UTF-8, for the others over lines that are framed. `serde_json` without a tree takes
//! 0.35. A tree costs twice the scan, which is why there is none where a few values are wanted.
//!
//! Small control messages are parsed by `serde_json`: they are deserialized whole, and read nowhere else.
//!
//! Invariants:
//! - What the scanner accepts, the others accept, and they read the same values.
//! - Memory does not grow with a value, except by a few words per top-level member (`exact`) and one bit per open
//!   bracket.
//! - White space is space, tab, CR and LF, and all kinds are equally fast.
//!
//! # Duplicate keys
//!
//! JSON allows duplicate keys, and parsers differ. Each position has one rule, however the key is escaped:
//!
//! | position | rule | because |
//! | --- | --- | --- |
//! | top level of a request line | a defect (`duplicate-key`), whichever key it is | services read it differently, and what is paid for must be what was meant |
//! | `model` in a request's body | a defect, too | shards are packed by it |
//! | other members of a body | not checked | a body is uploaded unchanged, and the service decides |
//! | a reply, at any depth | the first counts | every reader of replies can stop at it, and a service that appends cannot change which request a reply answers |
//! | a batch object, and the members of a page of a list | the first counts | as in replies |
//! | `data` in a page of a list | all are read | an overlooked batch would be created again |
//! | a request line in `serve` | the last counts | services decode requests with parsers that keep the last (Python's, Go's), and `serve` behaves as they do |
//! | control messages | refused as malformed where a struct is read | they are written by programs that do not repeat keys |

pub(crate) mod brackets;
pub(crate) mod exact;
pub mod marks;
pub(crate) mod scanner;
pub(crate) mod tape;
pub(crate) mod tree;
