//! Whole objects, and members of them, in JSON text in memory.
//!
//! In: a line, or a part of one. Out: where objects end, and raw members.

use std::ops::Range;

use crate::json::brackets::{Brackets, is_key};

/// The end of the object that `text` begins with; `None` if it begins with something else, or ends too early.
#[cfg(test)]
pub(crate) fn object_end(text: &[u8]) -> Option<usize> {
    let mut brackets = Brackets::new(text);
    brackets.object().ok()?;
    Some(position(brackets.at()))
}

/// Whether a line is one whole object, with nothing around it but white space.
#[cfg(test)]
pub(crate) fn is_whole_object(line: &[u8]) -> bool {
    let object = line.trim_ascii();
    object_end(object) == Some(object.len())
}

/// The objects that a line consists of, one or more, with nothing between and around them but white space.
pub(crate) fn objects_of(line: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut objects = Vec::new();
    let mut brackets = Brackets::new(line);
    loop {
        brackets.space().ok()?;
        if brackets.peek().ok()?.is_none() {
            return (!objects.is_empty()).then_some(objects);
        }
        let first = position(brackets.at());
        brackets.object().ok()?;
        objects.push(first..position(brackets.at()));
    }
}

/// A position in memory.
fn position(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// Raw members of an object, the first of each name; `None` if it is not one whole object, or anything follows it.
pub(crate) fn members_of<'l, const N: usize>(object: &'l [u8], names: [&str; N]) -> Option<[Option<&'l [u8]>; N]> {
    let mut found = [None; N];
    let mut brackets = Brackets::new(object);
    brackets.space().ok()?;
    let members = brackets.members(|brackets, key| {
        let first = position(brackets.at());
        brackets.value()?;
        if let Some(which) = names.iter().position(|name| is_key(key, name)) {
            found[which].get_or_insert(&object[first..position(brackets.at())]);
        }
        Ok(())
    });
    members.ok()?;
    brackets.space().ok()?;
    (position(brackets.at()) == object.len()).then_some(found)
}
