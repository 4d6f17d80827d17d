//! The house: which room may know which, and that no files know each other in a circle.
//!
//! Read from the `use` lines and the paths of the sources themselves, so that the design cannot drift from the code.
//! Unit tests and comments do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Each room, and the rooms below it that it may import. What is not named here (`cli`, `main.rs`) may import every
/// room.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("json", &[]),
    ("storage", &["model"]),
    ("dialect", &["model", "json"]),
    ("input", &["storage", "json", "model", "dialect"]),
    ("remote", &["dialect", "storage", "json", "model"]),
    ("results", &["storage", "json", "model", "dialect"]),
    ("ledger", &["storage", "model"]),
    ("run", &["ledger", "results", "remote", "input", "dialect", "storage", "json", "model"]),
    ("serve", &["remote", "dialect", "storage", "json", "model"]),
    ("generate", &[]),
    ("bench", &["generate", "run", "results", "remote", "input", "storage"]),
];

/// What opens, reads and writes files: for the room `storage` alone.
const FILE_SYSTEM: &[&str] = &["std::fs", "std::os::unix::fs", "tokio::fs"];

/// Modules by their paths, such as `run::driver`, each with the modules that it mentions.
type Mentions = BTreeMap<String, BTreeSet<String>>;

#[test]
fn a_room_knows_only_rooms_below_it() {
    let rooms: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let room = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let mut upward = Vec::new();
    for (module, mentioned) in mentions() {
        let Some(allowed) = rooms.get(&*room(&module)) else { continue };
        let forbidden = |other: &&String| room(other) != room(&module) && !allowed.contains(&&*room(other));
        upward.extend(mentioned.iter().filter(forbidden).map(|other| format!("{module} -> {other}")));
    }
    assert_eq!(upward, Vec::<String>::new(), "arrows that the design does not allow");
}

#[test]
fn no_files_know_each_other_in_a_circle() {
    let mut rest = mentions();
    // What mentions nothing that is left is in no circle, and what is left in the end is.
    loop {
        let done: BTreeSet<String> =
            rest.iter().filter(|(_, to)| to.is_empty()).map(|(from, _)| from.clone()).collect();
        if done.is_empty() {
            break;
        }
        rest.retain(|module, _| !done.contains(module));
        for mentioned in rest.values_mut() {
            mentioned.retain(|other| !done.contains(other));
        }
    }
    assert_eq!(rest, Mentions::new(), "files in a circle, and what mentions them");
}

#[test]
fn files_are_touched_in_one_room() {
    let is_of = |module: &str, room: &str| module == room || module.starts_with(&format!("{room}::"));
    let mut outside = Vec::new();
    for (module, text) in texts() {
        let is_test = module.ends_with("::tests");
        if !is_test && !is_of(&module, "storage") {
            outside.extend(file_system(&text).into_iter().map(|path| format!("{module}: {path}")));
        }
    }
    assert_eq!(outside, Vec::<String>::new(), "`batchline::storage` reads and writes files");
}

/// The parts of the file system's own interface that some code uses.
fn file_system(text: &str) -> Vec<String> {
    let (uses, code) = taken_apart(text);
    let imported = uses
        .iter()
        .flat_map(|tree| leaves(tree))
        .filter(|leaf| FILE_SYSTEM.iter().any(|module| leaf == module || leaf.starts_with(&format!("{module}::"))));
    let named =
        FILE_SYSTEM.iter().filter(|module| code.contains(&format!("{module}::"))).map(|module| (*module).to_owned());
    imported.chain(named).collect()
}

#[test]
fn the_file_system_is_found_in_every_form() {
    assert_eq!(file_system("use std::{fs::{self, File}, io};"), ["std::fs::self", "std::fs::File"]);
    assert_eq!(file_system("use std::os::unix::fs::FileExt as _;"), ["std::os::unix::fs::FileExt as _"]);
    assert_eq!(file_system("fn f() {\n    tokio::fs::read(path)\n}"), ["tokio::fs"]);
    assert_eq!(file_system("// std::fs::read\nuse rustix::fs;\n#[cfg(test)]\nmod tests {\nuse std::fs;\n}"), [""; 0]);
}

#[test]
fn comments_are_as_wide_as_the_formatter_lets_code_be() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let settings = fs::read_to_string(root.join(".rustfmt.toml")).unwrap();
    let width = settings.lines().find_map(|line| line.strip_prefix("max_width = ")).unwrap().parse().unwrap();
    let mut texts = BTreeMap::new();
    for directory in ["src", "tests", "benches"] {
        collect(root, &root.join(directory), &mut texts);
    }
    let mut too_wide = Vec::new();
    for (file, text) in &texts {
        let mut is_example = false;
        for (line, number) in text.lines().zip(1..) {
            // The fence before an example may depend on a feature.
            is_example |= line.starts_with("#![cfg_attr(") && line.contains("doc = \"```");
            let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
            let comment = comment.trim_start_matches(['/', '!', ' ']);
            is_example ^= comment.starts_with("```");
            // Examples and the rows of a table cannot be wrapped.
            if line.chars().count() > width && !is_example && !comment.starts_with('|') {
                too_wide.push(format!("{file}:{number}"));
            }
        }
    }
    assert_eq!(too_wide, [""; 0]);
}

