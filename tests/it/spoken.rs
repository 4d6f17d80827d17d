//! A dialect is one file and one row: no other room asks which dialect it is, or who the provider is.

use std::fs;
use std::path::{Path, PathBuf};

use batchline::dialect::DIALECTS;
use batchline::dialect::providers::PROVIDERS;

/// What a line of code has in it that decides by a dialect, or by a name of one or of a provider; `None` for one that
/// does not.
fn decision(line: &str, names: &[&str]) -> Option<String> {
    let code = line.split("//").next().unwrap_or_default();
    let spaceless: String = code.split_whitespace().collect();
    let decides = |text: &str| spaceless.contains(text).then(|| text.to_owned());
    let compared = |what: &str| {
        [format!("=={what}"), format!("!={what}"), format!("{what}=="), format!("{what}!="), format!("({what})=>")]
            .into_iter()
            .chain([format!("{what}=>"), format!("contains(&{what}")])
            .find_map(|text| decides(&text))
    };
    // The dialect itself, or what it is called; not what it says.
    let subjects = ["dialect{", "dialect(){", "dialect.name(){"];
    let on_names = || names.iter().find_map(|name| compared(&format!("{name:?}")));
    let on_fields = || {
        let fields = ["dialect.name()==", "dialect.name()!=", "provider.name==", "provider.name!=", "row.name=="];
        // The table of surfaces is where the server finds its side, once.
        fields.iter().find_map(|field| decides(field)).filter(|_| !spaceless.contains("==dialect.name()"))
    };
    subjects
        .iter()
        .find(|subject| spaceless.contains("match") && spaceless.ends_with(**subject))
        .map(|subject| (*subject).to_owned())
        .or_else(|| ["TOGETHER", "OPENAI"].iter().find_map(|constant| compared(constant)))
        .or_else(on_names)
        .or_else(on_fields)
}

#[test]
fn no_room_decides_by_a_dialect_or_by_a_providers_name() {
    let mut names: Vec<&str> = DIALECTS.iter().map(|dialect| dialect.name()).collect();
    names.extend(PROVIDERS.iter().map(|row| row.name));
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut found) = (Vec::new(), Vec::new());
    collect(&src, &mut files);
    assert!(files.len() > 100, "the sources are here");
    for file in files.iter().filter(|file| !file.starts_with(src.join("dialect"))) {
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (number, line) in (1..).zip(code.lines()) {
            found.extend(decision(line, &names).map(|what| format!("{}:{number}: {what}", file.display())));
        }
    }
    assert_eq!(found, Vec::<String>::new(), "ask the dialect or the row instead");
}

#[test]
fn decisions_are_found() {
    let names = ["together", "local"];
    for line in [
        "    match self.dialect {",
        "match provider.dialect() {",
        "if dialect == OPENAI {",
        "if *dialect != TOGETHER {",
        "    TOGETHER => 1,",
        r#"if provider.name == "local" {"#,
        r#"    "together" => 2,"#,
        "if row.name == LOCAL {",
        r#"if dialect.name() == "x" {"#,
        r#"if ["x"].contains(&TOGETHER.name()) {"#,
    ] {
        assert!(decision(line, &names).is_some(), "{line}");
    }
    for line in [
        "// match self.dialect {",
        "match provider.dialect.upload() {",
        "surface.dialect().name() == dialect.name()",
        r#"Token::new("local")"#,
        "dialect: TOGETHER,",
    ] {
        assert_eq!(decision(line, &names), None, "{line}");
    }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // The server's own tests say what each dialect must show.
            if !path.ends_with("serve/tests") {
                collect(&path, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