#[test]
fn arrows_are_found_in_every_form() {
    let known = ["a", "a::b", "a::b::c", "d"].map(str::to_owned);
    let known: BTreeSet<&String> = known.iter().collect();
    let of = |module: &str, code: &str| -> Vec<String> { mentioned(module, code, &known).into_iter().collect() };
    assert_eq!(of("a::b", "use crate::d::Thing;"), ["d"]);
    assert_eq!(of("d", "pub(crate) use crate::{a::b::{self, c::X}, d};"), ["a::b", "a::b::c"]);
    assert_eq!(of("a::b::c", "fn f(x: super::super::Y) {}"), ["a"]);
    assert_eq!(of("a", "use b::c;\nlet x = self::b::Z;"), ["a::b", "a::b::c"]);
    assert_eq!(
        of("d", "// use crate::a::b;\n/// [`crate::a`]\nfn f() {}\n#[cfg(test)]\nmod tests {\nuse crate::a;\n}"),
        [""; 0]
    );
    assert_eq!(of("d", "pub mod places {\n    use super::Path;\n    use crate::a::b::Y;\n}"), ["a::b"]);
}

/// The text of every module of the sources.
fn texts() -> BTreeMap<String, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut texts = BTreeMap::new();
    collect(&src, &src, &mut texts);
    assert!(texts.len() > 100, "the sources are here");
    texts
}

/// What every module of the sources mentions.
fn mentions() -> Mentions {
    let texts = texts();
    let known: BTreeSet<&String> = texts.keys().collect();
    texts.iter().map(|(module, text)| (module.clone(), mentioned(module, text, &known))).collect()
}

/// The texts of all modules below a directory.
fn collect(src: &Path, directory: &Path, texts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(src, &path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = path.strip_prefix(src).unwrap().with_extension("");
            let module = if module.ends_with("mod") { module.parent().unwrap().to_owned() } else { module };
            let names: Vec<&str> = module.iter().map(|name| name.to_str().unwrap()).collect();
            // The build script is no module of either crate.
            if names != ["main"] && names != ["lib"] && names != ["build"] {
                texts.insert(names.join("::"), fs::read_to_string(&path).unwrap());
            }
        }
    }
}

/// The modules, other than itself, that a module mentions.
fn mentioned(module: &str, text: &str, known: &BTreeSet<&String>) -> BTreeSet<String> {
    let own: Vec<&str> = module.split("::").collect();
    let mut found = BTreeSet::new();
    let (uses, code) = taken_apart(text);
    let uses = uses.iter().flat_map(|tree| leaves(tree));
    for path in uses.chain(paths(&code)) {
        let names: Vec<&str> = path.split("::").map(str::trim).collect();
        let above = |levels: usize| own[..own.len().saturating_sub(levels)].to_vec();
        let whole = match names[0] {
            "crate" => names[1..].to_vec(),
            "self" => [above(0), names[1..].to_vec()].concat(),
            "super" => {
                let levels = names.iter().take_while(|name| **name == "super").count();
                [above(levels), names[levels..].to_vec()].concat()
            }
            child if known.contains(&format!("{module}::{child}")) => [above(0), names].concat(),
            _ => continue,
        };
        let prefixes = (1..=whole.len()).rev().map(|length| whole[..length].join("::"));
        found.extend(prefixes.into_iter().find(|prefix| known.contains(prefix)).filter(|owner| owner != module));
    }
    found
}

/// The trees of the `use` lines, and all other code: without comments, unit tests, and modules inside of the file,
/// whose `super` is the file itself.
fn taken_apart(text: &str) -> (Vec<String>, String) {
    let (mut uses, mut code, mut tree, mut inner) = (Vec::new(), String::new(), None::<String>, false);
    let mut lines = text.lines();
    let mut is_test = false;
    for line in lines.by_ref().filter(|line| !line.trim_start().starts_with("//")) {
        let item = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ");
        if is_test && item.starts_with("mod tests {") {
            break;
        }
        is_test = line == "#[cfg(test)]";
        inner |= item.starts_with("mod ") && item.ends_with('{');
        inner &= line != "}";
        let visible = line
            .trim_start()
            .split_once("use ")
            .filter(|(before, _)| before.is_empty() || before.starts_with("pub") && !before.contains(['{', ';', '=']));
        if let Some((_, begun)) = visible
            && tree.is_none()
        {
            tree = Some(begun.to_owned());
        } else if let Some(tree) = &mut tree {
            tree.push_str(line);
        } else if !(inner && line.contains("super::")) {
            code.push_str(line);
            code.push('\n');
        }
        if let Some(whole) = tree.take_if(|tree| tree.contains(';'))
            && !(inner && whole.starts_with("super::"))
        {
            uses.push(whole.split(';').next().unwrap_or_default().to_owned());
        }
    }
    (uses, code)
}

/// The paths that a `use` tree names.
fn leaves(tree: &str) -> Vec<String> {
    let Some((head, rest)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    // A line of some text that begins with the word is no tree.
    let Some((inside, _)) = rest.rsplit_once('}') else { return Vec::new() };
    let (mut depth, mut parts) = (0_usize, vec![String::new()]);
    for c in inside.chars() {
        depth = if c == '{' { depth + 1 } else { depth - usize::from(c == '}') };
        if c == ',' && depth == 0 { parts.push(String::new()) } else { parts.last_mut().unwrap().push(c) }
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| leaves(part)).map(|leaf| format!("{}{leaf}", head.trim())).collect()
}

/// The paths in code that begin at the crate, here or above.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            // `pub(in crate::room)` opens a door and goes through none.
            let is_part = before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$'));
            if is_part || code[..at].ends_with("pub(in ") {
                continue;
            }
            let end = code[at..].find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':')));
            found.push(code[at..end.map_or(code.len(), |end| at + end)].trim_end_matches(':').to_owned());
        }
    }
    found
}
